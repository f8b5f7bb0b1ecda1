//! dm-verity: a tree of digests behind an image, by which the kernel finds every changed block when it is read.
//!
//! The format is that of veritysetup, superblock included: SHA-256, hash type 1, one block size for data and digests,
//! and a salt of 32 zero bytes, so that the same image has the same tree. The tree covers every byte before it:
//!
//! ```text
//! | image, zeros up to a whole block | superblock | top level | ... | level 0: digests of the image |
//! 0                                  hash_offset  + 1 block
//! ```
//!
//! [`append`] writes one, [`verify`] judges one and names the first bad block, [`Header::read`] says what one is. All read a level of the tree after the other, a megabyte at a time on each of a few threads; a level is on disk when the
//! one above it is made of it.
#![deny(clippy::indexing_slicing)]

mod error;
mod geometry;
mod hash;
mod root;
pub mod sidecar;
mod signature;
mod superblock;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

pub use error::{BlockContents, Error};
pub use geometry::{Geometry, MAX_BLOCK_BITS, MIN_BLOCK_BITS, block_bits_for};
pub use root::RootHash;
pub use signature::Signature;

use crate::ReadAt;
use crate::blockhash::{BlockHash, Known};
use error::failed;
use geometry::DIGEST;
use hash::Hasher;
use superblock::{VERITY_SIGNATURE, VeritySuper};

/// Bytes of our salt, all zero: containerd's, too.
const SALT: usize = 32;
/// The only algorithm here.
const ALGORITHM: &[u8] = b"sha256";

/// Whether the work is cancelled.
pub type CancelCheck<'a> = dyn Fn() -> bool + Sync + 'a;

/// The parameters of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmVerityTree {
    /// The root hash.
    pub root: RootHash,
    /// Where the superblock of the tree is, in bytes: behind what the tree covers.
    pub hash_offset: u64,
    /// Bytes of a block.
    pub block_size: u32,
}

/// A tree that is there: what its superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    geometry: Geometry,
    salt: Vec<u8>,
    uuid: [u8; 16],
}

/// What digests of blocks have to be of, so that a tree with blocks of this size takes them as they are.
#[must_use]
pub fn unknown(block_bits: u8) -> Known {
    Known::new(BlockHash::new(&[0; SALT], 1 << block_bits))
}

/// Writes the tree of the image in `file`, all of which it covers, behind it. The file is complete then, and not yet
/// synced.
///
/// # Errors
/// [`Error::Unfit`], [`Error::Stopped`] once `stop` says so, [`Error::Io`].
pub fn append(file: &File, block_bits: u8, stop: &CancelCheck<'_>) -> Result<DmVerityTree, Error> {
    append_with(file, block_bits, &[], stop)
}

/// As [`append`], without reading those blocks whose digests are in `known`, which has others, too.
///
/// # Errors
/// As [`append`].
pub fn append_with(
    file: &File,
    block_bits: u8,
    known: &[Known],
    stop: &CancelCheck<'_>,
) -> Result<DmVerityTree, Error> {
    let bytes = file.metadata().map_err(failed("examining", 0))?.len();
    let block = 1u64 << block_bits.min(MAX_BLOCK_BITS);
    let hash_offset = bytes.checked_next_multiple_of(block).unwrap_or(u64::MAX);
    let geometry = Geometry::new(hash_offset, block_bits)?;
    // What is not written reads as zeros: the end of the last block of data, and of every level.
    file.set_len(geometry.end()).map_err(failed("extending", bytes))?;
    let salt = [0; SALT];
    let hasher = Hasher::new(block_bits, &salt);
    let mut known = known.iter().find(|known| known.is_of(&salt, 1 << block_bits));
    let mut below = geometry.data;
    for level in &geometry.levels {
        hasher.each(file, below, known, stop, &|first, digests| {
            let offset = level.offset + first * DIGEST as u64;
            file.write_all_at(digests, offset).map_err(failed("writing", offset))
        })?;
        (below, known) = (*level, None);
    }
    let root = root_of(file, &geometry, &hasher)?;
    let header = Header { geometry, salt: salt.to_vec(), uuid: root.uuid() };
    file.write_all_at(&header.to_bytes(), hash_offset).map_err(failed("writing", hash_offset))?;
    Ok(header.verity(root))
}

