//! One layer becomes one EROFS image.
//!
//! [`build_tar`] and [`take_native`] decode the layer and write the image to a file that nobody looks at yet. What
//! becomes of that file is another step: [`Built::seal`] puts it into a content store, under a digest that is computed
//! then; [`layer`] puts it into the directory of a snapshot, where nobody needs its digest.

pub mod fsverity;
pub mod layer;
mod lower;
mod native;
mod seal;
pub mod sidecar;
#[cfg(test)]
mod tests;
pub mod verity;

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use erolith_mkfs::build::{Builder, Finish, Options, Summary};
use erolith_mkfs::check;
use erolith_mkfs::io::{FileSink, Input, ReadAt};
use erolith_mkfs::tar::Limits;
use erolith_mkfs::tree::Lower;

use crate::content::Staging;
use crate::decode::{Decoded, LayerStream, Request};
use crate::{Digest, Error, Result};

use lower::LowerImage;
pub use lower::Lowers;
pub use seal::{Output, Protect, Sealed};
pub(crate) use seal::{copy_blob, verify};

/// UUID of the image of the layer with this diffID, the one that containerd's differ gives: version 5 in the
/// namespace of URLs, of `erofs:blobs/` and the digest.
#[must_use]
pub fn image_uuid(diff_id: &Digest) -> [u8; 16] {
    let name = format!("erofs:blobs/{diff_id}");
    *uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes()).as_bytes()
}

/// How long the parts of a conversion took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// The blob was read, decoded and verified, and content was written on the way.
    pub read: Duration,
    /// The metadata of the image were planned and written; or an image that came as a stream was checked.
    pub build: Duration,
    /// The image was synced and named, and its directory synced.
    pub publish: Duration,
}

/// An image that is written and not yet published.
#[derive(Debug)]
pub struct Built<S> {
    /// The file it is in.
    pub(crate) staging: S,
    /// What the layer's blob was.
    pub source: Decoded,
    /// What was built; `None` for a layer that was an image already.
    pub summary: Option<Summary>,
    /// Does the image depend on the layers below? It takes attributes of directories from them that it does not
    /// describe itself.
    pub inherits: bool,
    /// How long it took.
    pub times: Times,
}

/// Decodes a tar layer into an image in `staging`, which must be empty.
///
/// # Errors
/// Everything that can be wrong with the blob or the archive, and what the storage reports. Nothing is published.
pub fn build_tar<S: Staging>(
    staging: S,
    blob: impl Read + Send + 'static,
    request: Request,
    options: Options,
    lowers: &dyn Lowers,
) -> Result<Built<S>> {
    let start = Instant::now();
    let mut stream = LayerStream::open(blob, request)?;
    let file = staging.file().try_clone().map_err(Error::io("duplicating a descriptor"))?;
    let sink = FileSink::new(file, staging.scratch_dir()?);
    let base = options.layer.base;
    let mut builder = Builder::new(sink, options)?;
    if let Err(error) = builder.fill_from_tar(&mut stream, Limits::default()) {
        return Err(stream.take_error().unwrap_or(error.into()));
    }
    let source = stream.finish()?;
    let read = start.elapsed();
    let inherits = !base && builder.tree().has_implicit_dirs();
    if inherits {
        let images = lowers.images()?;
        let images = images.into_iter().map(LowerImage::open).collect::<Result<Vec<_>>>()?;
        let lowers: Vec<&dyn Lower> = images.iter().map(|image| image as &dyn Lower).collect();
        builder.inherit(&lowers);
        images.iter().try_for_each(LowerImage::result)?;
    }
    let uuid = source.diff_id.as_ref().map(image_uuid).unwrap_or_default();
    let finish = Finish { uuid, ..Finish::default() };
    let (_, summary) = builder.finish(&finish)?;
    let times = Times { read, build: start.elapsed().saturating_sub(read), ..Times::default() };
    Ok(Built { staging, source, summary: Some(summary), inherits, times })
}

/// Takes a layer that is an EROFS image as it is, once it has been checked: no kernel sees an image before that.
///
/// The bytes that are checked are the copy that is published, so nobody can change them in between.
///
/// # Errors
/// [`Error::BadImage`], everything that can be wrong with the blob, and what the storage reports.
pub fn take_native<S: Staging>(
    staging: S,
    blob: impl Read + Send + 'static,
    request: Request,
) -> Result<Built<S>> {
    let start = Instant::now();
    let mut stream = LayerStream::open(blob, request)?;
    if let Err(error) = copy_all(&mut stream, staging.file()) {
        return Err(stream.take_error().unwrap_or_else(|| Error::io("copying an image")(error)));
    }
    let source = stream.finish()?;
    let read = start.elapsed();
    check_image(staging.file())?;
    let times = Times { read, build: start.elapsed().saturating_sub(read), ..Times::default() };
    Ok(Built { staging, source, summary: None, inherits: false, times })
}

/// Writes the blocks of the decoder as they are.
fn copy_all(stream: &mut LayerStream, mut file: &File) -> std::io::Result<()> {
    loop {
        let part = stream.fill()?;
        if part.is_empty() {
            return Ok(());
        }
        file.write_all(part)?;
        let n = part.len();
        stream.consume(n);
    }
}

/// Refuses an image that no kernel should see.
fn check_image(image: &dyn ReadAt) -> Result<()> {
    let report = check::check(image, &[], &check::Limits::default());
    let report = report.map_err(Error::io("checking an image"))?;
    let Some(finding) = report.errors().next() else { return Ok(()) };
    Err(Error::BadImage {
        code: finding.code(),
        reason: finding.corruption.to_string(),
        path: String::from_utf8_lossy(&finding.path).into_owned(),
    })
}
