//! What the first bytes of a blob say it is. They are believed, the media type is not: images from before media
//! types had suffixes call gzip tar. But they must be one of the things that a layer can be.

use crate::{Compression, Error, LayerType, Result};

/// How many bytes of a blob are looked at.
pub(super) const PREFIX: usize = EROFS_MAGIC_AT + 4;

const TAR_BLOCK: usize = 512;
/// The superblock lies 1024 bytes into an image (`EROFS_SUPER_OFFSET`), its magic first.
const EROFS_MAGIC_AT: usize = 1024;
const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();

/// What a blob is found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlobKind {
    Empty,
    Gzip,
    Zstd,
    Tar,
    Erofs,
    /// Something with a name that layers must not be.
    Foreign(&'static str),
    Unknown,
}

fn sniff(prefix: &[u8]) -> BlobKind {
    match prefix {
        [] => BlobKind::Empty,
        [0x1f, 0x8b, ..] => BlobKind::Gzip,
        // A frame, or a skippable frame before it (RFC 8878 section 3.1.2).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => BlobKind::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => BlobKind::Foreign("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => BlobKind::Foreign("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => BlobKind::Foreign("lz4"),
        _ if prefix.get(EROFS_MAGIC_AT..EROFS_MAGIC_AT + 4) == Some(&EROFS_MAGIC) => {
            BlobKind::Erofs
        }
        _ if is_tar(prefix) => BlobKind::Tar,
        _ => BlobKind::Unknown,
    }
}

/// A header whose checksum is right, or the zeros that end an archive without members. No magic: the oldest form
/// has none.
fn is_tar(prefix: &[u8]) -> bool {
    let block = prefix.get(..TAR_BLOCK.min(prefix.len())).unwrap_or_default();
    if block.iter().all(|b| *b == 0) {
        return true;
    }
    let Some(field) = block.get(148..156) else { return false };
    let text: Vec<u8> = field.iter().copied().filter(|b| !matches!(b, b' ' | 0)).collect();
    let stored = std::str::from_utf8(&text).ok().and_then(|t| i64::from_str_radix(t, 8).ok());
    // The checksum counts its own field as spaces. Some writers summed signed characters.
    let sum = |value: fn(u8) -> i64| -> i64 {
        let byte = |(i, b): (usize, &u8)| if (148..156).contains(&i) { 32 } else { value(*b) };
        block.iter().enumerate().map(byte).sum()
    };
    block.len() == TAR_BLOCK
        && (stored == Some(sum(i64::from)) || stored == Some(sum(|b| i64::from(b.cast_signed()))))
}

/// How a blob that begins with `prefix` (all of it when shorter than [`PREFIX`]) is to be decoded. With no layer type
/// anything a layer may be is taken.
///
/// # Errors
/// [`Error::UnsupportedCompression`], [`Error::NotALayer`].
pub(super) fn compression(prefix: &[u8], declared: Option<LayerType>) -> Result<Compression> {
    let wrong = |declared| Err(Error::NotALayer { declared });
    match (sniff(prefix), declared) {
        (BlobKind::Foreign(found), _) => Err(Error::UnsupportedCompression { found }),
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
            let got = compression(prefix, declared).map_err(|e| e.code());
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
