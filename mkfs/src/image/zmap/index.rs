//! Tables with one entry for each lcluster.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::super::corruption::{Corruption, CorruptionKind, Error};
use super::{Coding, DECODED_MAX, Form, Map, MappedSource, Metadata, Piece, Tail, advise};
use crate::format::compression::{
    COMPACT_2B_CLUSTER_BITS, COMPACT_4B_CLUSTER_BITS, CompactPack2, CompactPack4, FullIndex, index,
};

/// How the extent of a head is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadKind {
    /// Uncompressed.
    Stored,
    /// By the first algorithm.
    First,
    /// By the second.
    Second,
}

/// One index entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lcluster {
    /// An extent starts here.
    Head {
        kind: HeadKind,
        /// Byte in the lcluster where it starts.
        offset: u16,
        /// First block of its compressed bytes.
        block: u32,
        partial: bool,
        /// The extent is zeros. Older kernels decode what is in `block`, so it has to be zeros as well.
        hole: bool,
    },
    /// The extent started earlier.
    NonHead {
        /// Lclusters back to, or towards, the head.
        back: u16,
        /// Lclusters forward to, or towards, the next head; full tables only.
        forward: Option<u16>,
        /// Blocks of compressed bytes; only directly behind the head.
        blocks: Option<u16>,
    },
}

/// A head and where it was found.
#[derive(Debug, Clone, Copy)]
struct Head {
    lcn: u64,
    start: u64,
    kind: HeadKind,
    block: u32,
    partial: bool,
    hole: bool,
}

/// What the entry behind a head says of its compressed blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocks {
    /// Nothing, and nothing had to be said: it is one.
    One,
    /// Nothing, where a count is needed.
    Missing,
    /// So many.
    Given(u16),
}

/// A pack of compact entries with a common base block.
struct Pack<'a> {
    entries: &'a [u8],
    base: u32,
    slots: usize,
    low_bits: u8,
}

impl Pack<'_> {
    /// Low bits and kind of a slot.
    fn field(&self, slot: usize) -> (u16, u8) {
        let bits = self.entries.len().saturating_mul(8);
        let bit = bits.checked_div(self.slots).unwrap_or(0).saturating_mul(slot);
        let mut word = U32::ZERO;
        let from = self.entries.get(bit / 8..).unwrap_or_default();
        for (to, from) in word.as_mut_bytes().iter_mut().zip(from) {
            *to = *from;
        }
        let word = word.get() >> (bit % 8);
        let low = word & (1u32 << self.low_bits).wrapping_sub(1);
        let kind = (word >> self.low_bits) & u32::from(index::KIND_MASK);
        // At most 14 and 2 bits.
        (u16::try_from(low).unwrap_or(0), u8::try_from(kind).unwrap_or(0))
    }
}

/// In what an entry is.
#[derive(Debug, Clone, Copy)]
enum EntryForm {
    /// By itself.
    Full,
    /// In a pack of two.
    Pack4,
    /// In a pack of sixteen.
    Pack2,
}

impl EntryForm {
    /// Bytes of the entry or of its pack.
    const fn bytes(self) -> u64 {
        let bytes = match self {
            Self::Full => size_of::<FullIndex>(),
            Self::Pack4 => size_of::<CompactPack4>(),
            Self::Pack2 => size_of::<CompactPack2>(),
        };
        bytes as u64
    }

    /// Bytes of the share of one entry.
    const fn share(self) -> u64 {
        match self {
            Self::Full => self.bytes(),
            Self::Pack4 => CompactPack4::SHARE,
            Self::Pack2 => CompactPack2::SHARE,
        }
    }
}

/// Where the entry of an lcluster is.
#[derive(Debug, Clone, Copy)]
struct EntryPlace {
    /// Offset of the entry or of its pack.
    at: u64,
    slot: usize,
    form: EntryForm,
}

impl Map {
    /// Fills in the layout of a compact table.
    pub(super) fn place_compact(&mut self) -> Result<(), Corruption> {
        // Entries are counted in blocks, even where lclusters are larger.
        let total = self.size.div_ceil(1 << self.block_bits);
        // Packs of sixteen are aligned to their size.
        let aligned = self.start.checked_next_multiple_of(EntryForm::Pack2.bytes());
        let before = aligned.unwrap_or(self.start).saturating_sub(self.start);
        let initial = before / CompactPack4::SHARE;
        let rest = total.saturating_sub(initial);
        let twos = self.advise & advise::COMPACTED_2B != 0;
        let pairs = if twos { rest & !(CompactPack2::SLOTS as u64).saturating_sub(1) } else { 0 };
        let most = if pairs == 0 { COMPACT_4B_CLUSTER_BITS } else { COMPACT_2B_CLUSTER_BITS };
        if self.cluster_bits > most {
            return Err(Corruption::new(CorruptionKind::MapHeader)
                .detail(format_args!("lclusters of 2^{} bytes", self.cluster_bits)));
        }
        self.form = Form::Compact { initial, pairs };
        Ok(())
    }

