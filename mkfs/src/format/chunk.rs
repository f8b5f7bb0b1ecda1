//! Chunk-based files and extra devices.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bits of the chunk format that hold log2(chunk size) - blkszbits.
pub const CHUNK_BITS_MASK: u16 = 0x1F;
/// Entries are 8-byte [`ChunkIndex`]es, not 4-byte block numbers.
pub const CHUNK_FORMAT_INDEXES: u16 = 0x20;
/// Indexes hold 48-bit block addresses (6.15).
pub const CHUNK_FORMAT_48BIT: u16 = 0x40;
/// A block number that stands for a hole, in 32-bit forms.
pub const HOLE_BLOCK: u32 = u32::MAX;
/// A block number that stands for a hole, in 48-bit forms.
pub const HOLE_BLOCK_48: u64 = (1 << 48) - 1;

/// `struct erofs_inode_chunk_index`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ChunkIndex {
    /// Bits 32..48 of the block, with [`CHUNK_FORMAT_48BIT`]; else 0.
    pub startblk_hi: U16,
    /// 0 is the primary device, k the slot k - 1 of the device table.
    pub device_id: U16,
    /// Low 32 bits of the block.
    pub startblk_lo: U32,
}

const _: () = assert!(size_of::<ChunkIndex>() == 8);

/// `struct erofs_deviceslot`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DeviceSlot {
    /// Free text or a digest, padded with NUL.
    pub tag: [u8; 64],
    /// Size of the device in blocks, low 32 bits.
    pub blocks_lo: U32,
    /// Block where the device appears in the unified address space, low 32 bits; 0 for not mapped.
    pub uniaddr_lo: U32,
    /// Bits 32..48 of the size.
    pub blocks_hi: U16,
    /// Bits 32..48 of the unified address.
    pub uniaddr_hi: U16,
    /// Zero.
    pub reserved: [u8; 52],
}

/// Bytes of a device slot, and the unit of `devt_slotoff`.
pub const DEVICE_SLOT_SIZE: u64 = 128;

const _: () = assert!(size_of::<DeviceSlot>() as u64 == DEVICE_SLOT_SIZE);
