//! Where everything of a tree is: a pure function of the block size and of where the tree begins.

use super::error::Error;

/// Bytes of a digest.
pub(super) use crate::blockhash::DIGEST;
/// log2 of the smallest block: a sector.
pub const MIN_BLOCK_BITS: u8 = 9;
/// log2 of the largest block that every kernel takes: a page.
pub const MAX_BLOCK_BITS: u8 = 12;

/// A run of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    /// Its first byte.
    pub(super) offset: u64,
    /// Its blocks.
    pub(super) blocks: u64,
}

/// A tree over the bytes in front of it.
///
/// The first block of the hash area is its superblock. The levels follow, the topmost, of one block, first. A block of
/// digests is one of data for the level above it. The root hash is the digest of the topmost block; of a single block
/// of data there are no levels, and its digest is the root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    pub(super) block_bits: u8,
    pub(super) data: Level,
    /// From the data up.
    pub(super) levels: Vec<Level>,
    end: u64,
}

impl Geometry {
    /// The tree at byte `hash_offset`, over all bytes before it.
    ///
    /// # Errors
    /// [`Error::Unfit`].
    pub fn new(hash_offset: u64, block_bits: u8) -> Result<Self, Error> {
        if !(MIN_BLOCK_BITS..=MAX_BLOCK_BITS).contains(&block_bits) {
            return Err(Error::Unfit("blocks of a dm-verity tree have 512 to 4096 bytes"));
        }
        let data = Level { offset: 0, blocks: hash_offset >> block_bits };
        if data.blocks == 0 || data.blocks << block_bits != hash_offset {
            return Err(Error::Unfit("a dm-verity tree begins at a multiple of its block size"));
        }
        if hash_offset > i64::MAX.unsigned_abs() / 2 {
            return Err(Error::Unfit("the image is too large for a dm-verity tree"));
        }
        let per_block = per_block(block_bits);
        let mut counts = Vec::new();
        let mut blocks = data.blocks;
        while blocks > 1 {
            blocks = blocks.div_ceil(per_block);
            counts.push(blocks);
        }
        // The superblock has the first block. Below 2^62 bytes of data nothing overflows: the tree is smaller than they.
        let mut end = hash_offset.saturating_add(1 << block_bits);
        let mut levels = Vec::with_capacity(counts.len());
        for blocks in counts.into_iter().rev() {
            levels.push(Level { offset: end, blocks });
            end = end.saturating_add(blocks << block_bits);
        }
        levels.reverse();
        Ok(Self { block_bits, data, levels, end })
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        1 << self.block_bits
    }

    /// Blocks that the tree covers.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        self.data.blocks
    }

    /// Where the superblock is: behind the data.
    #[must_use]
    pub fn hash_offset(&self) -> u64 {
        self.data.blocks << self.block_bits
    }

    /// The first byte behind the tree.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The block whose digest is the root hash.
    pub(super) fn top(&self) -> u64 {
        self.levels.last().unwrap_or(&self.data).offset
    }
}

/// Digests in a block.
pub(super) fn per_block(block_bits: u8) -> u64 {
    (1 << block_bits) / DIGEST as u64
}

/// log2 of the block size of the tree of an image: that of the image, because the device would refuse smaller reads, but
/// no more than a page.
#[must_use]
pub fn block_bits_for(image_block_bits: u8) -> u8 {
    image_block_bits.clamp(MIN_BLOCK_BITS, MAX_BLOCK_BITS)
}
