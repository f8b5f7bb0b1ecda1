//! Where inodes go: 32-byte slots of a zone that grows by blocks. The smallest gap that fits is used, so
//! that tails of files leave no more room unused than their sizes force.

/// The zone of inodes, counted in slots from its first byte.
#[derive(Debug)]
pub(super) struct Zone {
    slots_per_block: u32,
    /// Bytes at the front of an inode that lie in one block.
    unbroken: u64,
    /// Slots in the zone; a multiple of `slots_per_block`.
    end: u64,
    /// The last block is free from here on.
    open: u64,
    /// Starts of free ranges inside one of the other blocks, or before used slots, by their length in slots.
    gaps: Vec<Vec<u64>>,
    /// Bit n is set when `gaps[n]` is not empty.
    filled: Vec<u64>,
}

const SLOT: u64 = crate::format::SLOT_SIZE;
/// Bytes of the larger core.
const CORE: u64 = 64;
/// Kernels before 5.12 misread a core that crosses blocks; those before 6.4 take no smaller blocks than this.
const CROSSING_BITS: u8 = 12;

impl Zone {
    /// An empty zone. Its first slot stays unused, because nid 0 means "none" in several fields.
    pub(super) fn new(block_bits: u8) -> Self {
        let slots_per_block = 1u32 << (block_bits - 5);
        let classes = slots_per_block as usize + 1;
        Self {
            slots_per_block,
            unbroken: if block_bits < CROSSING_BITS { SLOT } else { CORE },
            end: u64::from(slots_per_block),
            open: 1,
            gaps: vec![Vec::new(); classes],
            filled: vec![0; classes.div_ceil(64)],
        }
    }

    /// Blocks of the zone.
    pub(super) fn blocks(&self) -> u64 {
        self.end / u64::from(self.slots_per_block)
    }

    /// Finds room for an inode: `head` bytes that may cross blocks, except the core, and then `tail`
    /// bytes that may not. Returns the slot; `None` for a tail that suits no start, which no inode has.
    pub(super) fn place(&mut self, head: u64, tail: u64) -> Option<u64> {
        let need = (head + tail).div_ceil(SLOT);
        if need > u64::from(self.slots_per_block) {
            return self.place_across(head, tail);
        }
        let open = self.end - self.open;
        let closed = self.smallest(need).filter(|&class| open < need || class as u64 <= open);
        if let Some((start, len)) = closed.and_then(|class| self.take(class)) {
            self.free(start + need, len - need);
            return Some(start);
        }
        // Without a tail, all but the core may lie in the next block.
        if open < need && (tail > 0 || open < self.unbroken / SLOT) {
            self.grow(1);
        } else if open < need {
            self.end += u64::from(self.slots_per_block);
        }
        self.open += need;
        Some(self.open - need)
    }

    /// An inode larger than a block, or whose tail does not fit into the block of its head.
    fn place_across(&mut self, head: u64, tail: u64) -> Option<u64> {
        let block = u64::from(self.slots_per_block) * SLOT;
        // Tails leave 64 bytes of a block, so two starts suit the tail, and one of them suits the core.
        let fits = |shift: &u64| {
            let tail_at = (shift + head) % block;
            shift % block + self.unbroken <= block && (tail == 0 || tail_at + tail <= block)
        };
        let shift = (0..block).step_by(32).find(fits)?;
        let used = (shift + head + tail).div_ceil(SLOT);
        let blocks = used.div_ceil(u64::from(self.slots_per_block));
        let base = self.grow(blocks);
        let start = base + shift / SLOT;
        self.free_range(base, start);
        self.open = base + used;
        Some(start)
    }

    /// Begins new blocks. Returns their first slot.
    fn grow(&mut self, blocks: u64) -> u64 {
        let start = self.end;
        self.free(self.open, self.end - self.open);
        self.open = start;
        self.end += blocks * u64::from(self.slots_per_block);
        start
    }

    /// Frees slots that may span several blocks.
    fn free_range(&mut self, mut start: u64, end: u64) {
        let per_block = u64::from(self.slots_per_block);
        while start < end {
            let stop = end.min((start / per_block + 1) * per_block);
            self.free(start, stop - start);
            start = stop;
        }
    }

    fn free(&mut self, start: u64, len: u64) {
        let Some(class) = usize::try_from(len).ok().filter(|&l| l > 0) else { return };
        if let (Some(gaps), Some(word)) =
            (self.gaps.get_mut(class), self.filled.get_mut(class / 64))
        {
            gaps.push(start);
            *word |= 1 << (class % 64);
        }
    }

    /// The smallest class of gaps of at least `need` slots.
    fn smallest(&self, need: u64) -> Option<usize> {
        let need = usize::try_from(need).ok()?;
        let mut mask = u64::MAX << (need % 64);
        for (i, word) in self.filled.iter().enumerate().skip(need / 64) {
            let hit = word & mask;
            if hit != 0 {
                return Some(i * 64 + hit.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    fn take(&mut self, class: usize) -> Option<(u64, u64)> {
        let gaps = self.gaps.get_mut(class)?;
        let start = gaps.pop()?;
        if gaps.is_empty()
            && let Some(word) = self.filled.get_mut(class / 64)
        {
            *word &= !(1 << (class % 64));
        }
        Some((start, class as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes: nothing overlaps, tails and cores stay inside a block.
        #[test]
        fn inodes_never_overlap_and_tails_never_cross(
            bits in 9u8..=16,
            inodes in prop::collection::vec((0u64..700, 0u64..=65_472, any::<bool>()), 1..200),
        ) {
            let block = 1u64 << bits;
            let mut zone = Zone::new(bits);
            let mut used: Vec<(u64, u64)> = vec![(0, 1)];
            for (words, tail, extended) in inodes {
                let core = if extended { 64 } else { 32 };
                let head = core + if words == 0 { 0 } else { 12 + 4 * words };
                let tail = tail % (block - 63);
                let slot = zone.place(head, tail).unwrap();
                let at = slot * SLOT;
                prop_assert!(bits < 12 || at % block + core <= block, "core crosses");
                let tail_at = (at + head) % block;
                prop_assert!(tail == 0 || tail_at + tail <= block, "tail crosses");
                used.push((slot, slot + (head + tail).div_ceil(SLOT)));
            }
            used.sort_unstable();
            prop_assert!(used.windows(2).all(|w| w[0].1 <= w[1].0), "overlap");
            prop_assert!(used.last().is_some_and(|l| l.1 <= zone.end));
        }
    }

    #[test]
    fn inodes_without_tails_leave_no_gaps() {
        let mut zone = Zone::new(9);
        for _ in 0..1000 {
            zone.place(96, 0).unwrap();
        }
        assert!(zone.blocks() * 512 <= 1000 * 96 + 1024, "{} blocks", zone.blocks());
    }

    #[test]
    fn small_inodes_fill_the_room_that_tails_leave() {
        let mut zone = Zone::new(12);
        for _ in 0..100 {
            zone.place(64, 3000).unwrap();
        }
        let before = zone.blocks();
        for _ in 0..1000 {
            zone.place(64, 0).unwrap();
        }
        assert_eq!(zone.blocks(), before);
    }
}
