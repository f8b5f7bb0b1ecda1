//! Inodes: a compact form of 32 bytes and an extended form of 64, in slots of 32 bytes.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in an inode slot; nids count slots.
pub const SLOT_SIZE: u64 = 32;

/// Bit 4 of `i_format` (6.15): `NLINK_1` in compact inodes of non-directories, `DOT_OMITTED` in directories.
pub const FORMAT_BIT4: u16 = 0x10;

/// File type bits of `i_mode`, as Linux defines them.
pub mod mode {
    /// Mask of the file type.
    pub const IFMT: u16 = 0o170_000;
    /// Socket.
    pub const IFSOCK: u16 = 0o140_000;
    /// Symbolic link.
    pub const IFLNK: u16 = 0o120_000;
    /// Regular file.
    pub const IFREG: u16 = 0o100_000;
    /// Block device.
    pub const IFBLK: u16 = 0o060_000;
    /// Directory.
    pub const IFDIR: u16 = 0o040_000;
    /// Character device.
    pub const IFCHR: u16 = 0o020_000;
    /// FIFO.
    pub const IFIFO: u16 = 0o010_000;
}

/// How an inode's data is found: bits 1..4 of `i_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// Consecutive blocks.
    FlatPlain = 0,
    /// Compressed, full indexes (or extent records).
    CompressedFull = 1,
    /// Consecutive blocks, the last partial block behind the inode.
    FlatInline = 2,
    /// Compressed, compact indexes.
    CompressedCompact = 3,
    /// An array of chunk addresses behind the inode.
    ChunkBased = 4,
}

impl Layout {
    /// The layout in `i_format`; `Err` carries the undefined value.
    ///
    /// # Errors
    /// The layout number when it is above 4.
    pub fn from_format(format: u16) -> Result<Self, u16> {
        match (format >> 1) & 7 {
            0 => Ok(Self::FlatPlain),
            1 => Ok(Self::CompressedFull),
            2 => Ok(Self::FlatInline),
            3 => Ok(Self::CompressedCompact),
            4 => Ok(Self::ChunkBased),
            other => Err(other),
        }
    }

    /// The bits of `i_format` for this layout, in the compact form.
    #[must_use]
    pub fn format_bits(self) -> u16 {
        (self as u16) << 1
    }
}

/// `struct erofs_inode_compact`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CompactInode {
    /// Bit 0 clear; layout; see [`FORMAT_BIT4`].
    pub format: U16,
    /// Words of xattrs plus one, 0 for none: see [`super::icount`].
    pub xattr_icount: U16,
    /// Type and permissions.
    pub mode: U16,
    /// Link count, or high address bits with `NLINK_1`.
    pub nb: U16,
    /// Bytes.
    pub size: U32,
    /// Seconds after the superblock's epoch.
    pub mtime: U32,
    /// Start block, compressed blocks, device number or chunk format, by layout and type.
    pub u: U32,
    /// Serial number; informational.
    pub ino: U32,
    /// Owner.
    pub uid: U16,
    /// Group.
    pub gid: U16,
    /// Zero.
    pub reserved: U32,
}

const _: () = assert!(size_of::<CompactInode>() == 32);

/// `struct erofs_inode_extended`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ExtendedInode {
    /// Bit 0 set; layout; see [`FORMAT_BIT4`].
    pub format: U16,
    /// Words of xattrs plus one, 0 for none: see [`super::icount`].
    pub xattr_icount: U16,
    /// Type and permissions.
    pub mode: U16,
    /// Bits 32..48 of the start block.
    pub nb: U16,
    /// Bytes.
    pub size: U64,
    /// Start block, compressed blocks, device number or chunk format, by layout and type.
    pub u: U32,
    /// Serial number; informational.
    pub ino: U32,
    /// Owner.
    pub uid: U32,
    /// Group.
    pub gid: U32,
    /// Seconds since 1970, two's complement: times before 1970 are negative.
    pub mtime: U64,
    /// Nanoseconds, below 10^9.
    pub mtime_nsec: U32,
    /// Link count.
    pub nlink: U32,
    /// Zero.
    pub reserved: [u8; 16],
}

const _: () = assert!(size_of::<ExtendedInode>() == 64);

/// A device number as Linux' `new_encode_dev` stores it: 12 bits of major, 20 of minor.
/// `None` when either does not fit.
#[must_use]
pub fn encode_rdev(major: u32, minor: u32) -> Option<u32> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return None;
    }
    Some((minor & 0xFF) | (major << 8) | ((minor & !0xFF) << 12))
}

/// The (major, minor) of an encoded device number.
#[must_use]
pub fn decode_rdev(rdev: u32) -> (u32, u32) {
    ((rdev >> 8) & 0xFFF, (rdev & 0xFF) | ((rdev >> 12) & 0xF_FF00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rdev_round_trips_at_its_limits() {
        for (major, minor) in [(0, 0), (1, 3), (259, 70_000), (4095, 0xF_FFFF)] {
            assert_eq!(encode_rdev(major, minor).map(decode_rdev), Some((major, minor)));
        }
        assert_eq!(encode_rdev(259, 70_000), Some(0x1111_0370));
        assert_eq!(encode_rdev(4096, 0), None);
        assert_eq!(encode_rdev(0, 1 << 20), None);
    }
}
