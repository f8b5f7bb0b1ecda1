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

erolith_errors::error_codes! {
    Defect {
        Self::BadMagic => "decode-bad-magic", "it does not begin as such data do";
        Self::TrailingGarbage => "decode-trailing-garbage", "bytes behind the last member or frame";
        Self::BadHeader => "decode-bad-header", "a member header breaks the format";
        Self::BadData => "decode-bad-data", "data that cannot be decoded";
        Self::BadChecksum => "decode-bad-checksum", "the checksum is not that of the decoded bytes";
        Self::BadLength => "decode-bad-length", "the length is not that of the decoded bytes";
        Self::Truncated => "decode-truncated", "the blob ends in the middle";
        Self::NeedsDictionary => "decode-needs-dictionary", "a frame needs a dictionary";
        Self::WindowTooLarge { .. } => "decode-window-too-large", "a frame needs more memory than allowed";
    }
}
