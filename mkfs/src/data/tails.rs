//! The store of tails: last partial blocks of files, and files smaller than a block, in the order in which
//! they came. Memory holds [`Tails::MEMORY`] bytes; what is older lies in a nameless scratch file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::io::Sink;

/// A tail in the store: its length is the file's size modulo the block size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail(pub(super) u64);

#[derive(Debug, Default)]
pub(super) struct Tails {
    /// Bytes from `spilled` on.
    memory: Vec<u8>,
    /// Bytes that are in `scratch`.
    spilled: u64,
    scratch: Option<File>,
}

impl Tails {
    /// Bytes of tails kept in memory.
    pub(super) const MEMORY: usize = 16 << 20;

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
        let file = match self.scratch.take() {
            Some(file) => file,
            None => sink.scratch()?,
        };
        let file = self.scratch.insert(file);
        file.write_all_at(&self.memory, self.spilled)?;
        self.spilled += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Appends `len` bytes of a tail to `out`.
    pub(super) fn read(&self, tail: Tail, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + len, 0);
        let mut to = out.get_mut(start..).unwrap_or_default();
        let mut from = tail.0;
        if from < self.spilled {
            let file = self.scratch.as_ref().ok_or(io::ErrorKind::NotFound)?;
            let in_file = usize::try_from(self.spilled - from).map_or(len, |n| n.min(len));
            let (head, rest) = to.split_at_mut(in_file);
            file.read_exact_at(head, from)?;
            to = rest;
            from = self.spilled;
        }
        let at = usize::try_from(from - self.spilled).unwrap_or(usize::MAX);
        let data = at.checked_add(to.len()).and_then(|end| self.memory.get(at..end));
        to.copy_from_slice(data.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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
        assert!(tails.spilled > 0 && tails.memory.len() <= Tails::MEMORY);
        let border = usize::try_from(tails.spilled).unwrap();
        for at in [0, 5000, border - 100, border - 4000, border, all.len() - 4000] {
            let mut got = Vec::new();
            tails.read(Tail(at as u64), 4000, &mut got).unwrap();
            assert_eq!(got, all[at..at + 4000], "at {at}");
        }
        assert!(tails.read(tails.next(), 1, &mut Vec::new()).is_err());
    }
}
