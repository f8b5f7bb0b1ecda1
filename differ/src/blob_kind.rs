//! What the first bytes of a blob say it is. They are believed, the media type is not: images from before media
//! types had suffixes call gzip tar. But they must be one of the things that a layer can be.
//!
//! This is the only module that knows how each format begins.

use std::io;

use erolith_mkfs::format::{SUPER_MAGIC, SUPER_OFFSET};
use erolith_mkfs::io::ReadAt;
use erolith_mkfs::tar;

use crate::error::LayerError;
use crate::{Compression, Error, LayerType, Result};

/// How every member of a gzip stream begins (RFC 1952, section 2.3.1).
pub(crate) const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Where the magic of an image is.
#[allow(clippy::cast_possible_truncation, reason = "1024")]
const EROFS_MAGIC_AT: usize = SUPER_OFFSET as usize;
const EROFS_MAGIC: [u8; 4] = SUPER_MAGIC.to_le_bytes();

/// What a blob is found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    /// No bytes.
    Empty,
    /// A gzip stream.
    Gzip,
    /// A zstd stream.
    Zstd,
    /// An archive that is not compressed.
    Tar,
    /// An image that is not compressed.
    Erofs,
    /// A format with a name that layers must not have.
    Foreign(&'static str),
    /// None of these.
    Unknown,
}

impl BlobKind {
    /// How many bytes of a blob say what it is.
    pub const PREFIX: usize = EROFS_MAGIC_AT + EROFS_MAGIC.len();

    /// The kind of a blob that begins with `prefix`: all of it when it is shorter than [`BlobKind::PREFIX`].
    #[must_use]
    pub fn of(prefix: &[u8]) -> Self {
        match prefix {
            [] => Self::Empty,
            _ if prefix.starts_with(&GZIP_MAGIC) => Self::Gzip,
            // A frame, or a skippable frame before it (RFC 8878 section 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Foreign("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Foreign("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Foreign("lz4"),
            _ if prefix.get(EROFS_MAGIC_AT..Self::PREFIX) == Some(&EROFS_MAGIC) => Self::Erofs,
            _ if is_tar(prefix) => Self::Tar,
            _ => Self::Unknown,
        }
    }

    /// The kind of the blob that `source` has.
    ///
    /// # Errors
    /// What the storage reports.
    pub fn read(source: &dyn ReadAt) -> io::Result<Self> {
        let mut prefix = [0; Self::PREFIX];
        let mut len = 0;
        while let Some(rest) = prefix.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match source.read_at(rest, len as u64) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Self::of(prefix.get(..len).unwrap_or_default()))
    }

    /// Whether it is a stream that is decompressed before it is read.
    #[must_use]
    pub fn is_compressed(self) -> bool {
        matches!(self, Self::Gzip | Self::Zstd)
    }
}

/// A header whose checksum is right, or the zeros that end an archive without members. No magic: the oldest form
/// has none.
fn is_tar(prefix: &[u8]) -> bool {
    let block = prefix.get(..tar::BLOCK.min(prefix.len())).unwrap_or_default();
    block.iter().all(|b| *b == 0) || tar::is_header(block)
}

