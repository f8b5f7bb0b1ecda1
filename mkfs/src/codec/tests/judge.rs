//! Decoding one compressed extent, by the crate `erofs-rs`.
//!
//! The crate has no decoder of its own to call: it reads images. So each extent is handed to it as an image
//! that holds one file of one extent: a superblock, the parameters of one algorithm, an inode, one extent
//! record, and the compressed bytes. Nothing of the foreign image but those bytes reaches it.

use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use zerocopy::{FromZeros, IntoBytes};

use super::superblock::Super;
use crate::format::Algorithm;
use crate::format::compression::{DECODED_MAX, PCLUSTER_MAX};
use crate::format::{CompactInode, SUPER_MAGIC, SUPER_OFFSET, Superblock, incompat, mode};

/// Where the pieces of the little image are. Blocks have 512 bytes.
const CONFIG_AT: usize = 1024 + 128;
const INODE_AT: usize = 2048;
const HEADER_AT: usize = INODE_AT + 32;
/// Records are aligned to their size of 16 bytes.
const RECORD_AT: usize = HEADER_AT + 16;
const DATA_AT: usize = 2560;
const INODE_NID: u64 = INODE_AT as u64 / 32;

/// `h_advise` of a map of 16-byte extent records.
const ADVISE_RECORDS_16: u16 = 0x01 | (2 << 1);
/// Set in `plen` when the compressed bytes hold more than is wanted.
const PLEN_PARTIAL: u32 = 1 << 27;

/// Makes room for an extent of `len` compressed bytes; `None` when it is above the limit of 1 MiB.
/// The bytes go into the second part.
pub(super) fn buffer(len: u64) -> Option<Vec<u8>> {
    if len > PCLUSTER_MAX {
        return None;
    }
    Some(vec![0; DATA_AT.saturating_add(usize::try_from(len).ok()?)])
}

/// The part of a [`buffer`] that the compressed bytes go to.
pub(super) fn encoded(buffer: &mut [u8]) -> &mut [u8] {
    buffer.get_mut(DATA_AT..).unwrap_or_default()
}

/// Decodes the compressed bytes in `buffer` to exactly `len` bytes.
///
/// # Errors
/// What is wrong with the bytes, in words.
pub(super) fn decode(
    sb: &Super,
    mut buffer: Vec<u8>,
    algorithm: Algorithm,
    partial: bool,
    len: u64,
) -> Result<Vec<u8>, String> {
    let encoded = buffer.len().saturating_sub(DATA_AT) as u64;
    let out_len = usize::try_from(len).map_err(|e| e.to_string())?;
    if len > DECODED_MAX || encoded == 0 {
        return Err(format!("{encoded} bytes cannot become {len}"));
    }
    frame(sb, &mut buffer, algorithm, partial, len);
    let image = EroFS::new(SliceImage::new(&buffer)).map_err(|e| e.to_string())?;
    let inode = image.get_inode(INODE_NID).map_err(|e| e.to_string())?;
    let file = image.open_inode_file(inode).map_err(|e| e.to_string())?;
    let mut out = vec![0; out_len];
    let read = file.read_at(&mut out, 0).map_err(|e| e.to_string())?;
    if read != out_len {
        return Err(format!("{read} bytes decoded of {len}"));
    }
    Ok(out)
}

/// Writes everything around the compressed bytes.
fn frame(sb: &Super, image: &mut [u8], algorithm: Algorithm, partial: bool, len: u64) {
    let encoded = u32::try_from(image.len().saturating_sub(DATA_AT)).unwrap_or(0);
    let mut head = Superblock::new_zeroed();
    head.magic = SUPER_MAGIC.into();
    head.blkszbits = 9;
    let padding = sb.raw.feature_incompat.get() & incompat::ZERO_PADDING;
    head.feature_incompat = (padding | incompat::COMPR_CFGS | incompat::LAYOUT_48BIT).into();
    head.u1 = (1 << algorithm as u16).into();
    let mut inode = CompactInode::new_zeroed();
    inode.format = (1 << 1).into();
    inode.mode = (mode::IFREG | 0o400).into();
    inode.nb = 1.into();
    // Below 12 MiB.
    inode.size = u32::try_from(len).unwrap_or(0).into();

    put(image, usize::try_from(SUPER_OFFSET).unwrap_or(0), head.as_bytes());
    put(image, CONFIG_AT, &record(sb, algorithm));
    put(image, INODE_AT, inode.as_bytes());
    put(image, HEADER_AT, &1u32.to_le_bytes());
    put(image, HEADER_AT + 4, &ADVISE_RECORDS_16.to_le_bytes());
    let flags = if partial { PLEN_PARTIAL } else { 0 };
    let plen = encoded | flags | ((algorithm as u32).saturating_add(1) << 28);
    put(image, RECORD_AT, &plen.to_le_bytes());
    put(image, RECORD_AT + 4, &(DATA_AT as u64).to_le_bytes());
}

/// The configuration record of the algorithm, as the real image has it.
fn record(sb: &Super, algorithm: Algorithm) -> [u8; 16] {
    let mut record = [0; 16];
    let config = &sb.compression;
    match algorithm {
        Algorithm::Lz4 => put(&mut record, 0, &[14, 0, 0xFF, 0xFF, 1, 0]),
        Algorithm::Lzma => {
            put(&mut record, 0, &[14, 0]);
            put(&mut record, 2, &config.lzma_dict.to_le_bytes());
        }
        Algorithm::Deflate => put(&mut record, 0, &[6, 0, 15]),
        Algorithm::Zstd => put(&mut record, 0, &[6, 0, 0, config.zstd_window]),
    }
    record
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    let to = image.get_mut(at..).unwrap_or_default();
    for (to, from) in to.iter_mut().zip(bytes) {
        *to = *from;
    }
}
