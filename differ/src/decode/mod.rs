//! From the bytes of a blob to the bytes of a layer: bounded, hashed on both sides, verified.
//!
//! ```text
//! blob -> [reader: read, hash, count] -> [decoder: inflate] -> consumer (the caller's thread)
//!                                                        \--> [hasher: diffID]
//! ```
//!
//! Every stage is a thread of its own; blocks of fixed size go round between them and are never copied. Memory is
//! the blocks: a few MiB a layer, whatever its size.

mod block;
mod budget;
mod cancel;
mod defect;
mod gzip;
pub(crate) mod inflate;
mod pipeline;
mod stream;
mod watched;
mod zstd;

pub use budget::Budget;
pub use cancel::Cancel;
pub(crate) use cancel::CancelWatch;
pub use defect::{CompressedFormat, Defect};
pub use inflate::inflater;
pub use stream::{DecodedBlob, Digests, LayerStream, Request};
pub use watched::OnBytes;
pub(crate) use watched::WatchedReader;

use crate::Result;

/// How far one [`Decoder::step`] went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DecodeStep {
    /// Bytes of input taken.
    pub(crate) used: usize,
    /// Bytes of output written.
    pub(crate) made: usize,
}

/// A decompressor that is fed.
pub(crate) trait Decoder: Send {
    /// Decodes from `input` to `out` until all input is taken and nothing more comes out of it, or `out` is full.
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<DecodeStep>;

    /// Called at the end of the blob: is this a place to end?
    fn end(&mut self) -> Result<()>;
}

#[cfg(test)]
mod tests;
