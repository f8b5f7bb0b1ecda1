//! Input and output that report progress, and end the work when it is cancelled.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use erolith_differ::decode::{Cancel, OnBytes};
use erolith_mkfs::io::{FileInput, FileSink, Input, Sink};

/// Bytes that are copied between two questions whether to go on.
const PIECE: u64 = 64 << 20;

/// What is read or written, and who asks.
#[derive(Debug)]
pub(super) struct Watched<T> {
    pub(super) inner: T,
    cancel: Cancel,
    progress: OnBytes,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T, cancel: &Cancel, progress: OnBytes) -> Self {
        Self { inner, cancel: cancel.clone(), progress }
    }

    fn check(&self) -> io::Result<()> {
        self.cancel.check().map_err(io::Error::other)
    }
}

impl Sink for Watched<FileSink> {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check()?;
        self.inner.write_at(data, offset)?;
        self.progress.tell(data.len() as u64);
        Ok(())
    }

    fn write_behind(&self, data: Vec<u8>, offset: u64) -> io::Result<Vec<u8>> {
        self.check()?;
        let len = data.len() as u64;
        let buffer = self.inner.write_behind(data, offset)?;
        self.progress.tell(len);
        Ok(buffer)
    }

    fn settle(&self) -> io::Result<()> {
        self.inner.settle()
    }

    fn copy_from(
        &self,
        from: BorrowedFd<'_>,
        from_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            self.check()?;
            let piece = PIECE.min(len - done);
            self.inner.copy_from(from, from_offset + done, offset + done, piece)?;
            self.progress.tell(piece);
            done += piece;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn scratch(&self) -> io::Result<File> {
        self.inner.scratch()
    }
}

impl Input for Watched<FileInput> {
    fn fill(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        self.inner.fill()
    }

    fn consume(&mut self, n: usize) {
        self.inner.consume(n);
    }

    fn skip(&mut self, n: u64) -> io::Result<u64> {
        self.check()?;
        self.inner.skip(n)
    }

    fn as_file(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_file()
    }
}
