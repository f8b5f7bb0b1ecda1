//! The data area: blocks given out from front to back, and the writers that fill them.

use super::tails::{TailRead, Tails};
use crate::Error;
use crate::io::Sink;

/// Bytes behind an inode that a tail may need besides itself: the largest inode.
const INODE_ROOM: u64 = 64;
/// Writes are gathered up to this many bytes.
const GATHER: usize = 512 << 10;
/// A piece this large is written directly.
const DIRECT: usize = 128 << 10;

/// How content is laid out.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// log2 of the block size.
    pub block_bits: u8,
    /// Last partial blocks go behind the inode.
    pub inline: bool,
    /// Chunks of zeros become holes; files with holes need kernel 5.15.
    pub holes: bool,
    /// First block that may hold data.
    pub first_block: u64,
    /// The first block of a file is a multiple of this many blocks.
    pub align_blocks: u64,
    /// Most bytes of an image.
    pub max_bytes: u64,
}

impl Placement {
    fn block(&self) -> u64 {
        1 << self.block_bits
    }

    /// Bytes of a file that go to the data area; the rest is its tail.
    pub(super) fn whole(&self, size: u64) -> u64 {
        let tail = size & (self.block() - 1);
        if self.inline && tail != 0 && tail <= self.block() - INODE_ROOM {
            size - tail
        } else {
            size
        }
    }
}

/// The data area of an image in the making.
#[derive(Debug)]
pub struct DataArea<S> {
    pub(super) sink: S,
    pub(super) placement: Placement,
    /// Byte where the next data goes; on a block border between files.
    pub(super) next: u64,
    gathered: Vec<u8>,
    gathered_at: u64,
    pub(super) tails: Tails,
    /// Bytes of tails.
    pub(crate) tail_bytes: u64,
}

impl<S: Sink> DataArea<S> {
    /// An empty area of `sink`.
    pub fn new(sink: S, placement: Placement) -> Self {
        let next = placement.first_block << placement.block_bits;
        Self {
            sink,
            placement,
            next,
            gathered: Vec::new(),
            gathered_at: 0,
            tails: Tails::default(),
            tail_bytes: 0,
        }
    }

    /// Where the image goes.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// Gives the sink back.
    pub fn into_sink(self) -> S {
        self.sink
    }

    /// The block behind all data.
    pub fn end_block(&self) -> u64 {
        self.next.div_ceil(self.placement.block())
    }

    /// Writes out what is gathered.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn flush(&mut self) -> Result<(), Error> {
        if !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            let empty = self.sink.write_behind(gathered, self.gathered_at);
            self.gathered = empty.map_err(Error::Output)?;
        }
        Ok(())
    }

    /// Ends the writing of content: all of it can be read from now on.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn settle(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.gathered = Vec::new();
        self.sink.settle().and_then(|()| self.tails.settle()).map_err(Error::Output)
    }

    /// Puts tails where they belong in `out`; changes the order of `wanted`.
    ///
    /// # Errors
    /// [`Error::Output`]: the scratch file is part of the output.
    pub(crate) fn read_tails(&self, wanted: &mut [TailRead], out: &mut [u8]) -> Result<(), Error> {
        self.tails.read(wanted, out).map_err(Error::Output)
    }

    pub(super) fn keep_tail(&mut self, data: &[u8]) -> Result<(), Error> {
        self.tail_bytes += data.len() as u64;
        self.tails.append(data, &self.sink).map_err(Error::Output)
    }

    /// Writes at a byte of the image. Neighbouring small writes become one.
    pub(super) fn write(&mut self, data: &[u8], at: u64) -> Result<(), Error> {
        let end = self.gathered_at + self.gathered.len() as u64;
        let gap = at.checked_sub(end).and_then(|g| usize::try_from(g).ok());
        match gap {
            Some(gap) if !self.gathered.is_empty() && gap < DIRECT => {
                self.gathered.resize(self.gathered.len() + gap, 0);
            }
            _ => {
                self.flush()?;
                self.gathered_at = at;
            }
        }
        if data.len() >= DIRECT {
            self.flush()?;
            return self.sink.write_at(data, at).map_err(Error::Output);
        }
        self.gathered.extend_from_slice(data);
        if self.gathered.len() >= GATHER {
            self.flush()?;
        }
        Ok(())
    }

    /// Claims the start of a file of `bytes` bytes.
    pub(super) fn open(&mut self, bytes: u64) -> Result<u64, Error> {
        let align = self.placement.align_blocks.max(1) << self.placement.block_bits;
        let start = if bytes == 0 { self.next } else { self.next.next_multiple_of(align) };
        self.check(start.saturating_add(bytes))?;
        Ok(start)
    }

    pub(super) fn check(&self, end: u64) -> Result<(), Error> {
        let limit = self.placement.max_bytes;
        if end > limit { Err(Error::TooLarge { limit }) } else { Ok(()) }
    }

    /// Ends a file at byte `end` of the image.
    pub(super) fn close(&mut self, end: u64) {
        self.next = end.next_multiple_of(self.placement.block());
    }
}
