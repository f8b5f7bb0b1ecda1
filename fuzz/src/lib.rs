//! What the fuzz targets share.

use erolith_mkfs::format::{SUPER_OFFSET, checksum};

/// The checksum of the superblock is in the way of every mutation of the first block, so make it right where
/// the block size says what it covers.
pub fn sealed(data: &[u8]) -> Vec<u8> {
    let start = SUPER_OFFSET as usize;
    let mut bytes = data.to_vec();
    let Some(&bits @ 9..=16) = bytes.get(start + 12) else { return bytes };
    let block = 1usize << bits;
    let end = if block > start { block } else { start + block };
    let Some(covered) = bytes.get_mut(start..end) else { return bytes };
    covered[4..8].fill(0);
    if let Some(sum) = checksum(covered) {
        covered[4..8].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}
