//! Tables of extent records, of 48-bit images: byte-granular, and found by search.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::super::corruption::{Corruption, CorruptionKind, Error};
use super::{Algorithm, Coding, Form, Map, MappedSource, Metadata, Piece, Tail, advise};
use crate::format::compression::{ExtentRecord, MapHeader, plen};

/// Records of 4 bytes that are read at once.
const RUN: usize = 256;

/// Where a map of 4-byte records was read last: such records hold lengths only, so that an address is the
/// sum of all lengths before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hint {
    index: u64,
    address: u64,
}

/// One record.
#[derive(Debug, Clone, Copy)]
struct Record {
    plen: u32,
    address: u64,
    /// First byte in the file, where the record says.
    start: u64,
}

impl Map {
    /// Fills in the table from a map header that announces records.
    pub(super) fn parse_records(&mut self, header: &MapHeader) -> Result<(), Corruption> {
        let size_bits = (self.advise & advise::EXTENT_SIZE_MASK) >> advise::EXTENT_SIZE_SHIFT;
        let size = ExtentRecord::MIN_SIZE << size_bits;
        let known =
            advise::EXTENTS | advise::EXTENT_SIZE_MASK | advise::INTERLACED | advise::FRAGMENT;
        let bad = |detail| Corruption::new(CorruptionKind::MapHeader).detail(detail);
        if self.advise & !known != 0 {
            return Err(bad(format!("{:#x}", self.advise)));
        }
        let is_short = size <= ExtentRecord::MAX_SHORT;
        let count = if is_short { self.lclusters() } else { header.extents() };
        // An extent has at least one byte.
        if count > self.size || (count == 0 && self.size != 0) {
            return Err(bad(format!("{count} extents for {} bytes", self.size)));
        }
        if self.advise & advise::FRAGMENT != 0 {
            self.tail = Tail::Fragment { low: 0 };
        }
        self.start = self.start.next_multiple_of(size);
        self.form = Form::Records { size, count };
        Ok(())
    }

    pub(super) fn records_end(&self, size: u64, count: u64) -> u64 {
        // Before the lengths stands the address of the first extent.
        let base = if size == ExtentRecord::MIN_SIZE { ExtentRecord::BASE } else { 0 };
        self.start.saturating_add(base).saturating_add(count.saturating_mul(size))
    }

    /// The extent that holds `pos`.
    pub(super) fn find_record(
        &self,
        meta: &dyn Metadata,
        pos: u64,
        hint: &mut Hint,
    ) -> Result<Piece, Error> {
        let Form::Records { size, count } = self.form else {
            return Err(self.fault(CorruptionKind::MapHeader, self.start, "no records"));
        };
        let (index, record, end) = if size <= ExtentRecord::MAX_SHORT {
            let index = pos >> self.cluster_bits;
            let end = (index.saturating_add(1) << self.cluster_bits).min(self.size);
            let mut record = match size {
                ExtentRecord::MIN_SIZE => self.short_record(meta, index, hint)?,
                _ => self.record(meta, index, size)?,
            };
            record.start = index << self.cluster_bits;
            (index, record, end)
        } else {
            self.search(meta, pos, size, count)?
        };
        let source = self.record_source(index, count, record)?;
        Ok(Piece { start: record.start, end, source })
    }

    fn record_source(&self, index: u64, count: u64, record: Record) -> Result<MappedSource, Error> {
        if index.saturating_add(1) == count && matches!(self.tail, Tail::Fragment { .. }) {
            let high = (record.address >> 32 == 0).then_some(record.address << 32);
            let Some(high) = high else {
                return Err(self.fault(
                    CorruptionKind::FragmentOutside,
                    self.start,
                    record.address,
                ));
            };
            return Ok(MappedSource::Fragment { offset: high | u64::from(record.plen) });
        }
        let len = u64::from(record.plen & plen::LEN_MASK);
        if len == 0 {
            return Ok(MappedSource::Hole);
        }
        let reserved = record.plen & !(plen::LEN_MASK | plen::PARTIAL | plen::FORMAT_MASK);
        let format = u8::try_from(record.plen >> plen::FORMAT_SHIFT).unwrap_or(0);
        let coding = match format.checked_sub(1) {
            None => self.stored_record(record.address | len),
            Some(id) => Algorithm::from_id(id)
                .map(|algorithm| Coding::Compressed {
                    algorithm,
                    partial: record.plen & plen::PARTIAL != 0,
                })
                .ok_or_else(|| self.fault(CorruptionKind::ComprAlgorithm, self.start, id))?,
        };
        if reserved != 0 {
            let detail = format!("record {index}: {:#x}", record.plen);
            return Err(self.fault(CorruptionKind::MapEntry, self.start, detail));
        }
        Ok(MappedSource::Blocks { address: record.address, len, coding })
    }

