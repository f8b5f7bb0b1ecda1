//! A stored blob that is an image already comes into the directory of a snapshot, without being copied where that can
//! be.
//!
//! A raw image is its own decoded form, so its digest is its diffID.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use erolith_mkfs::io::copy_range;
use erolith_mkfs::protect::Protected;
use erolith_verity::dmverity::DmVerityTree;
use rustix::io::Errno;

use super::layer::{ApplyMethod, LayerSpec, Options, Share, Trust, protect_of, staging};
use super::output::hash_all;
use super::{Protect, dm_verity, sidecar};
use crate::content::{Blob, Staging as _};
use crate::publish::PublishTarget;
use crate::{Error, Result};

/// Bytes copied between two checks for cancellation.
const PIECE: u64 = 64 << 20;

/// Is the expected diffID in the algorithm of the blob's digest? Then nothing but that digest has to be computed.
pub(super) fn is_named_by_its_diff_id(layer: &LayerSpec) -> bool {
    layer.diff_id.as_ref().is_none_or(|diff_id| diff_id.algorithm() == layer.digest.algorithm())
}

/// Makes the image in `blob` the file `target`, verified. Returns how, and the hash tree it has.
///
/// # Errors
/// [`Error::BlobSize`], [`Error::BlobDigest`], [`Error::DiffId`], [`Error::BadImage`], [`Error::FsVerity`], [`Error::Verity`],
/// [`Error::Cancelled`], and what the storage reports.
pub(super) fn take(
    blob: &Blob,
    layer: &LayerSpec,
    target: &Path,
    options: &Options,
) -> Result<(ApplyMethod, Option<DmVerityTree>)> {
    if blob.len() != layer.size {
        let (digest, expected) = (layer.digest.clone(), layer.size);
        return Err(Error::BlobSize { digest, expected, actual: blob.len() });
    }
    if let Some(expected) = layer.diff_id.clone().filter(|expected| *expected != layer.digest) {
        return Err(Error::DiffId { expected, actual: layer.digest.clone() });
    }
    let protect = protect_of(layer, options, ApplyMethod::Copied);
    // Nothing can be appended to an inode that is the store's.
    if options.share == Share::Link
        && !protect.may_grow()
        && let Some(file) = whole_file(blob)?
        && link(file, blob, layer, target, options)?
    {
        return Ok((ApplyMethod::Linked, protect.promised));
    }
    let staging = staging(target, options.durability, layer.size)?;
    let how = match whole_file(blob)? {
        Some(file) if options.share != Share::Never && reflink(file, staging.file())? => {
            ApplyMethod::Reflinked
        }
        _ => {
            copy(blob, staging.file(), options)?;
            ApplyMethod::Copied
        }
    };
    // What is verified is what is published: no other process can change it any more.
    let size = staging.file().metadata().map_err(Error::io("examining an image"))?.len();
    verify(&Blob::new(Arc::new(clone(staging.file())?), 0, size), layer, options)?;
    let Protected { digest, verity } =
        dm_verity::protect(staging.file(), &protect, None, &options.cancel)?;
    options.cancel.check()?;
    sidecar::publish(target, verity.as_ref(), layer.signature.as_ref(), options.durability)?;
    staging.publish_protected(options.durability, options.seal.as_deref(), digest)?;
    Ok((how, verity))
}

fn clone(file: &File) -> Result<File> {
    file.try_clone().map_err(Error::io("duplicating a descriptor"))
}

/// The file, if the blob is all of it.
fn whole_file(blob: &Blob) -> Result<Option<&File>> {
    let (file, offset) = blob.file();
    let meta = file.metadata().map_err(Error::io("examining a blob"))?;
    Ok((offset == 0 && meta.is_file() && meta.len() == blob.len()).then_some(&**file))
}

/// Gives the blob's inode the name `target` too. False: it cannot have it there.
fn link(
    file: &File,
    blob: &Blob,
    layer: &LayerSpec,
    target: &Path,
    options: &Options,
) -> Result<bool> {
    let place = PublishTarget::new(target)?;
    let there = rustix::fs::fstat(place.dir()).map_err(|e| failed("examining a directory", e))?;
    let meta = file.metadata().map_err(Error::io("examining a blob"))?;
    if there.st_dev != meta.dev() || meta.nlink() == 0 {
        return Ok(false);
    }
    verify(blob, layer, options)?;
    let protect = Protect { is_wanted: false, ..protect_of(layer, options, ApplyMethod::Linked) };
    let Protected { verity, .. } = dm_verity::protect(file, &protect, None, &options.cancel)?;
    options.cancel.check()?;
    sidecar::publish(target, verity.as_ref(), layer.signature.as_ref(), options.durability)?;
    match place.link(clone(file)?, options.durability) {
        Ok(()) => Ok(true),
        Err(Error::Io { source, .. }) if cannot_link(&source) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Another mount or project of the same filesystem, a filesystem without hard links, too many of them, a blob that
/// lost its last name since.
fn cannot_link(error: &std::io::Error) -> bool {
    let errnos = [Errno::XDEV, Errno::PERM, Errno::OPNOTSUPP, Errno::MLINK, Errno::NOENT];
    Errno::from_io_error(error).is_some_and(|e| errnos.contains(&e))
}

/// Makes `to` share all blocks of `from`. False: the filesystem cannot do that.
fn reflink(from: &File, to: &File) -> Result<bool> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(
            Errno::OPNOTSUPP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::NOTTY
            | Errno::NOSYS
            | Errno::PERM,
        ) => Ok(false),
        Err(e) => Err(failed("sharing blocks with a blob", e)),
    }
}

fn copy(blob: &Blob, to: &File, options: &Options) -> Result<()> {
    let (from, start) = blob.file();
    let from: BorrowedFd<'_> = from.as_fd();
    let mut done = 0;
    while done < blob.len() {
        options.cancel.check()?;
        let len = PIECE.min(blob.len() - done);
        copy_range(from, start + done, to, done, len).map_err(Error::io("copying a blob"))?;
        done += len;
    }
    Ok(())
}

/// Verifies the digest, unless the store vouches for it, and the structure of the image.
fn verify(blob: &Blob, layer: &LayerSpec, options: &Options) -> Result<()> {
    let told = &options.progress;
    match options.trust {
        Trust::Store => told.tell(blob.len()),
        Trust::Nothing => {
            let algorithm = layer.digest.algorithm();
            let actual = hash_all(blob, algorithm, &options.cancel, &mut |part| {
                told.tell(part.len() as u64);
                Ok(())
            })?;
            if actual != layer.digest {
                return Err(Error::BlobDigest { expected: layer.digest.clone(), actual });
            }
        }
    }
    options.room.check(blob, &options.cancel)
}

fn failed(action: &str, errno: Errno) -> Error {
    Error::io(action)(errno.into())
}
