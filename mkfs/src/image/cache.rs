//! Decoded extents, kept for the next reader.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes kept in all. One extent has 12 MiB at most.
const BUDGET: usize = 32 << 20;
/// Extents kept: the metabox and the packed inode are read at a few places at a time.
const ENTRIES: usize = 32;

/// A decoded extent.
#[derive(Debug, Clone)]
struct Decoded {
    nid: u64,
    /// First byte in the file.
    start: u64,
    bytes: Arc<Vec<u8>>,
}

/// The extents used last, the latest at the end.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: Mutex<Vec<Decoded>>,
}

impl Cache {
    /// The extent of inode `nid` that holds byte `pos` of the file, and where it starts.
    pub(super) fn get(&self, nid: u64, pos: u64) -> Option<(u64, Arc<Vec<u8>>)> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |e: &Decoded| {
            let within = pos.checked_sub(e.start);
            e.nid == nid && within.is_some_and(|within| within < e.bytes.len() as u64)
        };
        let at = entries.iter().rposition(holds)?;
        let found = entries.remove(at);
        let result = (found.start, Arc::clone(&found.bytes));
        entries.push(found);
        Some(result)
    }

    /// Keeps an extent, and drops the ones used longest ago until the budget holds.
    pub(super) fn put(&self, nid: u64, start: u64, bytes: Arc<Vec<u8>>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = entries.iter().map(|e| e.bytes.len()).sum::<usize>();
        total = total.saturating_add(bytes.len());
        while !entries.is_empty() && (entries.len() >= ENTRIES || total > BUDGET) {
            total = total.saturating_sub(entries.remove(0).bytes.len());
        }
        entries.push(Decoded { nid, start, bytes });
    }
}
