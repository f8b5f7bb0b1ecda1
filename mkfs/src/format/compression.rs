//! Compressed files: the map from bytes of a file to compressed clusters, in its three forms, and the configuration records
//! behind the superblock.
//!
//! A map begins with a [`MapHeader`] on the next multiple of 8 behind inode and xattrs. Behind it are [`FullIndex`]es, packs
//! of compact entries ([`CompactPack4`], [`CompactPack2`]), or [`ExtentRecord`]s.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Largest cluster of compressed bytes, in bytes: `Z_EROFS_PCLUSTER_MAX_SIZE`.
pub const PCLUSTER_MAX: u64 = 1 << 20;
/// Largest extent the kernel decodes, in bytes: `Z_EROFS_PCLUSTER_MAX_DSIZE`.
pub const DECODED_MAX: u64 = 12 << 20;
/// Smallest LZMA dictionary the kernel accepts, in bytes.
pub const LZMA_DICT_MIN: u32 = 4096;
/// Largest LZMA dictionary the kernel accepts, in bytes: `Z_EROFS_LZMA_MAX_DICT_SIZE`.
pub const LZMA_DICT_MAX: u32 = 8 << 20;
/// log2 of the smallest Zstandard window, to which a record adds.
pub const ZSTD_WINDOW_BASE: u8 = 10;
/// Most that a record adds to [`ZSTD_WINDOW_BASE`]: windows of 1 MiB.
pub const ZSTD_WINDOW_MAX: u8 = 10;
/// log2 of the smallest and of the largest deflate window.
pub const DEFLATE_WINDOW: std::ops::RangeInclusive<u8> = 8..=15;

/// Bits of [`MapHeader::advise`].
pub mod advise {
    /// Compact tables: some entries are 2 bytes (5.4).
    pub const COMPACTED_2B: u16 = 0x01;
    /// The same bit, for full tables: extent records follow instead (6.15).
    pub const EXTENTS: u16 = 0x01;
    /// Where [`EXTENTS`] is set: log2 of the size of a record, minus 2 (6.15).
    pub const EXTENT_SIZE_SHIFT: u32 = 1;
    /// The two bits of the size of a record (6.15).
    pub const EXTENT_SIZE_MASK: u16 = 0x06;
    /// Extents of the first algorithm may exceed one block (5.13).
    pub const BIG_1: u16 = 0x02;
    /// The same for the second algorithm and for stored extents (5.13).
    pub const BIG_2: u16 = 0x04;
    /// The last extent is behind the index table (5.17).
    pub const INLINE: u16 = 0x08;
    /// Stored extents are rotated within their block (6.1).
    pub const INTERLACED: u16 = 0x10;
    /// The last extent is in the packed inode (6.1).
    pub const FRAGMENT: u16 = 0x20;
}

/// Bits of [`MapHeader::cluster_bits`] that hold log2(lcluster size) - blkszbits.
pub const CLUSTER_BITS_MASK: u8 = 0x0F;
/// The bit of [`MapHeader::cluster_bits`] that says that the whole file is a fragment (6.1).
pub const WHOLE_FRAGMENT: u8 = 0x80;
/// Algorithm of the first heads, in [`MapHeader::algorithms`]; that of the second ones is above it (5.16).
pub const ALGORITHM_MASK: u8 = 0x0F;
/// Where the algorithm of the second heads begins.
pub const ALGORITHM_SHIFT: u32 = 4;

/// Bits of [`FullIndex::advise`].
pub mod index {
    /// The kind of the lcluster.
    pub const KIND_MASK: u16 = 0x03;
    /// An uncompressed extent begins.
    pub const PLAIN: u8 = 0;
    /// An extent of the first algorithm begins.
    pub const HEAD_1: u8 = 1;
    /// No extent begins.
    pub const NONHEAD: u8 = 2;
    /// An extent of the second algorithm begins (5.16).
    pub const HEAD_2: u8 = 3;
    /// The extent is a hole (7.2): `Z_EROFS_LI_HOLE`.
    pub const HOLE: u16 = 1 << 14;
    /// Only a prefix of what decodes belongs to the extent (6.1): `Z_EROFS_LI_PARTIAL_REF`.
    pub const PARTIAL: u16 = 1 << 15;
    /// In a distance: it is a count of compressed blocks instead (5.13), `Z_EROFS_LI_D0_CBLKCNT`. No blocks at all are a
    /// hole (7.2).
    pub const BLOCK_COUNT: u16 = 1 << 11;
}

