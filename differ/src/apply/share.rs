//! The file of a stored blob becomes an image without a copy where that can be: as another name of its inode, or as an
//! inode over the same blocks.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;

use crate::content::{Blob, LocalBlob};
use crate::decode::Cancel;
use crate::publish::PublishTarget;
use crate::{Error, Result};

/// Bytes copied between two checks for cancellation.
const PIECE: u64 = 64 << 20;

/// The local file with a blob, if the blob is all of it.
pub(super) fn whole_file(blob: &Blob) -> Result<Option<&LocalBlob>> {
    let Some(local) = blob.local() else { return Ok(None) };
    let meta = local.file().metadata().map_err(Error::io("examining a blob"))?;
    let is_whole = local.offset() == 0 && meta.is_file() && meta.len() == blob.len();
    Ok(is_whole.then_some(local))
}

/// The place called `path`, if the inode of `file` may have a name there: on one filesystem, and not without a name.
pub(super) fn place_beside(file: &File, path: &Path) -> Result<Option<PublishTarget>> {
    let place = PublishTarget::new(path)?;
    let dir = rustix::fs::fstat(place.dir()).map_err(|e| failed("examining a directory", e))?;
    let meta = file.metadata().map_err(Error::io("examining a blob"))?;
    Ok((dir.st_dev == meta.dev() && meta.nlink() > 0).then_some(place))
}

/// Whether the inode cannot have the name that it was to get: another mount or project of the same filesystem, a filesystem
/// without hard links, too many of them, a blob that lost its last name since.
pub(super) fn cannot_link(error: &Error) -> bool {
    let errnos = [Errno::XDEV, Errno::PERM, Errno::OPNOTSUPP, Errno::MLINK, Errno::NOENT];
    let Error::Io { source, .. } = error else { return false };
    Errno::from_io_error(source).is_some_and(|e| errnos.contains(&e))
}

/// Makes `to` share all blocks of `from`. False: the filesystem cannot do that.
pub(super) fn reflink(from: &File, to: &File) -> Result<bool> {
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

/// Copies the blob to the empty file `to`.
pub(super) fn copy(blob: &Blob, to: &File, cancel: &Cancel) -> Result<()> {
    let mut done = 0;
    while done < blob.len() {
        cancel.check()?;
        let len = PIECE.min(blob.len() - done);
        blob.copy_to(done, len, to, done).map_err(Error::io("copying a blob"))?;
        done += len;
    }
    Ok(())
}

fn failed(action: &str, errno: Errno) -> Error {
    Error::io(action)(errno.into())
}