/// How a blob that begins with `prefix` (all of it when shorter than [`BlobKind::PREFIX`]) is to be decoded. With no layer type
/// anything a layer may be is taken.
///
/// # Errors
/// [`crate::error::LayerError::UnsupportedCompression`], [`crate::error::LayerError::NotALayer`].
pub(crate) fn compression(prefix: &[u8], declared: Option<LayerType>) -> Result<Compression> {
    let wrong = |declared| Err(Error::Layer(LayerError::NotALayer { declared }));
    match (BlobKind::of(prefix), declared) {
        (BlobKind::Foreign(found), _) => {
            Err(Error::Layer(LayerError::UnsupportedCompression { found }))
        }
        (BlobKind::Gzip, Some(LayerType::Erofs { .. })) => wrong("EROFS"),
        (BlobKind::Gzip, _) => Ok(Compression::Gzip),
        (BlobKind::Zstd, Some(LayerType::Erofs { compression: Compression::None })) => {
            wrong("EROFS")
        }
        (BlobKind::Zstd, _) => Ok(Compression::Zstd),
        (BlobKind::Erofs, Some(LayerType::Erofs { compression: Compression::None }) | None) => {
            Ok(Compression::None)
        }
        (_, Some(LayerType::Erofs { compression: Compression::Zstd })) => wrong("EROFS in zstd"),
        (_, Some(LayerType::Erofs { .. })) => wrong("EROFS"),
        // containerd and Docker take an empty blob for an empty tar, whatever it is called.
        (BlobKind::Tar | BlobKind::Empty, _) => Ok(Compression::None),
        (BlobKind::Erofs, _) => wrong("tar"),
        (BlobKind::Unknown, Some(LayerType::Tar { compression, .. })) => match compression {
            Compression::None => wrong("tar"),
            Compression::Gzip => wrong("gzip"),
            Compression::Zstd => wrong("zstd"),
        },
        (BlobKind::Unknown, None) => wrong("a layer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(compression: Compression) -> Option<LayerType> {
        Some(LayerType::Tar { compression, nondistributable: false })
    }

    fn erofs(compression: Compression) -> Option<LayerType> {
        Some(LayerType::Erofs { compression })
    }

    fn erofs_image() -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[EROFS_MAGIC_AT..EROFS_MAGIC_AT + 4].copy_from_slice(&EROFS_MAGIC);
        image
    }

    fn v7_header() -> Vec<u8> {
        let mut block = vec![0; 512];
        block[..5].copy_from_slice(b"hello");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        block[154] = 0;
        block
    }

    #[test]
    fn z10_the_bytes_decide_and_must_be_something_a_layer_can_be() {
        use Compression::{Gzip, None as Plain, Zstd};
        let gzip: &[u8] = &[0x1f, 0x8b, 8, 0];
        let zstd: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
        let skippable: &[u8] = &[0x5c, 0x2a, 0x4d, 0x18];
        let (zeros, v7, image) = (vec![0; 1024], v7_header(), erofs_image());
        let garbage = b"this is not a layer".repeat(60);
        for (prefix, declared, expect) in [
            (gzip, tar(Plain), Ok(Gzip)),
            (gzip, tar(Zstd), Ok(Gzip)),
            (gzip, None, Ok(Gzip)),
            (zstd, tar(Gzip), Ok(Zstd)),
            (skippable, tar(Zstd), Ok(Zstd)),
            (&zeros, tar(Gzip), Ok(Plain)),
            (&v7, tar(Gzip), Ok(Plain)),
            (&v7, None, Ok(Plain)),
            (b"", tar(Plain), Ok(Plain)),
            (b"", tar(Gzip), Ok(Plain)),
            (b"", tar(Zstd), Ok(Plain)),
            (b"", None, Ok(Plain)),
            (b"", erofs(Plain), Err("layer-wrong-magic")),
            (b"", erofs(Zstd), Err("layer-wrong-magic")),
            (&garbage, tar(Plain), Err("layer-wrong-magic")),
            (&garbage, tar(Gzip), Err("layer-wrong-magic")),
            (&garbage, None, Err("layer-wrong-magic")),
            (&image, erofs(Plain), Ok(Plain)),
            (&image, None, Ok(Plain)),
            (&image, tar(Plain), Err("layer-wrong-magic")),
            (&image, erofs(Zstd), Err("layer-wrong-magic")),
            (zstd, erofs(Zstd), Ok(Zstd)),
            (zstd, erofs(Plain), Err("layer-wrong-magic")),
            (gzip, erofs(Plain), Err("layer-wrong-magic")),
            (&v7, erofs(Plain), Err("layer-wrong-magic")),
        ] {
            let got = compression(prefix, declared).map_err(crate::testing::code);
            assert_eq!(got, expect, "{declared:?} {:?}", &prefix[..prefix.len().min(8)]);
        }
    }

    #[test]
    fn z15_other_compressions_are_named() {
        for (prefix, name) in
            [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh91AY", "bzip2"), (&[0x04, 0x22, 0x4d, 0x18], "lz4")]
        {
            let error = compression(prefix, tar(Compression::Gzip)).expect_err(name);
            assert_eq!(error.code(), "compression-unsupported");
            assert!(error.to_string().contains(name));
        }
    }
}
