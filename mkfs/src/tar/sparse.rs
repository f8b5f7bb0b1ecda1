//! Sparse maps in their four forms: in the blocks of an old GNU header, as pax records (0.0 repeated keys,
//! 0.1 one list), and as text in front of the data (1.0).
//!
//! GNU tar manual, "Sparse Formats". Numbers are decimal there, whatever the manual says.

use super::header::{SparseSlot, field};
use super::pax::{Records, Span, decimal};
use super::{BLOCK, Limits, Problem};
use crate::meta::Segment;

/// Which of the pax forms the records describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PaxForm {
    /// The map is in the records.
    Records,
    /// The map is in front of the data.
    Data,
}

/// Tells a sparse file by its records as Go does: by version, or without one by a map. Other records alone
/// (`GNU.sparse.name`) make no sparse file.
pub(super) fn pax_form(records: &Records) -> Result<Option<PaxForm>, Problem> {
    let sparse = &records.sparse;
    match (records.get(sparse.major), records.get(sparse.minor)) {
        (b"0", b"0" | b"1") => Ok(Some(PaxForm::Records)),
        (b"1", b"0") => Ok(Some(PaxForm::Data)),
        ([], []) if !sparse.points.is_empty() || !records.get(sparse.map).is_empty() => {
            Ok(Some(PaxForm::Records))
        }
        ([], []) => Ok(None),
        _ => Err(Problem::BadSparseMap("unknown version")),
    }
}

/// Size of the expanded file.
pub(super) fn pax_size(records: &Records) -> Result<i64, Problem> {
    let sparse = &records.sparse;
    let size = [sparse.size, sparse.real_size].map(|s| records.get(s));
    let digits = size.into_iter().find(|s| !s.is_empty());
    let digits = digits.ok_or(Problem::BadSparseMap("the size of the file is missing"))?;
    decimal(digits).ok_or(Problem::BadNumber { field: "GNU.sparse.size" })
}

/// Reads the map of the forms 0.0 and 0.1.
pub(super) fn read_records(records: &Records, map: &mut Map) -> Result<(), Problem> {
    const FIELD: &str = "GNU.sparse.map";
    let bad_number = || Problem::BadNumber { field: FIELD };
    let sparse = &records.sparse;
    let count = decimal(records.get(sparse.count))
        .ok_or(Problem::BadNumber { field: "GNU.sparse.numblocks" })?;
    if sparse.points.is_empty() {
        let list = records.get(sparse.map);
        let mut numbers = list.split(|b| *b == b',').filter(|_| !list.is_empty());
        while let Some(offset) = numbers.next() {
            let len = numbers.next().unwrap_or_default();
            map.push(
                decimal(offset).ok_or_else(bad_number)?,
                decimal(len).ok_or_else(bad_number)?,
            )?;
        }
    } else {
        let number = |span: &Span| decimal(records.get(*span)).ok_or_else(bad_number);
        for pair in sparse.points.chunks(2) {
            let [offset, len] = pair else {
                return Err(Problem::BadSparseMap("an offset without numbytes"));
            };
            map.push(number(offset)?, number(len)?)?;
        }
    }
    if i64::try_from(map.seen) != Ok(count) {
        return Err(Problem::BadSparseMap("numblocks does not count the runs"));
    }
    Ok(())
}

/// Adds the runs of one old GNU block, up to the first unused slot.
pub(super) fn read_slots(slots: &[SparseSlot], map: &mut Map) -> Result<(), Problem> {
    for slot in slots.iter().take_while(|slot| !slot.offset.starts_with(&[0])) {
        map.push(field("sparse offset", &slot.offset)?, field("sparse length", &slot.len)?)?;
    }
    Ok(())
}

/// A map as it is read.
#[derive(Debug)]
pub(super) struct Map {
    runs: Vec<Segment>,
    /// Runs seen, those without data too.
    seen: usize,
    /// End of the last run.
    end: u64,
    /// Size of the expanded file.
    size: u64,
    /// Sum of all runs.
    data: u64,
    limit: usize,
}

impl Map {
    pub(super) fn new(size: u64, limits: &Limits) -> Self {
        let limit = limits.sparse_runs;
        Self { runs: Vec::new(), seen: 0, end: 0, size, data: 0, limit }
    }

    /// Size of the expanded file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    fn push(&mut self, offset: i64, len: i64) -> Result<(), Problem> {
        if self.seen >= self.limit {
            return Err(Problem::TooManySparseRuns { limit: self.limit });
        }
        self.seen = self.seen.saturating_add(1);
        let (Ok(offset), Ok(len)) = (u64::try_from(offset), u64::try_from(len)) else {
            return Err(Problem::BadSparseMap("negative number"));
        };
        if offset < self.end {
            return Err(Problem::BadSparseMap("runs overlap or are out of order"));
        }
        // Both are below 2^63.
        let end = offset.saturating_add(len);
        if end > self.size {
            return Err(Problem::BadSparseMap("a run ends behind the end of the file"));
        }
        self.end = end;
        self.data = self.data.saturating_add(len);
        if len > 0 {
            self.runs.push(Segment { offset, len });
        }
        Ok(())
    }

    /// The runs, if they are all the data that is stored.
    pub(super) fn finish(self, stored: u64) -> Result<Vec<Segment>, Problem> {
        if self.data != stored {
            return Err(Problem::BadSparseMap("the runs are not the data that is stored"));
        }
        Ok(self.runs)
    }
}

/// The text in front of the data in form 1.0: the number of runs, then offset and length of each, every
/// number on a line; it ends with the block that holds the last line.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// The digits of the line so far.
    number: Option<i64>,
    /// Numbers still to come; `None` before the first.
    left: Option<usize>,
    offset: i64,
}

impl Text {
    /// Reads one block. Returns whether the map is complete.
    pub(super) fn read(&mut self, block: &[u8; BLOCK], map: &mut Map) -> Result<bool, Problem> {
        const FIELD: &str = "sparse map";
        for byte in block {
            if *byte != b'\n' {
                let digit = byte.is_ascii_digit().then(|| i64::from(byte & 0xf));
                let number = self.number.unwrap_or(0).checked_mul(10);
                let number = number.and_then(|n| n.checked_add(digit?));
                self.number = Some(number.ok_or(Problem::BadNumber { field: FIELD })?);
                continue;
            }
            let number = self.number.take().ok_or(Problem::BadNumber { field: FIELD })?;
            let left = match self.left {
                None => usize::try_from(number)
                    .ok()
                    .filter(|n| *n <= map.limit)
                    .ok_or(Problem::TooManySparseRuns { limit: map.limit })?
                    .saturating_mul(2),
                Some(left) => {
                    if left.is_multiple_of(2) {
                        self.offset = number;
                    } else {
                        map.push(self.offset, number)?;
                    }
                    left.saturating_sub(1)
                }
            };
            if left == 0 {
                return Ok(true);
            }
            self.left = Some(left);
        }
        Ok(false)
    }
}