/// Bits of [`ExtentRecord::plen`] (6.15).
pub mod plen {
    /// The number of encoded bytes.
    pub const LEN_MASK: u32 = 0x1F_FFFF;
    /// Only a prefix of what decodes is used.
    pub const PARTIAL: u32 = 1 << 27;
    /// Where the format is: 0 for stored, else an algorithm plus one.
    pub const FORMAT_SHIFT: u32 = 28;
    /// Every bit of the format.
    pub const FORMAT_MASK: u32 = 0xF << FORMAT_SHIFT;
}

/// A compression algorithm, numbered as on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// LZ4 blocks (5.4).
    Lz4 = 0,
    /// LZMA without its header (5.16).
    Lzma = 1,
    /// Raw deflate (6.6).
    Deflate = 2,
    /// Zstandard frames (6.10).
    Zstd = 3,
}

impl Algorithm {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Lz4, Self::Lzma, Self::Deflate, Self::Zstd];

    /// The algorithm of an on-disk number.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// The usual name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}

/// `struct z_erofs_map_header`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct MapHeader {
    /// The low half of the offset of a fragment; or the size of an inline extent in the upper 16 bits; or the low half of
    /// the number of extent records.
    pub low: U32,
    /// Bits of [`advise`](mod@advise).
    pub advise: U16,
    /// See [`ALGORITHM_MASK`]; with extent records a part of their number.
    pub algorithms: u8,
    /// See [`CLUSTER_BITS_MASK`] and [`WHOLE_FRAGMENT`]; with extent records a part of their number.
    pub cluster_bits: u8,
}

const _: () = assert!(size_of::<MapHeader>() == 8);

impl MapHeader {
    /// Bytes of the inline extent, with [`advise::INLINE`].
    #[must_use]
    pub fn inline_size(&self) -> u16 {
        let [_, _, low, high] = self.low.get().to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// The number of extent records, with [`advise::EXTENTS`] and records of more than 8 bytes.
    #[must_use]
    pub fn extents(&self) -> u64 {
        let high = u16::from_le_bytes([self.algorithms, self.cluster_bits]);
        u64::from(self.low.get()) | (u64::from(high) << 32)
    }

    /// Where in the packed inode the file is, if all of it is there: the other bits of the header, as one number.
    #[must_use]
    pub fn whole_fragment(&self) -> Option<u64> {
        let bits = u64::from_le_bytes(zerocopy::transmute!(*self));
        (self.cluster_bits & WHOLE_FRAGMENT != 0).then_some(bits & !(1 << 63))
    }
}

/// `struct z_erofs_lcluster_index`: one entry of a full table.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct FullIndex {
    /// Bits of [`index`](mod@index).
    pub advise: U16,
    /// Byte of the lcluster in which the extent begins.
    pub offset: U16,
    /// First block of a head; of others the lclusters back to the head, and above them those forward to the next one.
    pub u: U32,
}

const _: () = assert!(size_of::<FullIndex>() == 8);

impl FullIndex {
    /// What a table has before its first entry: `Z_EROFS_FULL_INDEX_START`, eight bytes behind the header.
    pub const RESERVED: u64 = 8;

    /// The two distances of an entry that is no head: back and forward.
    #[must_use]
    pub fn distances(&self) -> [u16; 2] {
        let [b0, b1, b2, b3] = self.u.get().to_le_bytes();
        [u16::from_le_bytes([b0, b1]), u16::from_le_bytes([b2, b3])]
    }
}

/// A pack of two compact entries of 4 bytes each, by their share (5.4).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CompactPack4 {
    /// The entries: low bits, and two bits of kind above them.
    pub entries: [u8; 4],
    /// The block that those of heads are counted from.
    pub base: U32,
}

const _: () = assert!(size_of::<CompactPack4>() == 8);

