//! The job on the bytes of one layer, and which process does it.
//!
//! Everything that reads untrusted bytes is in here: decompression, archives, the check of images, the attributes
//! of the layers below. [`Isolation`](super::Isolation) decides which process that is; the work itself is the same code in both.

use std::fmt;
use std::io::Read;
use std::time::Instant;

use erolith_mkfs::build::{Builder, Finish, Options, Summary};
use erolith_mkfs::check;
use erolith_mkfs::format::DEFAULT_BLOCK_BITS;
use erolith_mkfs::io::{FileSink, ReadAt, Sink as _, is_zero};
use erolith_mkfs::protect::{ProtectOptions, Protected};
use erolith_mkfs::tar::Limits;
use erolith_mkfs::tree::LowerTree;

use serde::{Deserialize, Serialize};

use super::parents::{LowerImage, ParentImages};
use super::{Times, dm_verity, image_uuid};
use crate::content::Blob;
use crate::decode::{DecodedBlob, LayerStream, OnBytes, Request};
use crate::error::LayerError;
use crate::{Error, Result};

/// Where the bytes of a layer come from.
pub enum LayerInput {
    /// A blob of a store: an image in a local file may be shared instead of copied.
    Stored(Blob),
    /// A stream.
    Stream(Box<dyn Read + Send>),
}

impl fmt::Debug for LayerInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(blob) => f.debug_tuple("Stored").field(blob).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl LayerInput {
    pub(crate) fn into_reader(self) -> Box<dyn Read + Send> {
        match self {
            Self::Stored(blob) => Box::new(blob.reader()),
            Self::Stream(stream) => stream,
        }
    }
}

/// What a layer is, and so what becomes of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Task {
    /// An archive: it is built into an image.
    Tar(Options),
    /// An image already: it is taken as it is, once it has been checked.
    Native,
}

/// A job on one layer.
#[derive(Debug)]
pub(crate) struct LayerJob {
    pub(crate) task: Task,
    pub(crate) source: LayerInput,
    /// Called with the number of bytes of `source` that were read.
    pub(crate) told: OnBytes,
    pub(crate) request: Request,
    /// What the image gets. One that is an image already gets no hash tree here.
    pub(crate) wanted: ProtectOptions,
}

/// The result, besides the bytes in the file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerJobResult {
    pub(crate) source: DecodedBlob,
    pub(crate) summary: Option<Summary>,
    pub(crate) inherits: bool,
    pub(crate) protected: Protected,
    pub(crate) times: Times,
}

/// Does the work, in this process.
pub(crate) fn convert(
    sink: FileSink,
    blob: impl Read + Send + 'static,
    request: Request,
    task: Task,
    wanted: ProtectOptions,
    lowers: &dyn ParentImages,
) -> Result<LayerJobResult> {
    let block_bits = match &task {
        Task::Tar(options) => options.block_bits,
        Task::Native => DEFAULT_BLOCK_BITS,
    };
    let begun = wanted.begin(sink, block_bits);
    let sink = begun.map_err(Error::io("duplicating a descriptor"))?;
    let cancel = request.cancel.clone();
    let (sink, mut outcome) = match task {
        Task::Tar(options) => build_tar(sink, blob, request, options, lowers)?,
        Task::Native => take_native(sink, blob, request)?,
    };
    let start = Instant::now();
    let protected = wanted.finish(&sink, &|| cancel.check().is_err());
    outcome.protected = protected.map_err(dm_verity::failed)?;
    outcome.times.build += start.elapsed();
    Ok(outcome)
}

/// Decodes a tar layer into an image.
fn build_tar(
    sink: FileSink,
    blob: impl Read + Send + 'static,
    request: Request,
    options: Options,
    lowers: &dyn ParentImages,
) -> Result<(FileSink, LayerJobResult)> {
    let start = Instant::now();
    let mut stream = LayerStream::open(blob, request)?;
    let base = options.layer.base;
    let mut builder = Builder::new(sink, options)?;
    if let Err(error) = builder.fill_from_tar(&mut stream, Limits::default()) {
        return Err(stream.explain(error.into()));
    }
    let source = stream.finish()?;
    let read = start.elapsed();
    let inherits = !base && builder.tree().has_implicit_dirs();
    if inherits {
        let images = lowers.images()?;
        let images = images.into_iter().map(LowerImage::open).collect::<Result<Vec<_>>>()?;
        let lowers: Vec<&dyn LowerTree> =
            images.iter().map(|image| image as &dyn LowerTree).collect();
        builder.inherit(&lowers);
        images.iter().try_for_each(LowerImage::result)?;
    }
    let uuid = source.diff_id.as_ref().map(image_uuid).unwrap_or_default();
    let finish = Finish { uuid, ..Finish::default() };
    let (sink, summary) = builder.finish(&finish)?;
    let times = Times { read, build: start.elapsed().saturating_sub(read), ..Times::default() };
    let (summary, protected) = (Some(summary), Protected::default());
    Ok((sink, LayerJobResult { source, summary, inherits, protected, times }))
}

/// Takes a layer that is an EROFS image as it is, once it has been checked: no kernel sees an image before that.
///
/// The bytes that are checked are the copy that is published, so nothing can change them in between.
fn take_native(
    sink: FileSink,
    blob: impl Read + Send + 'static,
    request: Request,
) -> Result<(FileSink, LayerJobResult)> {
    let start = Instant::now();
    let mut stream = LayerStream::open(blob, request)?;
    if let Err(error) = copy_all(&mut stream, &sink) {
        return Err(stream.explain(Error::io("copying an image")(error)));
    }
    let source = stream.finish()?;
    let read = start.elapsed();
    check_image(sink.file())?;
    let times = Times { read, build: start.elapsed().saturating_sub(read), ..Times::default() };
    let protected = Protected::default();
    Ok((sink, LayerJobResult { source, summary: None, inherits: false, protected, times }))
}

/// Writes the blocks of the decoder as they are. Zeros are not written: the file reads as zeros where nothing was, and takes
/// no room there.
fn copy_all(stream: &mut LayerStream, sink: &FileSink) -> std::io::Result<()> {
    use erolith_mkfs::io::Input as _;
    let mut at = 0;
    loop {
        let part = stream.fill()?;
        if part.is_empty() {
            return sink.set_len(at);
        }
        if !is_zero(part) {
            sink.write_at(part, at)?;
        }
        let n = part.len();
        at += n as u64;
        stream.consume(n);
    }
}

/// Refuses an image that no kernel should see, in this process.
pub(crate) fn check_image(image: &dyn ReadAt) -> Result<()> {
    let report = check::check(image, &[], &check::Limits::default());
    let report = report.map_err(Error::io("checking an image"))?;
    let Some(finding) = report.errors().next() else { return Ok(()) };
    Err(Error::Layer(LayerError::BadImage {
        code: finding.code().into(),
        reason: finding.corruption.to_string(),
        path: String::from_utf8_lossy(&finding.path).into_owned(),
    }))
}