/// Reads the image and its tree, and compares them with each other and with the root hash. Top down: whatever has been
/// compared is trusted, so the block that is named is the one that changed. Returns the tree.
///
/// # Errors
/// [`Error::Root`], [`Error::Block`] with the first block that is wrong, what [`Header::read`] finds, [`Error::Stopped`]
/// once `stop` says so, and [`Error::Io`].
pub fn verify(
    file: &dyn ReadAt,
    hash_offset: u64,
    expected: RootHash,
    stop: &CancelCheck<'_>,
) -> Result<Header, Error> {
    let header = Header::read(file, hash_offset)?;
    let actual = header.root(file)?;
    if actual != expected {
        return Err(Error::Root { expected, actual });
    }
    let Header { geometry, salt, .. } = &header;
    let hasher = Hasher::new(geometry.block_bits, salt);
    for (number, parent) in geometry.levels.iter().enumerate().rev() {
        let (level, holds) = match number.checked_sub(1).and_then(|n| geometry.levels.get(n)) {
            Some(level) => (*level, BlockContents::Digests { level: number - 1 }),
            None => (geometry.data, BlockContents::Data),
        };
        hasher.each(file, level, None, stop, &|first, digests| {
            let offset = parent.offset + first * DIGEST as u64;
            let mut stored = vec![0; digests.len()];
            file.read_exact_at(&mut stored, offset).map_err(failed("reading", offset))?;
            let mut pairs = (first..).zip(digests.chunks(DIGEST).zip(stored.chunks(DIGEST)));
            let Some((block, _)) = pairs.find(|(_, (is, should))| is != should) else {
                return Ok(());
            };
            let offset = level.offset + (block << geometry.block_bits);
            Err(Error::Block { holds, block, offset })
        })?;
    }
    Ok(header)
}

/// The digest of the topmost block.
fn root_of(file: &dyn ReadAt, geometry: &Geometry, hasher: &Hasher) -> Result<RootHash, Error> {
    let mut block = vec![0; 1 << geometry.block_bits];
    let offset = geometry.top();
    file.read_exact_at(&mut block, offset).map_err(failed("reading", offset))?;
    Ok(RootHash(hasher.block(&block)))
}

impl Header {
    /// Reads the superblock at byte `offset`.
    ///
    /// # Errors
    /// [`Error::NoTree`]; [`Error::Super`] for a tree that is not understood, or that does not cover all that lies before
    /// it; [`Error::Short`]; [`Error::Io`].
    pub fn read(file: &dyn ReadAt, offset: u64) -> Result<Self, Error> {
        let mut bytes = [0; size_of::<VeritySuper>()];
        let fits = offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= file.size());
        if !fits {
            return Err(Error::NoTree { offset });
        }
        file.read_exact_at(&mut bytes, offset).map_err(failed("reading", offset))?;
        let sb = VeritySuper::read_from_bytes(&bytes).map_err(|_| Error::NoTree { offset })?;
        if sb.signature != VERITY_SIGNATURE {
            return Err(Error::NoTree { offset });
        }
        let this = Self::understood(&sb, offset).map_err(|why| Error::Super { offset, why })?;
        let (end, size) = (this.geometry.end(), file.size());
        if end > size {
            return Err(Error::Short { offset, end, size });
        }
        Ok(this)
    }

    fn understood(sb: &VeritySuper, offset: u64) -> Result<Self, &'static str> {
        let name = sb.algorithm.split(|&b| b == 0).next().unwrap_or_default();
        if (sb.version.get(), sb.hash_type.get()) != (1, 1) {
            return Err("only version 1 with hash type 1 is understood");
        }
        if name != ALGORITHM {
            return Err("only sha256 is understood");
        }
        let size = sb.data_block_size.get();
        if size != sb.hash_block_size.get() || !size.is_power_of_two() {
            return Err("data and digests must have blocks of the same size, a power of two");
        }
        let bits = u8::try_from(size.trailing_zeros()).unwrap_or(u8::MAX);
        let geometry = Geometry::new(offset, bits).map_err(
            |_| "the block size is outside 512 to 4096 bytes, or the tree not aligned to it",
        )?;
        if geometry.data_blocks() != sb.data_blocks.get() {
            return Err("the tree does not cover exactly what lies before it");
        }
        let salt = sb.salt.get(..usize::from(sb.salt_size.get()));
        let salt = salt.ok_or("the salt is longer than 256 bytes")?.to_vec();
        Ok(Self { geometry, salt, uuid: sb.uuid })
    }

    /// The root hash of the tree as it is: nothing below its topmost block is looked at.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn root(&self, file: &dyn ReadAt) -> Result<RootHash, Error> {
        root_of(file, &self.geometry, &Hasher::new(self.geometry.block_bits, &self.salt))
    }

    /// The parameters of the device, for the tree with this root.
    #[must_use]
    pub fn verity(&self, root: RootHash) -> DmVerityTree {
        let hash_offset = self.geometry.hash_offset();
        DmVerityTree { root, hash_offset, block_size: 1 << self.geometry.block_bits }
    }

    /// Where everything is.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The salt, 256 bytes at most.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The UUID of the tree, in textual order.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut sb = VeritySuper::new_zeroed();
        let size = 1u32 << self.geometry.block_bits;
        sb.signature = VERITY_SIGNATURE;
        sb.version = 1.into();
        sb.hash_type = 1.into();
        sb.uuid = self.uuid;
        sb.algorithm.iter_mut().zip(ALGORITHM).for_each(|(to, from)| *to = *from);
        sb.data_block_size = size.into();
        sb.hash_block_size = size.into();
        sb.data_blocks = self.geometry.data_blocks().into();
        sb.salt_size = u16::try_from(self.salt.len()).unwrap_or_default().into();
        sb.salt.iter_mut().zip(&self.salt).for_each(|(to, from)| *to = *from);
        sb.as_bytes().to_vec()
    }
}