    fn locate(&self, lcn: u64) -> EntryPlace {
        let Form::Compact { initial, pairs } = self.form else {
            let at = self.start.saturating_add(lcn.saturating_mul(EntryForm::Full.bytes()));
            return EntryPlace { at, slot: 0, form: EntryForm::Full };
        };
        let behind = lcn.saturating_sub(initial);
        let fours = initial.min(lcn).saturating_add(behind.saturating_sub(pairs));
        let fours = fours.saturating_mul(EntryForm::Pack4.share());
        let twos = behind.min(pairs).saturating_mul(EntryForm::Pack2.share());
        let at = self.start.saturating_add(fours.saturating_add(twos));
        let is_two = lcn >= initial && behind < pairs;
        let form = if is_two { EntryForm::Pack2 } else { EntryForm::Pack4 };
        let within = at & form.bytes().saturating_sub(1);
        let slot = within.checked_div(form.share()).and_then(|slot| usize::try_from(slot).ok());
        EntryPlace { at: at.saturating_sub(within), slot: slot.unwrap_or(0), form }
    }

    /// First byte behind the table, where an inline tail is.
    pub(crate) fn index_end(&self) -> u64 {
        let last = self.locate(self.lclusters().saturating_sub(1));
        last.at.saturating_add(last.form.bytes())
    }

    /// Reads the entry of one lcluster.
    pub(crate) fn load(&self, meta: &dyn Metadata, lcn: u64) -> Result<Lcluster, Error> {
        let EntryPlace { at, slot, form } = self.locate(lcn);
        let pack = |entries, base: U32, slots| {
            let low_bits = self.cluster_bits.max(COMPACT_2B_CLUSTER_BITS);
            self.compact_entry(&Pack { entries, base: base.get(), slots, low_bits }, slot)
        };
        let entry = match form {
            EntryForm::Full => self.full_entry(&self.read_as(meta, at)?),
            EntryForm::Pack4 => {
                let CompactPack4 { entries, base } = self.read_as(meta, at)?;
                pack(&entries, base, CompactPack4::SLOTS)
            }
            EntryForm::Pack2 => {
                let CompactPack2 { entries, base } = self.read_as(meta, at)?;
                pack(&entries, base, CompactPack2::SLOTS)
            }
        };
        let entry = entry.map_err(|c| c.nid(self.nid).at(at))?;
        if let Lcluster::Head { offset, .. } = entry
            && u64::from(offset) >= 1 << self.cluster_bits
        {
            return Err(self.fault(CorruptionKind::MapEntry, at, format_args!("offset {offset}")));
        }
        Ok(entry)
    }

    fn read_as<T: FromBytes + IntoBytes>(&self, meta: &dyn Metadata, at: u64) -> Result<T, Error> {
        let mut value = T::new_zeroed();
        self.read_index(meta, at, value.as_mut_bytes())?;
        Ok(value)
    }

    fn full_entry(&self, entry: &FullIndex) -> Result<Lcluster, Corruption> {
        use index::{HEAD_1, HOLE, KIND_MASK, NONHEAD, PARTIAL, PLAIN};
        let bits = entry.advise.get();
        // Two bits.
        let kind = u8::try_from(bits & KIND_MASK).unwrap_or(NONHEAD);
        let known = KIND_MASK | PARTIAL | if kind == NONHEAD { 0 } else { HOLE };
        if bits & !known != 0 {
            return Err(Corruption::new(CorruptionKind::MapEntry).detail(format_args!("{bits:#x}")));
        }
        if kind == NONHEAD {
            let [back, forward] = entry.distances();
            let (back, blocks) = self.distance(back)?;
            return Ok(Lcluster::NonHead { back, forward: Some(forward), blocks });
        }
        Ok(Lcluster::Head {
            kind: match kind {
                PLAIN => HeadKind::Stored,
                HEAD_1 => HeadKind::First,
                _ => HeadKind::Second,
            },
            offset: entry.offset.get(),
            block: entry.u.get(),
            partial: bits & PARTIAL != 0,
            hole: bits & HOLE != 0,
        })
    }

