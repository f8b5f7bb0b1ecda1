//! The content of a file whose holes the source names: written in chunks, without those that are holes.

use super::area::DataArea;
use super::chunks::sparse_bits;
use super::{Chunks, Content};
use crate::Error;
use crate::io::{Sink, is_zero};
use crate::meta::Segment;

/// Fewer zeros are written as they come: neighbours are written together, and a gap would part them.
const SKIPPED_ABOVE: usize = 4096;

/// A file whose holes are known before its data.
#[derive(Debug)]
pub(super) struct Sparse {
    size: u64,
    chunks: Chunks,
    /// Segments still to come, the next one last, and how much of it has come.
    segments: Vec<Segment>,
    within: u64,
    /// The chunk being filled and its byte of the image.
    current: Option<(u64, u64)>,
}

impl Sparse {
    pub(super) fn new(size: u64, segments: &[Segment], block_bits: u8) -> Self {
        let bits = sparse_bits(size, segments, block_bits);
        Self {
            size,
            chunks: Chunks { bits, device: 0, runs: Vec::new() },
            segments: segments.iter().rev().filter(|s| s.len > 0).copied().collect(),
            within: 0,
            current: None,
        }
    }

    pub(super) fn write<S: Sink>(
        &mut self,
        area: &mut DataArea<S>,
        mut data: &[u8],
    ) -> Result<(), Error> {
        while !data.is_empty() {
            let Some(&segment) = self.segments.last() else { return Ok(()) };
            let logical = segment.offset + self.within;
            let chunk_len = 1u64 << self.chunks.bits;
            let in_chunk = logical & (chunk_len - 1);
            let room = (segment.len - self.within).min(chunk_len - in_chunk);
            let take = usize::try_from(room).map_or(data.len(), |r| r.min(data.len()));
            let (piece, rest) = data.split_at(take);
            let at = self.chunk_at(area, logical >> self.chunks.bits)?;
            // The image reads as zeros where nothing was written, and takes no room there.
            if piece.len() < SKIPPED_ABOVE || !is_zero(piece) {
                area.write(piece, at + in_chunk)?;
            }
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

    pub(super) fn finish(self) -> Content {
        Content::Chunks(Box::new(self.chunks))
    }
}
