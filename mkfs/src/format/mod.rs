//! The on-disk format: every structure declared once, little-endian, without behaviour besides getters.
//!
//! Illegal values stay representable, so that a checker can name them; meaning comes from `TryFrom` and
//! the small predicates beside each structure. Numbers follow the kernel's `fs/erofs/erofs_fs.h`.
//!
//! An image is a sequence of blocks of `1 << blkszbits` bytes. The superblock is at byte 1024 whatever
//! the block size. An inode with number `nid` is at byte `meta_blkaddr * block_size + 32 * nid`.

mod chunk;
pub mod compression;
mod dirent;
mod inode;
mod superblock;
mod xattr;

pub use chunk::{
    CHUNK_BITS_MASK, CHUNK_FORMAT_48BIT, CHUNK_FORMAT_INDEXES, ChunkIndex, DEVICE_SLOT_SIZE,
    DeviceSlot, HOLE_BLOCK, HOLE_BLOCK_48,
};
pub use compression::Algorithm;
pub use dirent::{Dirent, FileType, NAME_MAX};
pub use inode::{
    CompactInode, ExtendedInode, FORMAT_BIT4, Layout, SLOT_SIZE, decode_rdev, encode_rdev, mode,
};
pub use superblock::{
    EXTENSION_SLOT_SIZE, SUPER_MAGIC, SUPER_OFFSET, SuperExtension, Superblock, checksum, compat,
    incompat,
};
pub use xattr::{
    SHARED_ID_SIZE, XattrEntry, XattrHeader, filter_bit, ibody_size, icount, prefix_of, prefix_text,
};

/// log2 of the smallest block size the kernel accepts (512 bytes).
pub const MIN_BLOCK_BITS: u8 = 9;
/// log2 of the largest block size the kernel accepts, with 64 KiB pages.
pub const MAX_BLOCK_BITS: u8 = 16;
/// log2 of the block size every kernel since 5.4 mounts on 4 KiB pages; the default whatever the host.
pub const DEFAULT_BLOCK_BITS: u8 = 12;
