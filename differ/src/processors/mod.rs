//! Layers that another program has to transform first: encrypted ones, above all. A stream processor is a program that
//! the user configured, with containerd's protocol (`core/diff/stream_unix.go`): it reads the layer from
//! standard input and writes the result to standard output. `STREAM_PROCESSOR_MEDIATYPE` is the media type of its input; what
//! the request carries for it can be read from descriptor 3. Its failure is a failure of the layer.

mod feed;
mod process;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use crate::decode::Cancel;
use crate::error::ProcessError;
use crate::{Digest, Error, LayerType, Result};

pub(crate) use process::Processed;

/// A program that turns layers of one media type into such of another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processor {
    /// Its name in the configuration; payloads of requests are meant for a name.
    pub id: String,
    /// The media types it takes.
    pub accepts: Vec<String>,
    /// The media type it makes.
    pub returns: String,
    /// The program: a path, or a name to be found in `PATH`.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// What is added to its environment, as `NAME=VALUE`.
    pub env: Vec<String>,
}

/// What a request carries for processors, by their [`Processor::id`]: an encoded `google.protobuf.Any`.
pub type Payloads = BTreeMap<String, Vec<u8>>;

/// One processor of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessorStep<'a> {
    pub(crate) processor: &'a Processor,
    /// The media type of its input.
    pub(crate) takes: &'a str,
}

/// The processors that a layer of `media_type` goes through, and its media type behind them, which is one that is
/// understood. The user's processors come first: one may stand in for a decoder that is there.
///
/// # Errors
/// [`crate::error::LayerError::UnsupportedMediaType`], [`crate::error::ProcessError::ProcessorLoop`].
pub(crate) fn plan<'a>(
    processors: &'a [Processor],
    media_type: &'a str,
) -> Result<(Vec<ProcessorStep<'a>>, &'a str)> {
    let (mut steps, mut at) = (Vec::new(), media_type);
    let mut seen = BTreeSet::new();
    while let Some(processor) = processors.iter().find(|p| p.accepts.iter().any(|t| t == at)) {
        if !seen.insert(at) {
            return Err(Error::Process(ProcessError::ProcessorLoop { media_type: at.to_owned() }));
        }
        steps.push(ProcessorStep { processor, takes: at });
        at = &processor.returns;
    }
    LayerType::parse(at)?;
    Ok((steps, at))
}

/// A blob that is verified before it counts.
pub(crate) struct ProcessorInput {
    pub(crate) source: Box<dyn Read + Send>,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) cancel: Cancel,
}
