//! The data area: blocks given out from front to back, and the writers that fill them.

use std::io;
use std::os::fd::BorrowedFd;

use super::chunks::sparse_bits;
use super::tails::Tails;
use super::{Chunks, Content, Tail};
use crate::Error;
use crate::io::Sink;
use crate::meta::Segment;

/// log2 of the chunk in which zeros are looked for. A file with such a run of zeros needs kernel 5.15, so
/// runs too short to matter are written out.
const HOLE_BITS: u8 = 17;
const HOLE_CHUNK: u64 = 1 << HOLE_BITS;
/// Bytes behind an inode that a tail may need besides itself: the largest inode.
const INODE_ROOM: u64 = 64;
/// Writes are gathered up to this many bytes.
const GATHER: usize = 1 << 20;
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
    fn whole(&self, size: u64) -> u64 {
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
    sink: S,
    placement: Placement,
    /// Byte where the next data goes; on a block border between files.
    next: u64,
    gathered: Vec<u8>,
    gathered_at: u64,
    tails: Tails,
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
            self.sink.write_at(&self.gathered, self.gathered_at).map_err(Error::Output)?;
            self.gathered.clear();
        }
        Ok(())
    }

    /// Appends the bytes of a tail to `out`.
    ///
    /// # Errors
    /// [`Error::Output`]: the scratch file is part of the output.
    pub fn read_tail(&self, tail: Tail, len: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        self.tails.read(tail, len, out).map_err(Error::Output)
    }

    fn keep_tail(&mut self, data: &[u8]) -> Result<(), Error> {
        self.tail_bytes += data.len() as u64;
        self.tails.append(data, &self.sink).map_err(Error::Output)
    }

    /// Writes at a byte of the image. Neighbouring small writes become one.
    fn write(&mut self, data: &[u8], at: u64) -> Result<(), Error> {
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
    fn open(&mut self, bytes: u64) -> Result<u64, Error> {
        let align = self.placement.align_blocks.max(1) << self.placement.block_bits;
        let start = if bytes == 0 { self.next } else { self.next.next_multiple_of(align) };
        self.check(start.saturating_add(bytes))?;
        Ok(start)
    }

    fn check(&self, end: u64) -> Result<(), Error> {
        let limit = self.placement.max_bytes;
        if end > limit { Err(Error::TooLarge { limit }) } else { Ok(()) }
    }

    /// Ends a file at byte `end` of the image.
    fn close(&mut self, end: u64) {
        self.next = end.next_multiple_of(self.placement.block());
    }

    /// A writer for a file of `size` bytes, of which only `segments` are data when they are given.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn file(&mut self, size: u64, segments: Option<&[Segment]>) -> Result<FileWriter, Error> {
        let shape = match segments {
            Some(segments) => Shape::Sparse(Sparse::new(size, segments, self.placement.block_bits)),
            None => {
                let whole = self.placement.whole(size);
                let start = self.open(whole)?;
                if size < HOLE_CHUNK {
                    Shape::Small { start, whole, tail: self.tails.next() }
                } else {
                    Shape::Large(Large::new(start, size, whole))
                }
            }
        };
        Ok(FileWriter { size, pos: 0, shape })
    }

    /// Copies a dense file of `size` bytes from byte `offset` of `from`, inside the kernel where it can.
    /// The result is the same as if its bytes had gone through a [`FileWriter`].
    ///
    /// # Errors
    /// [`Error::Input`], [`Error::Output`], [`Error::TooLarge`].
    pub fn copy_file(
        &mut self,
        from: BorrowedFd<'_>,
        offset: u64,
        size: u64,
    ) -> Result<Content, Error> {
        let whole = self.placement.whole(size);
        let mut large = Large::new(self.open(whole)?, size, whole);
        let mut copy = Copy { from, shift: 0, to: 0, len: 0 };
        let mut probe = vec![0; 4096];
        while large.pos < whole {
            let len = large.left_in_chunk().min(whole - large.pos);
            if self.placement.holes && is_hole(from, offset + large.pos, len, &mut probe)? {
                large.pass(len);
            } else {
                let (src, dst) = (offset + large.pos, large.at());
                copy.extend(self, src, dst, len)?;
                large.dirty = true;
                large.pass(len);
            }
            large.close_full_chunk(self.placement.block_bits);
        }
        copy.flush(self)?;
        let tail_len = usize::try_from(size - whole).unwrap_or(0);
        large.tail.resize(tail_len, 0);
        read_exact(from, &mut large.tail, offset + whole)?;
        large.finish(self, size)
    }
}

/// A copy that waits for its neighbour.
struct Copy<'a> {
    from: BorrowedFd<'a>,
    shift: u64,
    to: u64,
    len: u64,
}