impl CompactPack4 {
    /// Entries of a pack.
    pub const SLOTS: usize = 2;
    /// Bytes of the pack for each of them.
    pub const SHARE: u64 = 4;
}

/// A pack of sixteen compact entries of 2 bytes each, by their share (5.4).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CompactPack2 {
    /// The entries: low bits, and two bits of kind above them.
    pub entries: [u8; 28],
    /// The block that those of heads are counted from.
    pub base: U32,
}

const _: () = assert!(size_of::<CompactPack2>() == 32);

impl CompactPack2 {
    /// Entries of a pack.
    pub const SLOTS: usize = 16;
    /// Bytes of the pack for each of them.
    pub const SHARE: u64 = 2;
}

/// log2 of the largest lcluster that compact entries of 4 bytes can count in.
pub const COMPACT_4B_CLUSTER_BITS: u8 = 14;
/// The same of entries of 2 bytes, which have 12 low bits.
pub const COMPACT_2B_CLUSTER_BITS: u8 = 12;

/// `struct z_erofs_extent` (6.15): one record. Tables hold the first 4, 8, 16 or 32 bytes of it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ExtentRecord {
    /// Bits of [`plen`](mod@plen).
    pub plen: U32,
    /// Low half of the byte address.
    pub pstart_lo: U32,
    /// High half of the byte address.
    pub pstart_hi: U32,
    /// Low half of the first byte in the file.
    pub lstart_lo: U32,
    /// High half of the first byte in the file.
    pub lstart_hi: U32,
    /// Zero.
    pub reserved: [u8; 12],
}

const _: () = assert!(size_of::<ExtentRecord>() == 32);

impl ExtentRecord {
    /// Bytes before records of 4 bytes: the address of the first extent.
    pub const BASE: u64 = 8;
    /// Bytes of the smallest record.
    pub const MIN_SIZE: u64 = 4;
    /// Bytes of the largest record that says nothing of where in the file its extent is: it is as long as an lcluster.
    pub const MAX_SHORT: u64 = 8;

    /// The byte address.
    #[must_use]
    pub fn address(&self) -> u64 {
        u64::from(self.pstart_lo.get()) | (u64::from(self.pstart_hi.get()) << 32)
    }

    /// The first byte in the file.
    #[must_use]
    pub fn start(&self) -> u64 {
        u64::from(self.lstart_lo.get()) | (u64::from(self.lstart_hi.get()) << 32)
    }
}

/// `struct z_erofs_lz4_cfgs` (5.13). Two bytes with its length stand before each configuration record.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Lz4Config {
    /// How far back a match may reach, in bytes.
    pub max_distance: U16,
    /// Largest cluster of compressed bytes, in blocks; 0 means 1.
    pub max_pcluster_blocks: U16,
    /// Zero.
    pub reserved: [u8; 10],
}

const _: () = assert!(size_of::<Lz4Config>() == 14);

/// `struct z_erofs_lzma_cfgs` (5.16).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LzmaConfig {
    /// Dictionary, in bytes.
    pub dict_size: U32,
    /// 0: MicroLZMA.
    pub format: U16,
    /// Zero.
    pub reserved: [u8; 8],
}

const _: () = assert!(size_of::<LzmaConfig>() == 14);

/// `struct z_erofs_deflate_cfgs` (6.6).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DeflateConfig {
    /// log2 of the window.
    pub window_bits: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

const _: () = assert!(size_of::<DeflateConfig>() == 6);

/// `struct z_erofs_zstd_cfgs` (6.10).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ZstdConfig {
    /// 0.
    pub format: u8,
    /// log2 of the window, minus [`ZSTD_WINDOW_BASE`].
    pub window_log: u8,
    /// Zero.
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<ZstdConfig>() == 6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_in_three_ways() {
        let header: MapHeader = zerocopy::transmute!([1_u8, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(header.inline_size(), 0x0403);
        assert_eq!(header.extents(), 0x0807_0403_0201);
        assert_eq!(header.whole_fragment(), None);
        let header: MapHeader = zerocopy::transmute!([1_u8, 0, 0, 0, 0, 0, 0, 0x80]);
        assert_eq!(header.whole_fragment(), Some(1));
    }
}
