//! The superblock: 128 bytes at offset 1024, followed by `16 * sb_extslots` bytes of extension.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Byte offset of the superblock, whatever the block size.
pub const SUPER_OFFSET: u64 = 1024;
/// The magic number, `EROFS_SUPER_MAGIC_V1`.
pub const SUPER_MAGIC: u32 = 0xE0F5_E1E2;

/// `feature_compat` bits: a kernel that does not know one ignores it.
pub mod compat {
    /// The superblock carries a checksum (5.5).
    pub const SB_CHKSUM: u32 = 0x01;
    /// Inode times are modification times.
    pub const MTIME: u32 = 0x02;
    /// `XattrHeader::name_filter` is filled (6.6).
    pub const XATTR_FILTER: u32 = 0x04;
    /// Shared xattrs live in the metabox inode (6.17).
    pub const SHARED_EA_IN_METABOX: u32 = 0x08;
    /// The long prefix table is plain on disk (6.17).
    pub const PLAIN_XATTR_PFX: u32 = 0x10;
    /// Inodes carry a fingerprint xattr for page cache sharing (7.0).
    pub const ISHARE_XATTRS: u32 = 0x20;
}

/// `feature_incompat` bits: a kernel that does not know one refuses the mount.
pub mod incompat {
    /// Compressed data is zero-padded at the front (5.4).
    pub const ZERO_PADDING: u32 = 0x001;
    /// Compression configuration records follow the superblock; pclusters may exceed a block (5.13).
    pub const COMPR_CFGS: u32 = 0x002;
    /// Some inode is chunk-based (5.15).
    pub const CHUNKED_FILE: u32 = 0x004;
    /// There is a device table, or a second compression algorithm (5.16).
    pub const DEVICE_TABLE: u32 = 0x008;
    /// Inline pclusters (5.17).
    pub const ZTAILPACKING: u32 = 0x010;
    /// Packed inode, partial references or interlaced pclusters (6.1).
    pub const FRAGMENTS: u32 = 0x020;
    /// Long xattr prefix table (6.4).
    pub const XATTR_PREFIXES: u32 = 0x040;
    /// 48-bit block addresses (6.15).
    pub const LAYOUT_48BIT: u32 = 0x080;
    /// Metadata inside a metabox inode (6.17).
    pub const METABOX: u32 = 0x100;
    /// Every bit defined today.
    pub const ALL: u32 = 0x1FF;
}

/// `struct erofs_super_block`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Superblock {
    /// [`SUPER_MAGIC`].
    pub magic: U32,
    /// See [`checksum`]; 0 unless [`compat::SB_CHKSUM`] is set.
    pub checksum: U32,
    /// Bits of [`compat`].
    pub feature_compat: U32,
    /// log2 of the block size.
    pub blkszbits: u8,
    /// The superblock is `128 + 16 * sb_extslots` bytes long.
    pub sb_extslots: u8,
    /// Root nid, or bits 32..48 of the block count when `rootnid_8b` is in use.
    pub rootnid_2b: U16,
    /// Number of inodes; informational.
    pub inos: U64,
    /// Seconds that compact inode times count from.
    pub epoch: I64,
    /// Nanoseconds of every compact inode time.
    pub fixed_nsec: U32,
    /// Low 32 bits of the number of blocks of the primary device.
    pub blocks_lo: U32,
    /// Block where nid 0 is.
    pub meta_blkaddr: U32,
    /// Block that shared xattr ids are relative to.
    pub xattr_blkaddr: U32,
    /// In textual order.
    pub uuid: [u8; 16],
    /// Padded with NUL; 15 bytes at most for kernels before 6.15.
    pub volume_name: [u8; 16],
    /// Bits of [`incompat`].
    pub feature_incompat: U32,
    /// Bitmap of algorithms when [`incompat::COMPR_CFGS`], else the LZ4 distance; 0 when nothing is compressed.
    pub u1: U16,
    /// Number of [`super::DeviceSlot`]s.
    pub extra_devices: U16,
    /// The device table is at byte `128 * devt_slotoff`.
    pub devt_slotoff: U16,
    /// Must be 0.
    pub dirblkbits: u8,
    /// Number of long xattr prefixes, 128 at most.
    pub xattr_prefix_count: u8,
    /// The long prefix table is at byte `4 * xattr_prefix_start`.
    pub xattr_prefix_start: U32,
    /// Inode of packed fragments, 0 for none.
    pub packed_nid: U64,
    /// The name filter is used only when this is 0.
    pub xattr_filter_reserved: u8,
    /// Index of the fingerprint prefix when [`compat::ISHARE_XATTRS`].
    pub ishare_xattr_prefix_id: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Seconds after `epoch` when the image was made, for 48-bit images.
    pub build_time: U32,
    /// Root nid of 48-bit images; 0 means `rootnid_2b`.
    pub rootnid_8b: U64,
    /// Zero.
    pub reserved2: [u8; 8],
}

const _: () = assert!(size_of::<Superblock>() == 128);

/// Bytes of one slot of the extension behind the superblock.
pub const EXTENSION_SLOT_SIZE: u64 = 16;

/// What the first slot of the extension begins with, in images with [`incompat::METABOX`] (6.17).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SuperExtension {
    /// The inode that holds other inodes.
    pub metabox_nid: U64,
}

const _: () = assert!(size_of::<SuperExtension>() == 8);

/// The checksum of a superblock: CRC-32C without the final inversion, over the bytes from 1024 to the end
/// of the first block (the whole `block_size` bytes when the block is not larger than 1 KiB), with the
/// checksum field taken as zero.
///
/// `tail` is that range. `None` when it is shorter than a superblock.
#[must_use]
pub fn checksum(tail: &[u8]) -> Option<u32> {
    let head = tail.get(..4)?;
    let rest = tail.get(8..)?;
    if tail.len() < size_of::<Superblock>() {
        return None;
    }
    let crc = crc32c::crc32c(head);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    Some(!crc32c::crc32c_append(crc, rest))
}

#[cfg(test)]
mod tests {
    #[test]
    fn checksum_of_magic_and_zero_field_matches_the_kernel_constant() {
        let crc = crc32c::crc32c(&[0xE2, 0xE1, 0xF5, 0xE0, 0, 0, 0, 0]);
        assert_eq!(!crc, 0x5045_B54A);
    }
}