    fn compact_entry(&self, pack: &Pack<'_>, slot: usize) -> Result<Lcluster, Corruption> {
        let (low, kind) = pack.field(slot);
        if kind != index::NONHEAD {
            let kind = match kind {
                index::PLAIN => HeadKind::Stored,
                index::HEAD_1 => HeadKind::First,
                _ => HeadKind::Second,
            };
            let block = pack.base.wrapping_add(self.blocks_before(pack, slot)?);
            let (partial, hole) = (false, false);
            return Ok(Lcluster::Head { kind, offset: low, block, partial, hole });
        }
        if low & index::BLOCK_COUNT != 0 || slot.saturating_add(1) != pack.slots {
            let (back, blocks) = self.distance(low)?;
            return Ok(Lcluster::NonHead { back, forward: None, blocks });
        }
        // The last entry of a pack holds the distance forward; the way back follows from its neighbour.
        let back = match pack.field(slot.saturating_sub(1)) {
            (low, index::NONHEAD) => self.distance(low)?.0.saturating_add(1),
            _ => 1,
        };
        Ok(Lcluster::NonHead { back, forward: Some(low), blocks: None })
    }

    /// Blocks of the pack that come before the extent of the head in `slot`, as the base counts them.
    fn blocks_before(&self, pack: &Pack<'_>, slot: usize) -> Result<u32, Corruption> {
        let big = self.advise & advise::BIG_1 != 0;
        let mut blocks = u32::from(!big);
        let mut at = slot;
        while let Some(previous) = at.checked_sub(1) {
            at = previous;
            let (low, kind) = pack.field(at);
            if kind != index::NONHEAD {
                blocks = blocks.saturating_add(1);
            } else if !big {
                match at.checked_sub(usize::from(low)) {
                    // The head is in this pack, unless the distance leads before it.
                    Some(head) => {
                        at = head;
                        blocks = blocks.saturating_add(1);
                    }
                    None => break,
                }
            } else if low & index::BLOCK_COUNT != 0 {
                blocks = blocks.saturating_add(u32::from(low & !index::BLOCK_COUNT));
                at = at.saturating_sub(1);
            } else {
                let Some(back) = low.checked_sub(2) else {
                    return Err(
                        Corruption::new(CorruptionKind::MapEntry).detail("distance below 2")
                    );
                };
                // Leads to the entry behind the head, which holds the count.
                match at.checked_sub(usize::from(back)) {
                    Some(behind) => at = behind,
                    None => break,
                }
            }
        }
        Ok(blocks)
    }

    /// Splits a distance from a block count, which stands directly behind the head.
    fn distance(&self, raw: u16) -> Result<(u16, Option<u16>), Corruption> {
        if raw & index::BLOCK_COUNT == 0 {
            return Ok((raw, None));
        }
        if self.advise & (advise::BIG_1 | advise::BIG_2) == 0 {
            return Err(
                Corruption::new(CorruptionKind::MapBlockCount).detail(format_args!("{raw:#x}"))
            );
        }
        Ok((1, Some(raw & !index::BLOCK_COUNT)))
    }

    /// The extent that holds `pos`.
    pub(super) fn find_index(&self, meta: &dyn Metadata, pos: u64) -> Result<Piece, Error> {
        let head = self.find_head(meta, pos)?;
        let (end, blocks) = self.find_end(meta, &head)?;
        let source = self.source_of(meta, &head, end, blocks)?;
        Ok(Piece { start: head.start, end, source })
    }

    /// What kernels before Linux 7.2 decode where a head of a full table says that there is a hole: the cluster that the
    /// head leads to. `None` where there is no such hole. A hole that is a count of no blocks is none for them.
    pub(crate) fn stand_in(&self, meta: &dyn Metadata, pos: u64) -> Result<Option<Piece>, Error> {
        if self.form != Form::Full {
            return Ok(None);
        }
        let head = self.find_head(meta, pos)?;
        if !head.hole {
            return Ok(None);
        }
        let (end, blocks) = self.find_end(meta, &head)?;
        let source = self.source_of(meta, &Head { hole: false, ..head }, end, blocks)?;
        let piece = Piece { start: head.start, end, source };
        self.check_piece(meta.superblock(), &piece).map_err(|c| c.nid(self.nid).at(self.start))?;
        Ok(Some(piece))
    }

    fn head_at(&self, lcn: u64, entry: Lcluster) -> Option<Head> {
        let Lcluster::Head { kind, offset, block, partial, hole } = entry else { return None };
        let start = (lcn << self.cluster_bits).saturating_add(u64::from(offset));
        Some(Head { lcn, start, kind, block, partial, hole })
    }

    fn find_head(&self, meta: &dyn Metadata, pos: u64) -> Result<Head, Error> {
        let first = pos >> self.cluster_bits;
        let farthest = (DECODED_MAX >> self.cluster_bits).saturating_add(2);
        let mut lcn = first;
        loop {
            let entry = self.load(meta, lcn)?;
            let back = match (self.head_at(lcn, entry), entry) {
                (Some(head), _) if head.start <= pos => return Ok(head),
                (Some(_), _) => 1,
                (None, Lcluster::NonHead { back, .. }) => u64::from(back),
                (None, Lcluster::Head { .. }) => 0,
            };
            lcn = match lcn.checked_sub(back) {
                Some(to) if back != 0 => to,
                _ => {
                    let detail = format!("lcluster {lcn}, distance {back}");
                    return Err(self.fault(
                        CorruptionKind::MapLookback,
                        self.locate(lcn).at,
                        detail,
                    ));
                }
            };
            if first.saturating_sub(lcn) > farthest {
                return Err(self.fault(
                    CorruptionKind::MapTooLarge,
                    self.locate(lcn).at,
                    "lookback",
                ));
            }
        }
    }

