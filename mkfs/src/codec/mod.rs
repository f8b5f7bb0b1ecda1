//! Compressed extents, each algorithm in a file of its own: bytes in, bytes out. What an image says of an extent goes in as
//! a [`Codec`] and a [`Share`]; nothing here knows where the bytes come from.
//!
//! A codec turns hostile bytes into exactly as many as are asked for, or into an error. Memory is that of the output, and of
//! the window that the image announces.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod deflate;
mod lz4;
mod lzma;
#[cfg(test)]
mod tests;
mod zstd;

use crate::format::compression::{DECODED_MAX, PCLUSTER_MAX};

/// An algorithm with what it has to know to decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// LZ4 blocks.
    Lz4 {
        /// Compressed bytes end at the end of their cluster, and zeros stand before them.
        is_padded: bool,
    },
    /// MicroLZMA.
    Lzma {
        /// Bytes of the dictionary.
        dict_size: u32,
    },
    /// Raw deflate.
    Deflate,
    /// One Zstandard frame.
    Zstd {
        /// Bytes of the largest window.
        window_size: u64,
    },
}

/// How much of what decodes belongs to an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// All of it: compressed bytes that are left over are an error.
    Whole,
    /// The first bytes.
    Prefix,
}

/// What is wrong with compressed bytes, in words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    /// They cannot be so many, or not become so many.
    #[error("{encoded} bytes cannot become {decoded}")]
    Size {
        /// Compressed bytes.
        encoded: u64,
        /// Bytes that are wanted.
        decoded: u64,
    },
    /// There is no memory for what they become.
    #[error("out of bounds: cannot allocate decoded extent")]
    Memory,
    /// They are not what the algorithm writes.
    #[error("corrupted data: {0}")]
    Corrupt(String),
}

impl CodecError {
    fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }
}

impl Codec {
    /// Decodes the bytes of a cluster to exactly `len` bytes.
    ///
    /// # Errors
    /// [`CodecError`].
    pub(crate) fn decode(
        self,
        cluster: &[u8],
        share: Share,
        len: u64,
    ) -> Result<Vec<u8>, CodecError> {
        let encoded = cluster.len() as u64;
        let bad = || CodecError::Size { encoded, decoded: len };
        if len > DECODED_MAX || encoded == 0 || encoded > PCLUSTER_MAX {
            return Err(bad());
        }
        let mut out = zeros(usize::try_from(len).map_err(|_| bad())?)?;
        let input = self.without_padding(cluster)?;
        match self {
            // What may be followed by zeros has no end of its own.
            Self::Lz4 { is_padded: false } => lz4::decode_prefix(input, &mut out),
            Self::Lz4 { .. } => lz4::decode(input, &mut out, share),
            Self::Lzma { dict_size } => lzma::decode(input, &mut out, share, dict_size),
            Self::Deflate => deflate::decode(input, &mut out, share),
            Self::Zstd { window_size } => zstd::decode(input, &mut out, share, window_size),
        }?;
        Ok(out)
    }

    /// The compressed bytes of a cluster. They end where it does; what is before them is zero.
    fn without_padding(self, cluster: &[u8]) -> Result<&[u8], CodecError> {
        if self == (Self::Lz4 { is_padded: false }) {
            return Ok(cluster);
        }
        let start = cluster.iter().position(|&byte| byte != 0);
        let input = start.and_then(|start| cluster.get(start..));
        input.ok_or_else(|| CodecError::corrupt("empty compressed cluster"))
    }
}

fn zeros(len: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| CodecError::Memory)?;
    out.resize(len, 0);
    Ok(out)
}
