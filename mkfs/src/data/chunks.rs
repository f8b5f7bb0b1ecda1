//! Chunk-based files: files with holes, and files on another device.

use crate::format::CHUNK_BITS_MASK;
use crate::meta::Segment;

/// Consecutive chunks whose data is consecutive too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First chunk of the run.
    pub chunk: u64,
    /// Chunks.
    pub count: u64,
    /// Block of its first byte.
    pub start: u64,
}

/// The chunks of a file. What no run covers is a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    /// log2 of the bytes in a chunk.
    pub bits: u8,
    /// 0 for the image itself, k for device slot k - 1.
    pub device: u16,
    /// Ascending, without overlap.
    pub runs: Vec<Run>,
}

impl Chunks {
    /// Chunks in a file of `size` bytes.
    #[must_use]
    pub fn count(&self, size: u64) -> u64 {
        size.div_ceil(1 << self.bits)
    }

    /// Appends the chunk `chunk` at block `start`; `blocks` is the length of a chunk.
    pub(super) fn push(&mut self, chunk: u64, start: u64, blocks: u64) {
        if let Some(last) = self.runs.last_mut()
            && last.chunk + last.count == chunk
            && last.start + last.count * blocks == start
        {
            last.count += 1;
            return;
        }
        self.runs.push(Run { chunk, count: 1, start });
    }
}

/// log2 of the largest chunk that the format can express.
fn largest_bits(block_bits: u8) -> u8 {
    let field = u8::try_from(CHUNK_BITS_MASK).unwrap_or(u8::MAX);
    (block_bits + field).min(62)
}

/// Bytes of chunks that the segments touch, for one chunk size.
fn touched_bytes(bits: u8, segments: &[Segment]) -> u64 {
    let mut chunks = 0u64;
    let mut next_free = 0;
    for segment in segments.iter().filter(|s| s.len > 0) {
        let first = (segment.offset >> bits).max(next_free);
        let last = (segment.offset + segment.len - 1) >> bits;
        if last >= first {
            chunks += last - first + 1;
            next_free = last + 1;
        }
    }
    chunks.saturating_mul(1 << bits)
}

/// The chunk size, as log2, that makes a sparse file smallest: data that chunks drag in, and four bytes
/// for every chunk.
pub(super) fn sparse_bits(size: u64, segments: &[Segment], block_bits: u8) -> u8 {
    let cost = |&bits: &u8| {
        let index = size.div_ceil(1 << bits).saturating_mul(4);
        touched_bytes(bits, segments).saturating_add(index)
    };
    (block_bits..=largest_bits(block_bits)).min_by_key(cost).unwrap_or(block_bits)
}

/// The chunks of a file that lies in another device at byte `offset`, its segments one behind the other.
/// `None` when it does not lie on block borders there.
#[must_use]
pub fn device_chunks(
    device: u16,
    offset: u64,
    size: u64,
    segments: Option<&[Segment]>,
    block_bits: u8,
) -> Option<Chunks> {
    let mask = (1u64 << block_bits) - 1;
    if offset & mask != 0 {
        return None;
    }
    let whole = [Segment { offset: 0, len: size }];
    let segments = segments.unwrap_or(&whole);
    let largest = largest_bits(block_bits);
    // Every border of a segment, but the end of the file, must be a border of chunks.
    let mut bits = largest;
    for segment in segments.iter().filter(|s| s.len > 0) {
        let end = segment.offset + segment.len;
        let borders = if end == size { segment.offset } else { segment.offset | end };
        if borders & mask != 0 {
            return None;
        }
        if borders != 0 {
            bits = bits.min(u8::try_from(borders.trailing_zeros()).unwrap_or(largest));
        }
    }
    // No larger than the file needs: one entry is the least there can be.
    let enough = u8::try_from(size.next_power_of_two().trailing_zeros()).unwrap_or(largest);
    let bits = bits.min(enough).max(block_bits);
    let mut chunks = Chunks { bits, device, runs: Vec::new() };
    let mut at = offset;
    for segment in segments.iter().filter(|s| s.len > 0) {
        chunks.runs.push(Run {
            chunk: segment.offset >> bits,
            count: segment.len.div_ceil(1 << bits),
            start: at >> block_bits,
        });
        at += segment.len;
    }
    Some(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seg(offset: u64, len: u64) -> Segment {
        Segment { offset, len }
    }

    #[test]
    fn sparse_files_choose_the_cheapest_chunk() {
        // A hole only: the fewest entries there can be.
        assert!((1u64 << 44).div_ceil(1 << sparse_bits(1 << 44, &[], 12)) <= 2);
        // All data: one chunk would do, none is dragged in.
        assert!(sparse_bits(1 << 20, &[seg(0, 1 << 20)], 12) >= 20);
        // One block at the end of 1 TiB: neither 2^28 entries nor a gigabyte of dragged zeros.
        let bits = sparse_bits(1 << 40, &[seg((1 << 40) - 4096, 4096)], 12);
        assert!((18..=24).contains(&bits), "{bits}");
    }

    #[test]
    fn device_files_are_one_entry_unless_sparse() {
        let one = device_chunks(1, 1024, 5_000_000, None, 9).unwrap();
        assert_eq!((one.bits, one.runs.len(), one.count(5_000_000)), (23, 1, 1));
        assert_eq!(one.runs[0], Run { chunk: 0, count: 1, start: 2 });
        let segments = [seg(0, 1024), seg(4096, 512), seg(8192, 100)];
        let sparse = device_chunks(1, 512, 8292, Some(&segments), 9).unwrap();
        assert_eq!(sparse.bits, 9);
        assert_eq!(sparse.runs[1], Run { chunk: 8, count: 1, start: 3 });
        assert_eq!(sparse.runs[2], Run { chunk: 16, count: 1, start: 4 });
        assert!(device_chunks(1, 512, 9000, Some(&[seg(100, 50)]), 9).is_none());
    }
}
