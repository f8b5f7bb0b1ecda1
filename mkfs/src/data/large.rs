//! Dense content in which runs of zeros are looked for.

use super::area::DataArea;
use super::chunks::sparse_bits;
use super::{Chunks, Content};
use crate::Error;
use crate::io::{Sink, is_zero};

/// log2 of the chunk in which zeros are looked for. A file with such a run of zeros needs kernel 5.15, so
/// runs too short to matter are written out.
const HOLE_BITS: u8 = 17;
/// Bytes of such a chunk; a smaller file has no holes.
pub(super) const HOLE_CHUNK: u64 = 1 << HOLE_BITS;

/// A dense file in which whole chunks of zeros become holes. Zeros at the front of a chunk need not be
/// written either: the output reads as zeros where nothing was.
#[derive(Debug)]
pub(super) struct Large {
    size: u64,
    /// Bytes that do not go to the tail.
    whole: u64,
    pub(super) pos: u64,
    start: u64,
    /// Byte of the image where the current chunk goes, if it is not a hole.
    chunk_at: u64,
    pub(super) dirty: bool,
    chunks: Chunks,
    holes: bool,
    pub(super) tail: Vec<u8>,
}

impl Large {
    pub(super) fn new(start: u64, size: u64, whole: u64) -> Self {
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

    pub(super) fn left_in_chunk(&self) -> u64 {
        HOLE_CHUNK - (self.pos & (HOLE_CHUNK - 1))
    }

    /// Where the byte at `pos` goes.
    pub(super) fn at(&self) -> u64 {
        self.chunk_at + (self.pos & (HOLE_CHUNK - 1))
    }

    pub(super) fn pass(&mut self, len: u64) {
        self.pos += len;
    }

    pub(super) fn write<S: Sink>(
        &mut self,
        area: &mut DataArea<S>,
        mut data: &[u8],
    ) -> Result<(), Error> {
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
    pub(super) fn close_full_chunk(&mut self, block_bits: u8) {
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

    pub(super) fn finish<S: Sink>(
        mut self,
        area: &mut DataArea<S>,
        size: u64,
    ) -> Result<Content, Error> {
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
