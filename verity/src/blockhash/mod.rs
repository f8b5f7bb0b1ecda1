//! SHA-256 of blocks of one size, as hash trees need it: of many blocks at a time.
//!
//! A processor computes one digest no faster than one step after the other, but those of several blocks beside each
//! other: `lanes`, with one of the ways that it has. Anywhere else it is the crate `sha2`.

#[cfg(target_arch = "x86_64")]
mod constants;
mod known;
mod lanes;
mod messages;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod sys;
#[cfg(target_arch = "x86_64")]
mod vectors;

use sha2::{Digest as _, Sha256};

pub use self::known::Known;
pub(crate) use self::known::Part;
use self::lanes::Lanes;
pub(crate) use self::messages::DIGEST;
use self::messages::WIDTH;

/// Computes the SHA-256 of salt and block, for blocks of one size.
#[derive(Debug, Clone)]
pub(crate) struct BlockHash {
    salt: Vec<u8>,
    block: usize,
    lanes: Option<Lanes>,
}

impl BlockHash {
    /// For blocks of `block` bytes, which is not 0.
    pub(crate) fn new(salt: &[u8], block: usize) -> Self {
        Self { salt: salt.to_vec(), block, lanes: Lanes::new(salt, block) }
    }

    /// The digest of one block.
    pub(crate) fn one(&self, block: &[u8]) -> [u8; DIGEST] {
        let mut hasher = Sha256::new();
        hasher.update(&self.salt);
        hasher.update(block);
        hasher.finalize().into()
    }

    /// Appends the digests of all blocks in `bytes` to `out`. What is behind the last whole block is a block of its own,
    /// of fewer bytes.
    pub(crate) fn all(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        if let Some(lanes) = &mut self.lanes {
            let groups = bytes.chunks_exact(self.block * WIDTH);
            rest = groups.remainder();
            for group in groups {
                lanes.digest(group, self.block, out);
            }
        }
        for block in rest.chunks(self.block) {
            out.extend_from_slice(&self.one(block));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every way that this processor has, that of the crate `sha2` first.
    fn every_way(salt: &[u8], block: usize, bytes: &[u8]) -> Vec<Vec<u8>> {
        let lanes = lanes::every(salt, block).into_iter().map(Some);
        let ways = std::iter::once(None).chain(lanes).map(|lanes| {
            let mut out = Vec::new();
            BlockHash { salt: salt.to_vec(), block, lanes }.all(bytes, &mut out);
            out
        });
        ways.collect()
    }

    #[test]
    fn a_block_has_the_digest_of_fips_180() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let hex: String =
            BlockHash::new(&[], 1).one(&[]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, empty);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn digests_are_the_same_every_way(
            salt in proptest::collection::vec(any::<u8>(), 0..200),
            bits in 0_u32..13,
            seed in any::<u64>(),
            blocks in 0_usize..30,
            more in 0_usize..100,
        ) {
            let block = 1_usize << bits;
            let len = block * blocks + more.min(block - 1);
            let bytes: Vec<u8> = (0..len as u64)
                .map(|i| (i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7])
                .collect();
            let ways = every_way(salt.as_slice(), block, &bytes);
            prop_assert_eq!(ways[0].len(), len.div_ceil(block) * DIGEST);
            prop_assert!(ways.iter().all(|way| *way == ways[0]));
        }
    }
}
