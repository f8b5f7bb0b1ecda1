//! Digests that need not be computed any more.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{BlockHash, DIGEST};

/// Digests of some blocks of a file: of those that were hashed while others were yet to be written.
#[derive(Debug, Clone)]
pub struct Known {
    hash: BlockHash,
    /// The digests of blocks that follow each other, by the number of the first.
    runs: BTreeMap<u64, Vec<u8>>,
}

/// The front of a range of blocks, of which all digests are known, or none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// These are the digests, at least one.
    Known(&'a [u8]),
    /// They are missing up to this byte.
    Missing(u64),
}

impl Known {
    /// None yet.
    pub(crate) fn new(hash: BlockHash) -> Self {
        Self { hash, runs: BTreeMap::new() }
    }

    /// Whether these are digests of blocks of `block` bytes, behind `salt`.
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

    /// What is known of the front of a range of bytes, which are whole blocks.
    pub(crate) fn part(&self, range: Range<u64>) -> Part<'_> {
        let block = self.hash.block as u64;
        let first = range.start / block;
        let before = self.runs.range(..=first).next_back();
        let known = before.and_then(|(start, run)| {
            let rest = run.get(usize::try_from(first - start).ok()?.checked_mul(DIGEST)?..)?;
            let wanted = usize::try_from((range.end - range.start) / block).unwrap_or(usize::MAX);
            rest.get(..rest.len().min(wanted.saturating_mul(DIGEST)))
        });
        if let Some(digests) = known.filter(|digests| !digests.is_empty()) {
            return Part::Known(digests);
        }
        let next = self.runs.range(first + 1..).next();
        Part::Missing(next.map_or(range.end, |(start, _)| range.end.min(start * block)))
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
            let (at, end) = (block as u64 * 64, 100 * 64);
            let missing = Part::Missing(next.map_or(end, |n| n as u64 * 64));
            assert_eq!(known.part(at..end), want.map_or(missing, Part::Known));
            // Of one block, that is all.
            let (one, behind) = (block * DIGEST..(block + 1) * DIGEST, at + 64);
            let want = run.map_or(Part::Missing(behind), |_| Part::Known(&all[one]));
            assert_eq!(known.part(at..behind), want);
        }
        assert!(known.is_of(b"salt", 64) && !known.is_of(b"", 64) && !known.is_of(b"salt", 128));
    }
}
