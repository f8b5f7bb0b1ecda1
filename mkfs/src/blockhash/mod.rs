//! SHA-256 of blocks of one size, as hash trees need it: of many blocks at a time.
//!
//! A processor without instructions for SHA-256 computes one digest no faster than one word after the other, but those of
//! several blocks beside each other. So there it is `lanes`, three to four times as fast as the best code for one message;
//! anywhere else the crate `sha2`, which uses the instructions.

mod lanes;

use sha2::{Digest as _, Sha256};

use self::lanes::Lanes;

/// Bytes of a digest.
pub(crate) const DIGEST: usize = 32;

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
        let lanes = pays().then(|| Lanes::new(salt, block));
        Self { salt: salt.to_vec(), block, lanes }
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
            let groups = bytes.chunks_exact(self.block * lanes::WIDTH);
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

/// Whether several blocks at a time are faster than one after the other on this processor.
#[cfg(target_arch = "x86_64")]
fn pays() -> bool {
    std::is_x86_feature_detected!("avx2") && !std::is_x86_feature_detected!("sha")
}

/// Whether several blocks at a time are faster than one after the other on this processor.
#[cfg(not(target_arch = "x86_64"))]
fn pays() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both ways, wherever this runs.
    fn both(salt: &[u8], block: usize, bytes: &[u8]) -> [Vec<u8>; 2] {
        [None, Some(Lanes::new(salt, block))].map(|lanes| {
            let mut out = Vec::new();
            BlockHash { salt: salt.to_vec(), block, lanes }.all(bytes, &mut out);
            out
        })
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
        fn digests_are_the_same_both_ways(
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
            let [one, many] = both(&salt, block, &bytes);
            prop_assert_eq!(one.len(), len.div_ceil(block) * DIGEST);
            prop_assert_eq!(one, many);
        }
    }
}
