//! Which bytes of a file were written, and which of its blocks are complete by that.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of bytes, none of which touches another.
#[derive(Debug, Default)]
pub(super) struct Spans(BTreeMap<u64, u64>);

impl Spans {
    /// Adds a range. Returns the whole blocks of `block` bytes that are in the spans now and were not before; `None` when
    /// some of its bytes were there already, and nothing is added then.
    pub(super) fn add(&mut self, new: Range<u64>, block: u64) -> Option<Range<u64>> {
        let Range { mut start, mut end } = new;
        if start >= end {
            return Some(start..start);
        }
        if self.0.range(..end).next_back().is_some_and(|(_, old)| *old > start) {
            return None;
        }
        if let Some((&before, _)) = self.0.range(..start).next_back().filter(|s| *s.1 == start) {
            self.0.remove(&before);
            start = before;
        }
        if let Some(after) = self.0.remove(&end) {
            end = after;
        }
        self.0.insert(start, end);
        let first = start.next_multiple_of(block).max(down(new.start, block));
        let last = down(end, block).min(new.end.next_multiple_of(block));
        Some(first..last.max(first))
    }

    /// The byte behind the last one.
    pub(super) fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, end)| *end)
    }
}

fn down(byte: u64, block: u64) -> u64 {
    byte - byte % block
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every block is reported once, when its last byte has come, and a second byte in one place is noticed.
        #[test]
        fn blocks_are_complete_when_all_their_bytes_are_there(
            ranges in proptest::collection::vec((0_u64..60, 0_u64..14), 1..30),
        ) {
            let (mut spans, mut bytes, mut told) = (Spans::default(), [false; 80], [false; 20]);
            for (start, len) in ranges {
                let range = start..start + len;
                let places = usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
                let found = spans.add(range, 4);
                prop_assert_eq!(found.is_none(), bytes[places.clone()].contains(&true));
                let Some(blocks) = found else { continue };
                bytes[places].fill(true);
                for block in blocks.step_by(4) {
                    let block = usize::try_from(block / 4).unwrap();
                    prop_assert!(!std::mem::replace(&mut told[block], true));
                }
                for (bytes, told) in bytes.as_chunks::<4>().0.iter().zip(told) {
                    prop_assert_eq!(!bytes.contains(&false), told);
                }
                let end = bytes.iter().rposition(|is_there| *is_there).map_or(0, |last| last + 1);
                prop_assert_eq!(spans.end(), end as u64);
            }
        }
    }
}