impl Copy<'_> {
    fn extend<S: Sink>(
        &mut self,
        area: &DataArea<S>,
        src: u64,
        dst: u64,
        len: u64,
    ) -> Result<(), Error> {
        if self.len > 0 && (self.shift + self.len, self.to + self.len) == (src, dst) {
            self.len += len;
            return Ok(());
        }
        self.flush(area)?;
        (self.shift, self.to, self.len) = (src, dst, len);
        Ok(())
    }

    fn flush<S: Sink>(&mut self, area: &DataArea<S>) -> Result<(), Error> {
        if self.len > 0 {
            area.sink.copy_from(self.from, self.shift, self.to, self.len).map_err(Error::Output)?;
            self.len = 0;
        }
        Ok(())
    }
}

fn input_error(source: io::Error) -> Error {
    Error::Input { what: "file content".into(), source }
}

fn read_exact(from: BorrowedFd<'_>, mut buf: &mut [u8], mut offset: u64) -> Result<(), Error> {
    while !buf.is_empty() {
        match rustix::io::pread(from, &mut *buf, offset) {
            Ok(0) => return Err(input_error(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => {
                buf = buf.get_mut(n..).unwrap_or_default();
                offset += n as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(input_error(e.into())),
        }
    }
    Ok(())
}

/// Whether a range of a file is all zeros. Most are not, and their first bytes tell.
fn is_hole(from: BorrowedFd<'_>, offset: u64, len: u64, buf: &mut [u8]) -> Result<bool, Error> {
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).map_or(buf.len(), |l| l.min(buf.len()));
        let part = buf.get_mut(..want).unwrap_or_default();
        read_exact(from, part, offset + done)?;
        if !is_zero(part) {
            return Ok(false);
        }
        done += want as u64;
    }
    Ok(true)
}

fn is_zero(data: &[u8]) -> bool {
    let (blocks, rest) = data.as_chunks::<64>();
    blocks.iter().all(|b| b.iter().fold(0, |a, &x| a | x) == 0) && rest.iter().all(|&b| b == 0)
}

/// Takes the bytes of one file in order. Nothing else may be written to the area meanwhile.
#[derive(Debug)]
pub struct FileWriter {
    size: u64,
    pos: u64,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    Small { start: u64, whole: u64, tail: Tail },
    Large(Large),
    Sparse(Sparse),
}

impl FileWriter {
    /// The next bytes of the file; of a sparse file, of its segments one behind the other.
    ///
    /// # Errors
    /// [`Error::Output`], [`Error::TooLarge`].
    pub fn write<S: Sink>(&mut self, area: &mut DataArea<S>, data: &[u8]) -> Result<(), Error> {
        match &mut self.shape {
            Shape::Small { start, whole, .. } => {
                let in_area = usize::try_from(whole.saturating_sub(self.pos)).unwrap_or(usize::MAX);
                let (head, tail) = data.split_at(in_area.min(data.len()));
                if !head.is_empty() {
                    area.write(head, *start + self.pos)?;
                }
                if !tail.is_empty() {
                    area.keep_tail(tail)?;
                }
                self.pos += data.len() as u64;
                Ok(())
            }
            Shape::Large(large) => large.write(area, data),
            Shape::Sparse(sparse) => sparse.write(area, data),
        }
    }

    /// Ends the file. The caller has written as many bytes as it announced.
    ///
    /// # Errors
    /// [`Error::Output`], [`Error::TooLarge`].
    pub fn finish<S: Sink>(self, area: &mut DataArea<S>) -> Result<Content, Error> {
        match self.shape {
            _ if self.size == 0 => Ok(Content::Empty),
            Shape::Small { start, whole, tail } => {
                area.close(start + whole);
                let tail = (whole < self.size).then_some(tail);
                Ok(Content::Flat { start: start >> area.placement.block_bits, tail })
            }
            Shape::Large(large) => large.finish(area, self.size),
            Shape::Sparse(sparse) => Ok(sparse.finish(area)),
        }
    }
}

/// A dense file in which whole chunks of zeros become holes. Zeros at the front of a chunk need not be
/// written either: the output reads as zeros where nothing was.
#[derive(Debug)]
struct Large {
    size: u64,
    /// Bytes that do not go to the tail.
    whole: u64,
    pos: u64,
    start: u64,
    /// Byte of the image where the current chunk goes, if it is not a hole.
    chunk_at: u64,
    dirty: bool,
    chunks: Chunks,
    holes: bool,
    tail: Vec<u8>,
}

impl Large {
    fn new(start: u64, size: u64, whole: u64) -> Self {
        let chunks = Chunks { bits: HOLE_BITS, device: 0, runs: Vec::new() };
        Self {
            size,
            whole,
            pos: 0,
            start,
            chunk_at: start,
            dirty: false,
            chunks,
            holes: false,
            tail: Vec::new(),
        }
    }

    fn left_in_chunk(&self) -> u64 {
        HOLE_CHUNK - (self.pos & (HOLE_CHUNK - 1))
    }

    /// Where the byte at `pos` goes.
    fn at(&self) -> u64 {
        self.chunk_at + (self.pos & (HOLE_CHUNK - 1))
    }

    fn pass(&mut self, len: u64) {
        self.pos += len;
    }

    fn write<S: Sink>(&mut self, area: &mut DataArea<S>, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() && self.pos < self.whole {
            let room = self.left_in_chunk().min(self.whole - self.pos);
            let take = usize::try_from(room).map_or(data.len(), |r| r.min(data.len()));
            let (piece, rest) = data.split_at(take);
            if self.dirty || !area.placement.holes || !is_zero(piece) {
                self.dirty = true;
                area.write(piece, self.at())?;
            }
            self.pass(take as u64);
            self.close_full_chunk(area.placement.block_bits);
            data = rest;
        }
        self.tail.extend_from_slice(data);
        Ok(())
    }

    /// Accounts for the chunk that ends at `pos`, if one does.
    fn close_full_chunk(&mut self, block_bits: u8) {
        if self.pos & (HOLE_CHUNK - 1) == 0 {
            self.close_chunk((self.pos >> HOLE_BITS) - 1, HOLE_CHUNK, block_bits);
        }
    }

    fn close_chunk(&mut self, chunk: u64, len: u64, block_bits: u8) {
        if self.dirty {
            let blocks = HOLE_CHUNK >> block_bits;
            self.chunks.push(chunk, self.chunk_at >> block_bits, blocks);
            self.chunk_at += len;
        } else {
            self.holes = true;
        }
        self.dirty = false;
    }

    fn finish<S: Sink>(mut self, area: &mut DataArea<S>, size: u64) -> Result<Content, Error> {
        let block_bits = area.placement.block_bits;
        let open = self.size & (HOLE_CHUNK - 1);
        if open != 0 {
            self.dirty |= !area.placement.holes || !is_zero(&self.tail);
            let becomes_hole = !self.dirty;
            if (self.holes || becomes_hole) && self.dirty && !self.tail.is_empty() {
                let tail = std::mem::take(&mut self.tail);
                area.write(&tail, self.at())?;
            }
            self.close_chunk(self.size >> HOLE_BITS, open, block_bits);
        }
        if self.holes {
            area.close(self.chunk_at);
            if self.chunks.runs.is_empty() {
                self.chunks.bits = sparse_bits(size, &[], block_bits);
            }
            return Ok(Content::Chunks(Box::new(self.chunks)));
        }
        area.close(self.start + self.whole);
        let tail = (self.whole < self.size).then(|| area.tails.next());
        area.keep_tail(&self.tail)?;
        Ok(Content::Flat { start: self.start >> block_bits, tail })
    }
}

/// A file whose holes are known before its data.
#[derive(Debug)]
struct Sparse {
    size: u64,
    chunks: Chunks,
    /// Segments still to come, the next one last, and how much of it has come.
    segments: Vec<Segment>,
    within: u64,
    /// The chunk being filled and its byte of the image.
    current: Option<(u64, u64)>,
}

impl Sparse {
    fn new(size: u64, segments: &[Segment], block_bits: u8) -> Self {
        let bits = sparse_bits(size, segments, block_bits);
        Self {
            size,
            chunks: Chunks { bits, device: 0, runs: Vec::new() },
            segments: segments.iter().rev().filter(|s| s.len > 0).copied().collect(),
            within: 0,
            current: None,
        }
    }

    fn write<S: Sink>(&mut self, area: &mut DataArea<S>, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() {
            let Some(&segment) = self.segments.last() else { return Ok(()) };
            let logical = segment.offset + self.within;
            let chunk_len = 1u64 << self.chunks.bits;
            let in_chunk = logical & (chunk_len - 1);
            let room = (segment.len - self.within).min(chunk_len - in_chunk);
            let take = usize::try_from(room).map_or(data.len(), |r| r.min(data.len()));
            let (piece, rest) = data.split_at(take);
            let at = self.chunk_at(area, logical >> self.chunks.bits)?;
            area.write(piece, at + in_chunk)?;
            self.within += take as u64;
            if self.within == segment.len {
                self.segments.pop();
                self.within = 0;
            }
            data = rest;
        }
        Ok(())
    }

    /// Where a chunk goes; claims its blocks when it is a new one.
    fn chunk_at<S: Sink>(&mut self, area: &mut DataArea<S>, chunk: u64) -> Result<u64, Error> {
        if let Some((current, at)) = self.current
            && current == chunk
        {
            return Ok(at);
        }
        let len = (1u64 << self.chunks.bits).min(self.size - (chunk << self.chunks.bits));
        let at = if self.current.is_none() { area.open(len)? } else { area.next };
        area.check(at.saturating_add(len))?;
        let block_bits = area.placement.block_bits;
        area.close(at + len);
        self.chunks.push(chunk, at >> block_bits, 1 << (self.chunks.bits - block_bits));
        self.current = Some((chunk, at));
        Ok(at)
    }

    fn finish<S: Sink>(self, _area: &mut DataArea<S>) -> Content {
        Content::Chunks(Box::new(self.chunks))
    }
}
