//! The superblock of a dm-verity hash tree, as veritysetup writes it.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of the superblock.
pub(super) const VERITY_SIGNATURE: [u8; 8] = *b"verity\0\0";

/// `struct verity_sb` of libcryptsetup (lib/verity/verity.c). It takes the first block of the hash area; the
/// kernel never reads it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(super) struct VeritySuper {
    /// [`VERITY_SIGNATURE`].
    pub(super) signature: [u8; 8],
    /// Version of the superblock: 1.
    pub(super) version: U32,
    /// 1: the salt goes before the data, digests are aligned to powers of two. 0: the form of Chrome OS.
    pub(super) hash_type: U32,
    /// UUID, in textual order.
    pub(super) uuid: [u8; 16],
    /// Name of the hash algorithm, padded with NUL.
    pub(super) algorithm: [u8; 32],
    /// Bytes of a block of data.
    pub(super) data_block_size: U32,
    /// Bytes of a block of digests.
    pub(super) hash_block_size: U32,
    /// Blocks of data that the tree covers.
    pub(super) data_blocks: U64,
    /// Bytes of the salt.
    pub(super) salt_size: U16,
    /// Zero.
    pub(super) pad1: [u8; 6],
    /// The salt, padded with zeros.
    pub(super) salt: [u8; 256],
    /// Zero.
    pub(super) pad2: [u8; 168],
}

const _: () = assert!(size_of::<VeritySuper>() == 512);
