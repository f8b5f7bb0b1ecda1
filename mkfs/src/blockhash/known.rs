//! Digests that need not be computed any more.

use std::collections::BTreeMap;

use super::{BlockHash, DIGEST};

/// Digests of some blocks of a file: of those that were hashed while others were yet to be written.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    hash: BlockHash,
    /// The digests of blocks that follow each other, by the number of the first.
    runs: BTreeMap<u64, Vec<u8>>,
}

impl Known {
    /// None yet.
    pub(crate) fn new(hash: BlockHash) -> Self {
        Self { hash, runs: BTreeMap::new() }
    }

    /// Are these digests of blocks of `block` bytes, behind `salt`?
    pub(crate) fn is_of(&self, salt: &[u8], block: usize) -> bool {
        self.hash.block == block && self.hash.salt == salt
    }

    /// Hashes `bytes`, whole blocks, which are at byte `offset` of the file. No block of them is known.
    pub(crate) fn add(&mut self, offset: u64, bytes: &[u8]) {
        let first = offset / self.hash.block as u64;
        let before = self.runs.range_mut(..first).next_back();
        let before = before.filter(|(start, run)| **start + count(run) == first);
        let run = match before {
            Some((_, run)) => run,
            None => self.runs.entry(first).or_default(),
        };
        self.hash.all(bytes, run);
    }

    /// The digests of the block at byte `offset` and of those behind it, up to the first that is not known.
    pub(crate) fn run(&self, offset: u64) -> Option<&[u8]> {
        let block = offset / self.hash.block as u64;
        let (start, run) = self.runs.range(..=block).next_back()?;
        let from = usize::try_from(block - start).ok()?.checked_mul(DIGEST)?;
        run.get(from..).filter(|run| !run.is_empty())
    }

    /// Where the first known block behind byte `offset` is.
    pub(crate) fn next(&self, offset: u64) -> Option<u64> {
        let block = self.hash.block as u64;
        let (start, _) = self.runs.range(offset / block + 1..).next()?;
        start.checked_mul(block)
    }

    /// Bytes of memory that the digests take.
    pub(crate) fn memory(&self) -> usize {
        self.runs.values().map(Vec::len).sum()
    }
}

fn count(run: &[u8]) -> u64 {
    (run.len() / DIGEST) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_as_far_as_they_are_known() {
        let block = 64;
        let bytes: Vec<u8> = (0..10 * 64).map(|i| u8::try_from(i / 64).unwrap()).collect();
        let mut known = Known::new(BlockHash::new(b"salt", block));
        let mut all = Vec::new();
        BlockHash::new(b"salt", block).all(&bytes, &mut all);
        for blocks in [2..4, 4..5, 7..9] {
            known.add(blocks.start as u64 * 64, &bytes[blocks.start * 64..blocks.end * 64]);
        }
        assert_eq!((known.runs.len(), known.memory()), (2, 5 * DIGEST));
        let runs = [2..5, 7..9];
        for block in 0..10 {
            let run = runs.iter().find(|run| run.contains(&block));
            let want = run.map(|run| &all[block * DIGEST..run.end * DIGEST]);
            let next = runs.iter().map(|run| run.start).find(|start| *start > block);
            let at = block as u64 * 64;
            assert_eq!((known.run(at), known.next(at)), (want, next.map(|n| n as u64 * 64)));
        }
        assert!(known.is_of(b"salt", 64) && !known.is_of(b"", 64) && !known.is_of(b"salt", 128));
    }
}
