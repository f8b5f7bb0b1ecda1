//! The three ways bytes come and go: read at an offset, written at an offset, and streamed.
//!
//! None of them knows a path. Files enter as open descriptors.

mod file;
mod write_behind;

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

pub use erolith_verity::ReadAt;
pub use file::{FileInput, FileSink, copy_range};
pub(crate) use write_behind::WriteBehind;

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(data: &[u8]) -> bool {
    let (blocks, rest) = data.as_chunks::<64>();
    blocks.iter().all(|b| b.iter().fold(0, |a, &x| a | x) == 0) && rest.iter().all(|&b| b == 0)
}

/// Where an image is written: any offset, in any order, from several threads.
pub trait Sink: Send + Sync + Debug {
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// What the underlying storage reports.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`, now or soon. Returns an empty buffer to go on with. What is soon has
    /// happened when [`Sink::settle`] returns; until then its regions must be left alone.
    ///
    /// # Errors
    /// What the underlying storage reports, of this write or of one before it.
    fn write_behind(&self, data: Vec<u8>, offset: u64) -> io::Result<Vec<u8>>;

    /// Waits for all that [`Sink::write_behind`] has put off.
    ///
    /// # Errors
    /// What the underlying storage reports.
    fn settle(&self) -> io::Result<()>;

    /// Copies `len` bytes of the file `from` at `from_offset` to `offset`, inside the kernel where it can.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when `from` ends early, and what the storage reports.
    fn copy_from(
        &self,
        from: BorrowedFd<'_>,
        from_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<()>;

    /// Sets the final length; bytes never written read as zeros.
    ///
    /// # Errors
    /// What the underlying storage reports.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// A nameless scratch file beside the output, which is gone when it is dropped.
    ///
    /// # Errors
    /// What the underlying storage reports.
    fn scratch(&self) -> io::Result<std::fs::File>;
}

/// A stream that is parsed once from front to back: a tar from a pipe, a decoder or a plain file.
pub trait Input {
    /// The bytes at hand, read if there are none; empty at the end of the stream.
    ///
    /// # Errors
    /// What the source reports; a decoder reports corrupt data here.
    fn fill(&mut self) -> io::Result<&[u8]>;

    /// Marks `n` of the bytes that [`Input::fill`] returned as used.
    fn consume(&mut self, n: usize);

    /// Passes over `n` bytes. Returns how many there were to pass over.
    ///
    /// # Errors
    /// What the source reports.
    fn skip(&mut self, n: u64) -> io::Result<u64> {
        let mut left = n;
        while left > 0 {
            let have = self.fill()?.len();
            if have == 0 {
                break;
            }
            let take = usize::try_from(left).map_or(have, |l| have.min(l));
            self.consume(take);
            left = left.saturating_sub(take as u64);
        }
        Ok(n.saturating_sub(left))
    }

    /// The open file whose byte 0 is the stream's byte 0, when there is one: content can then be copied by
    /// the kernel, and [`Input::skip`] is a seek.
    fn as_file(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl<I: Input + ?Sized> Input for &mut I {
    fn fill(&mut self) -> io::Result<&[u8]> {
        (**self).fill()
    }

    fn consume(&mut self, n: usize) {
        (**self).consume(n);
    }

    fn skip(&mut self, n: u64) -> io::Result<u64> {
        (**self).skip(n)
    }

    fn as_file(&self) -> Option<BorrowedFd<'_>> {
        (**self).as_file()
    }
}

/// Any [`io::BufRead`] as an [`Input`] without a file behind it.
#[derive(Debug)]
pub struct Stream<R>(pub R);

impl<R: io::BufRead> Input for Stream<R> {
    fn fill(&mut self) -> io::Result<&[u8]> {
        loop {
            // The second call returns the same buffer; the borrow checker cannot see that yet.
            match self.0.fill_buf() {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.0.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.0.consume(n);
    }
}