    /// The end of the extent, and what is said of the number of its blocks.
    fn find_end(&self, meta: &dyn Metadata, head: &Head) -> Result<(u64, Blocks), Error> {
        let count = self.lclusters();
        let farthest = (DECODED_MAX >> self.cluster_bits).saturating_add(2);
        let mut blocks = Blocks::One;
        // Where the entries say that the next head is not before.
        let mut promised = 0;
        let mut lcn = head.lcn.saturating_add(1);
        while lcn < count {
            let entry = self.load(meta, lcn)?;
            match (self.head_at(lcn, entry), entry) {
                // A head at the end of the file only closes the extent before it.
                (Some(_), _) if promised > lcn => {
                    let detail = format!("lcluster {lcn}, promised {promised}");
                    return Err(self.fault(
                        CorruptionKind::MapLookahead,
                        self.locate(lcn).at,
                        detail,
                    ));
                }
                (Some(next), _) => return Ok((next.start.min(self.size), blocks)),
                (None, Lcluster::NonHead { back, forward, blocks: count }) => {
                    promised = promised.max(lcn.saturating_add(forward.unwrap_or(0).into()));
                    let distance = lcn.saturating_sub(head.lcn);
                    let at = self.locate(lcn).at;
                    if back == 0 || u64::from(back) > distance {
                        return Err(self.fault(CorruptionKind::MapLookback, at, "past the head"));
                    }
                    match count {
                        Some(count) if distance == 1 => blocks = Blocks::Given(count),
                        Some(_) => {
                            return Err(self.fault(
                                CorruptionKind::MapBlockCount,
                                at,
                                "not behind a head",
                            ));
                        }
                        None if distance == 1 && self.is_big(head.kind) => blocks = Blocks::Missing,
                        None => {}
                    }
                    if distance > farthest {
                        return Err(self.fault(CorruptionKind::MapTooLarge, at, "lookahead"));
                    }
                }
                (None, Lcluster::Head { .. }) => {}
            }
            lcn = lcn.saturating_add(1);
        }
        Ok((self.size, blocks))
    }

    fn is_big(&self, kind: HeadKind) -> bool {
        let bit = if kind == HeadKind::First { advise::BIG_1 } else { advise::BIG_2 };
        self.advise & bit != 0
    }

    fn source_of(
        &self,
        meta: &dyn Metadata,
        head: &Head,
        end: u64,
        blocks: Blocks,
    ) -> Result<MappedSource, Error> {
        let at = self.locate(head.lcn).at;
        let last = end == self.size;
        if head.hole && last && self.tail != Tail::Plain {
            return Err(self.fault(
                CorruptionKind::MapHole,
                at,
                "the tail of the file is elsewhere",
            ));
        }
        if let (true, Tail::Fragment { low }) = (last, self.tail) {
            // Full tables have room for the high half of the offset.
            let high = if self.form == Form::Full { u64::from(head.block) << 32 } else { 0 };
            return Ok(MappedSource::Fragment { offset: high | u64::from(low) });
        }
        let coding = match head.kind {
            HeadKind::Stored => self.stored(),
            kind => Coding::Compressed {
                algorithm: self
                    .algorithm(kind == HeadKind::Second)
                    .map_err(|c| c.nid(self.nid).at(at))?,
                partial: head.partial,
            },
        };
        if let (true, Tail::Inline { len }) = (last, self.tail) {
            let offset = self.index_end();
            let len = u64::from(len);
            let block = meta.superblock().block_size();
            if (offset & block.saturating_sub(1)).saturating_add(len) > block {
                return Err(self.fault(CorruptionKind::DataInlineCrosses, offset, len));
            }
            return Ok(MappedSource::Inline { offset, len, coding });
        }
        let blocks = match blocks {
            _ if head.hole => 0,
            Blocks::Given(blocks) if self.is_big(head.kind) => blocks,
            Blocks::Missing => {
                return Err(self.fault(CorruptionKind::MapBlockCount, at, "none behind a head"));
            }
            Blocks::Given(_) | Blocks::One => 1,
        };
        Ok(MappedSource::Blocks {
            address: u64::from(head.block) << self.block_bits,
            len: u64::from(blocks) << self.block_bits,
            coding,
        })
    }
}
