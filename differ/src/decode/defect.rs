//! What can be wrong with compressed data.

use std::fmt;

/// A compression that decoding can complain about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressedFormat {
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl fmt::Display for CompressedFormat {
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