    /// Stored bytes are rotated only where address and length are whole blocks.
    fn stored_record(&self, address_or_len: u64) -> Coding {
        if address_or_len & (1u64 << self.block_bits).wrapping_sub(1) == 0 {
            self.stored()
        } else {
            Coding::Stored
        }
    }

    fn record(&self, meta: &dyn Metadata, index: u64, size: u64) -> Result<Record, Error> {
        let at = self.start.saturating_add(index.saturating_mul(size));
        let mut record = ExtentRecord::new_zeroed();
        let stored =
            usize::try_from(size).ok().and_then(|len| record.as_mut_bytes().get_mut(..len));
        self.read_index(meta, at, stored.unwrap_or_default())?;
        Ok(Record { plen: record.plen.get(), address: record.address(), start: record.start() })
    }

    /// A record of 4 bytes: adds up the lengths from the start of the table, or from the hint.
    fn short_record(
        &self,
        meta: &dyn Metadata,
        index: u64,
        hint: &mut Hint,
    ) -> Result<Record, Error> {
        if hint.index > index || *hint == Hint::default() {
            let mut base = U64::ZERO;
            self.read_index(meta, self.start, base.as_mut_bytes())?;
            *hint = Hint { index: 0, address: base.get() };
        }
        let lengths = self.start.saturating_add(ExtentRecord::BASE);
        let mut run_of = [U32::ZERO; RUN];
        loop {
            // Whole runs of records at a time, ending with the one wanted.
            let wanted = index.saturating_sub(hint.index).saturating_add(1);
            let at = lengths.saturating_add(hint.index.saturating_mul(ExtentRecord::MIN_SIZE));
            let run = usize::try_from(wanted).map_or(RUN, |wanted| wanted.min(RUN));
            let part = run_of.get_mut(..run).unwrap_or_default();
            self.read_index(meta, at, part.as_mut_bytes())?;
            for plen in part {
                let plen = plen.get();
                if hint.index == index {
                    let fragment = index.saturating_add(1) == self.lclusters()
                        && matches!(self.tail, Tail::Fragment { .. });
                    // The last record of a file with a fragment is an offset and has no address.
                    let address = if fragment { 0 } else { hint.address };
                    return Ok(Record { plen, address, start: 0 });
                }
                hint.address = hint.address.saturating_add(u64::from(plen & plen::LEN_MASK));
                hint.index = hint.index.saturating_add(1);
            }
        }
    }

    /// Makes sure that records are in order; a search looks at a few of them only.
    pub(crate) fn verify_order(&self, meta: &dyn Metadata) -> Result<(), Error> {
        let (size, count) = match self.form {
            Form::Records { size, count } if size > ExtentRecord::MAX_SHORT => (size, count),
            _ => return Ok(()),
        };
        let mut least = 0;
        for index in 0..count {
            let start = self.record(meta, index, size)?.start;
            if start < least || start >= self.size || (index == 0 && start != 0) {
                let at = self.start.saturating_add(index.saturating_mul(size));
                return Err(self.fault(CorruptionKind::MapExtentOrder, at, start));
            }
            least = start.saturating_add(1);
        }
        Ok(())
    }

    /// The last record that starts at or before `pos`, and where the next one starts.
    fn search(
        &self,
        meta: &dyn Metadata,
        pos: u64,
        size: u64,
        count: u64,
    ) -> Result<(u64, Record, u64), Error> {
        let (mut left, mut right, mut end) = (0, count, self.size);
        let mut found: Option<(u64, Record)> = None;
        while left < right {
            let middle = left.saturating_add(right.saturating_sub(left) / 2);
            let record = self.record(meta, middle, size)?;
            let unordered = record.start >= end
                || found.is_some_and(|(_, before)| record.start <= before.start);
            if unordered {
                let at = self.start.saturating_add(middle.saturating_mul(size));
                return Err(self.fault(CorruptionKind::MapExtentOrder, at, record.start));
            }
            if record.start > pos {
                right = middle;
                end = record.start;
            } else {
                left = middle.saturating_add(1);
                found = Some((middle, record));
            }
        }
        match found {
            Some((index, record)) => Ok((index, record, end)),
            None => {
                Err(self.fault(CorruptionKind::MapExtentOrder, self.start, "nothing at the start"))
            }
        }
    }
}
