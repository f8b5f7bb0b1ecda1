//! The store of tails: last partial blocks of files, and files smaller than a block, in the order in which
//! they came. Memory holds at most three times [`Tails::MEMORY`] bytes; what is older lies in a nameless
//! scratch file.

use std::io;
use std::os::unix::fs::FileExt;

use crate::io::{Sink, WriteBehind};

/// A tail in the store: its length is the file's size modulo the block size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tail(pub(super) u64);

/// A tail that belongs to `len` bytes of a buffer from `at` on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TailRead {
    pub(crate) tail: Tail,
    pub(crate) len: usize,
    pub(crate) at: usize,
}

impl TailRead {
    fn end(&self) -> u64 {
        self.tail.0 + self.len as u64
    }
}

/// Bytes between two tails that are sooner read than left out.
const SLACK: u64 = 2048;

#[derive(Debug, Default)]
pub(super) struct Tails {
    /// Bytes from `spilled` on.
    memory: Vec<u8>,
    /// Bytes that are in `scratch`, or on their way.
    spilled: u64,
    scratch: Option<WriteBehind>,
}

impl Tails {
    /// Bytes of tails gathered in memory; while more come, as many again are on their way to the scratch
    /// file, twice.
    pub(super) const MEMORY: usize = 1 << 20;

    /// Where the next tail will be.
    pub(super) fn next(&self) -> Tail {
        Tail(self.spilled + self.memory.len() as u64)
    }

    pub(super) fn append(&mut self, data: &[u8], sink: &impl Sink) -> io::Result<()> {
        if self.memory.len() + data.len() > Self::MEMORY {
            self.spill(sink)?;
        }
        self.memory.extend_from_slice(data);
        Ok(())
    }

    fn spill(&mut self, sink: &impl Sink) -> io::Result<()> {
        let scratch = match self.scratch.take() {
            Some(scratch) => scratch,
            None => WriteBehind::new(sink.scratch()?)?,
        };
        let scratch = self.scratch.insert(scratch);
        let len = self.memory.len() as u64;
        self.memory = scratch.write(std::mem::take(&mut self.memory), self.spilled)?;
        self.spilled += len;
        Ok(())
    }

    /// Waits until all tails can be read.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        self.scratch.as_mut().map_or(Ok(()), WriteBehind::settle)
    }

    /// Puts tails where they belong in `out`. What lies together in the store is read at once. `wanted` ends
    /// up in another order.
    pub(super) fn read(&self, wanted: &mut [TailRead], out: &mut [u8]) -> io::Result<()> {
        wanted.sort_unstable_by_key(|w| w.tail);
        let mut run = Vec::new();
        let close = |a: &TailRead, b: &TailRead| b.tail.0 <= a.end() + SLACK;
        for group in wanted.chunk_by(close) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let start = first.tail.0;
            run.resize(usize::try_from(last.end() - start).unwrap_or(0), 0);
            self.read_run(start, &mut run)?;
            for w in group {
                let at = usize::try_from(w.tail.0 - start).unwrap_or(0);
                let (from, to) = (run.get(at..at + w.len), out.get_mut(w.at..w.at + w.len));
                let (Some(from), Some(to)) = (from, to) else {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                };
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn read_run(&self, from: u64, to: &mut [u8]) -> io::Result<()> {
        let in_file = self.spilled.saturating_sub(from);
        let in_file = usize::try_from(in_file).map_or(to.len(), |n| n.min(to.len()));
        let (head, rest) = to.split_at_mut(in_file);
        if !head.is_empty() {
            let scratch = self.scratch.as_ref().ok_or(io::ErrorKind::NotFound)?;
            scratch.file().read_exact_at(head, from)?;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let at = usize::try_from(from.saturating_sub(self.spilled)).unwrap_or(usize::MAX);
        let data = at.checked_add(rest.len()).and_then(|end| self.memory.get(at..end));
        rest.copy_from_slice(data.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::io::FileSink;

    #[test]
    fn tails_come_back_from_memory_from_the_scratch_file_and_from_both() {
        let dir = File::open(std::env::temp_dir()).unwrap();
        let sink = FileSink::new(tempfile::tempfile().unwrap(), dir.into());
        let mut tails = Tails::default();
        let mut all = Vec::new();
        let piece: Vec<u8> = (0..=250).cycle().take(4000).collect();
        while all.len() < 3 * Tails::MEMORY {
            tails.append(&piece, &sink).unwrap();
            all.extend_from_slice(&piece);
        }
        tails.settle().unwrap();
        assert!(tails.spilled > 0 && tails.memory.len() <= Tails::MEMORY);
        let border = usize::try_from(tails.spilled).unwrap();
        // Not in order; some next to each other, some apart.
        let places = [all.len() - 4000, border, 0, 5000, 9000, border - 100, border - 4000, 20_000];
        let mut out = vec![0; places.len() * 4000];
        let wanted = |(i, &at)| TailRead { tail: Tail(at as u64), len: 4000, at: i * 4000 };
        let mut wanted: Vec<_> = places.iter().enumerate().map(wanted).collect();
        tails.read(&mut wanted, &mut out).unwrap();
        for (got, at) in out.chunks(4000).zip(places) {
            assert_eq!(got, &all[at..at + 4000], "at {at}");
        }
        let beyond = TailRead { tail: tails.next(), len: 1, at: 0 };
        assert!(tails.read(&mut [beyond], &mut [0]).is_err());
    }
}
