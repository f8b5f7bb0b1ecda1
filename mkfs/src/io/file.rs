//! Open files as sources and sinks.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use erolith_verity::Known;
use erolith_verity::background_hash::{Followed, Follower};
use rustix::io::Errno;

use super::write_behind::WriteBehind;
use super::{Input, Sink};

/// An output file, and what becomes its scratch file.
#[derive(Debug)]
pub struct FileSink {
    file: Followed,
    scratch: Scratch,
    /// Made when there is something large to write.
    behind: Mutex<Option<WriteBehind>>,
    follower: Mutex<Option<Follower>>,
}

/// Where a scratch file comes from.
#[derive(Debug)]
enum Scratch {
    /// Made in this directory when it is wanted.
    In(OwnedFd),
    /// Open already: for a process that can open none.
    Open(File),
}

/// A write this large is worth the attention of another thread.
const BEHIND: usize = 256 << 10;

impl FileSink {
    /// Writes to `file`, opened for reading and writing. `dir` is a directory on the same filesystem.
    #[must_use]
    pub fn new(file: File, dir: OwnedFd) -> Self {
        Self::of(file, Scratch::In(dir))
    }

    /// Writes to `file`, opened for reading and writing. `scratch` is an empty file for what has to wait: an image wants
    /// one at most.
    #[must_use]
    pub fn with_scratch(file: File, scratch: File) -> Self {
        Self::of(file, Scratch::Open(scratch))
    }

    fn of(file: File, scratch: Scratch) -> Self {
        Self { file: file.into(), scratch, behind: Mutex::new(None), follower: Mutex::new(None) }
    }

    /// Has the blocks of the file hashed while it is written, for digests of these kinds.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub(crate) fn followed(mut self, digests: Vec<Known>) -> io::Result<Self> {
        if !digests.is_empty() {
            let follower = Follower::start(self.file.file(), digests)?;
            self.file.follow(&follower);
            self.follower = Mutex::new(Some(follower));
        }
        Ok(self)
    }

    /// What is known of the blocks of the file, as long as no byte of them is written once more. Nothing is hashed any more
    /// from now on.
    pub(crate) fn known(&self) -> Vec<Known> {
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        follower.take().map(Follower::finish).unwrap_or_default()
    }

    /// The output file.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file.file()
    }

    /// Gives the output file back.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file.into_file()
    }
}

impl FileSink {
    fn behind(&self) -> MutexGuard<'_, Option<WriteBehind>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for FileSink {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write(data, offset)
    }

    fn write_behind(&self, mut data: Vec<u8>, offset: u64) -> io::Result<Vec<u8>> {
        if data.len() < BEHIND {
            self.write_at(&data, offset)?;
            data.clear();
            return Ok(data);
        }
        let mut behind = self.behind();
        if behind.is_none() {
            *behind = Some(WriteBehind::new(self.file.try_clone()?)?);
        }
        behind.as_mut().map_or_else(|| Ok(Vec::new()), |behind| behind.write(data, offset))
    }

    fn settle(&self) -> io::Result<()> {
        self.behind().as_mut().map_or(Ok(()), WriteBehind::settle)
    }

    fn copy_from(
        &self,
        from: BorrowedFd<'_>,
        from_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        copy_range(from, from_offset, self.file.file(), offset, len)?;
        self.file.wrote(offset, len);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn scratch(&self) -> io::Result<File> {
        match &self.scratch {
            Scratch::In(dir) => Ok(erolith_durable::scratch(dir)?),
            Scratch::Open(file) => file.try_clone(),
        }
    }
}

/// Copies `len` bytes of the file `from` at `from_offset` to `offset` of `to`, inside the kernel where it can.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when `from` ends early, and what the storage reports.
pub fn copy_range(
    from: BorrowedFd<'_>,
    mut from_offset: u64,
    to: &File,
    mut offset: u64,
    mut len: u64,
) -> io::Result<()> {
    while len > 0 {
        let want = usize::try_from(len).unwrap_or(1 << 30).min(1 << 30);
        let (from_at, to_at) = (Some(&mut from_offset), Some(&mut offset));
        match rustix::fs::copy_file_range(from, from_at, to, to_at, want) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => len -= n as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_through_memory(from, from_offset, to, offset, len);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// The copy in user space, for files between which the kernel does not copy.
fn copy_through_memory(
    from: BorrowedFd<'_>,
    mut from_offset: u64,
    to: &File,
    mut offset: u64,
    mut len: u64,
) -> io::Result<()> {
    let mut buf = vec![0; 256 * 1024];
    while len > 0 {
        let want = usize::try_from(len).map_or(buf.len(), |l| l.min(buf.len()));
        let part = buf.get_mut(..want).unwrap_or_default();
        match rustix::io::pread(from, &mut *part, from_offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                to.write_all_at(part.get(..n).unwrap_or_default(), offset)?;
                from_offset += n as u64;
                offset += n as u64;
                len -= n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// A plain file as a stream. Small reads go through a buffer; skipping is free.
#[derive(Debug)]
pub struct FileInput {
    file: File,
    buf: Box<[u8]>,
    /// The used part of `buf` is `pos..end`.
    pos: usize,
    end: usize,
    /// File offset of `buf[end]`.
    next: u64,
    size: u64,
}

impl FileInput {
    /// Streams `file` from its first byte, whatever its cursor.
    ///
    /// # Errors
    /// When the file cannot be examined.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, buf: vec![0; 64 * 1024].into(), pos: 0, end: 0, next: 0, size })
    }
}

impl Input for FileInput {
    fn fill(&mut self) -> io::Result<&[u8]> {
        while self.pos == self.end && self.next < self.size {
            match FileExt::read_at(&self.file, &mut self.buf, self.next) {
                Ok(0) => break,
                Ok(n) => {
                    self.pos = 0;
                    self.end = n;
                    self.next += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(self.buf.get(self.pos..self.end).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.pos = self.end.min(self.pos.saturating_add(n));
    }

    fn skip(&mut self, n: u64) -> io::Result<u64> {
        let buffered = (self.end - self.pos) as u64;
        if n <= buffered {
            self.consume(usize::try_from(n).unwrap_or(usize::MAX));
            return Ok(n);
        }
        self.pos = self.end;
        let beyond = (n - buffered).min(self.size.saturating_sub(self.next));
        self.next += beyond;
        Ok(buffered + beyond)
    }

    fn as_file(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}
