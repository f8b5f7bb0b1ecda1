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
mod gzip;
pub(crate) mod inflate;
mod pipeline;
mod stream;
mod watched;
mod zstd;

use std::fmt;

pub use budget::Budget;
pub use cancel::Cancel;
pub(crate) use cancel::Watch;
pub use inflate::inflater;
pub use stream::{Decoded, Digests, LayerStream, Request};
pub use watched::OnBytes;
pub(crate) use watched::Watched;

use crate::Result;

/// A compression that decoding can complain about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// What is wrong with a compressed stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// The first bytes belong to something else.
    #[error("it does not begin as such data do")]
    BadMagic,
    /// Bytes behind the last member or frame.
    #[error("trailing bytes that are no further member or frame")]
    TrailingGarbage,
    /// A member header that breaks the format.
    #[error("a damaged header")]
    BadHeader,
    /// Data that cannot be decoded.
    #[error("data that cannot be decoded")]
    BadData,
    /// The checksum does not match the decoded bytes.
    #[error("a wrong checksum")]
    BadChecksum,
    /// The length in the trailer does not match the decoded bytes.
    #[error("a wrong length in the trailer")]
    BadLength,
    /// The blob ends in the middle.
    #[error("the data end too early")]
    Truncated,
    /// A frame that needs a dictionary, which a layer cannot bring along.
    #[error("a frame that needs a dictionary")]
    NeedsDictionary,
    /// A frame that needs more memory than allowed.
    #[error("a frame with a window of more than 2^{allowed_log} bytes")]
    WindowTooLarge {
        /// The allowed window, as a power of two.
        allowed_log: u32,
    },
}

impl Defect {
    /// A stable name.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::BadMagic => "decode-bad-magic",
            Self::TrailingGarbage => "decode-trailing-garbage",
            Self::BadHeader => "decode-bad-header",
            Self::BadData => "decode-bad-data",
            Self::BadChecksum => "decode-bad-checksum",
            Self::BadLength => "decode-bad-length",
            Self::Truncated => "decode-truncated",
            Self::NeedsDictionary => "decode-needs-dictionary",
            Self::WindowTooLarge { .. } => "decode-window-too-large",
        }
    }
}

/// How far one [`Decoder::step`] went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes of input taken.
    pub(crate) used: usize,
    /// Bytes of output written.
    pub(crate) made: usize,
}

/// A decompressor that is fed.
pub(crate) trait Decoder: Send {
    /// Decodes from `input` to `out` until all input is taken and nothing more comes out of it, or `out` is full.
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step>;

    /// Called at the end of the blob: is this a place to end?
    fn end(&mut self) -> Result<()>;
}

#[cfg(test)]
mod tests;
