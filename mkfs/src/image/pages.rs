//! A small cache of metadata pages, so that reading one inode after another is not one system call each.

use std::sync::{Mutex, PoisonError};

use super::corruption::{Corruption, CorruptionKind, Error};
use crate::io::ReadAt;

/// Bytes of a page. Metadata of neighbours lies close together; larger pages would read more file data
/// in images that mix both.
const PAGE: u64 = 16 * 1024;
/// Pages kept: 1 MiB in all.
const SLOTS: u64 = 64;

/// One cached page.
#[derive(Debug, Default)]
struct Page {
    /// Page number plus one; 0 for an empty slot.
    number: u64,
    /// The bytes there are: fewer than [`PAGE`] at the end of the image.
    data: Vec<u8>,
}

/// The cache: direct-mapped, one lock a slot, so that threads rarely meet.
#[derive(Debug)]
pub(super) struct Pages {
    slots: Vec<Mutex<Page>>,
}

impl Pages {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Mutex::default()).collect() }
    }

    /// Fills `buf` with the bytes of `device` at `offset`.
    ///
    /// # Errors
    /// [`CorruptionKind::DataOutside`] when the bytes are not all there; what the storage reports.
    pub(super) fn read(
        &self,
        device: &dyn ReadAt,
        mut buf: &mut [u8],
        mut offset: u64,
    ) -> Result<(), Error> {
        while !buf.is_empty() {
            let number = offset / PAGE;
            let within = usize::try_from(offset % PAGE).unwrap_or(0);
            let slot = usize::try_from(number % SLOTS).unwrap_or(0);
            let Some(slot) = self.slots.get(slot) else {
                return Err(CorruptionKind::DataOutside.into());
            };
            // A page is replaced whole; a thread that died while holding it left it empty or complete.
            let mut page = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if page.number != number.saturating_add(1) {
                load(&mut page, device, number)?;
            }
            let Some(have) = page.data.get(within..).filter(|h| !h.is_empty()) else {
                return Err(Corruption::new(CorruptionKind::DataOutside).at(offset).into());
            };
            let n = have.len().min(buf.len());
            let (now, rest) = buf.split_at_mut(n);
            now.copy_from_slice(have.get(..n).unwrap_or_default());
            buf = rest;
            offset = offset.saturating_add(n as u64);
        }
        Ok(())
    }
}

fn load(page: &mut Page, device: &dyn ReadAt, number: u64) -> Result<(), Error> {
    page.number = 0;
    let len = usize::try_from(PAGE).unwrap_or(0);
    page.data.resize(len, 0);
    let offset = number.saturating_mul(PAGE);
    let mut filled = 0usize;
    while let Some(rest) = page.data.get_mut(filled..).filter(|r| !r.is_empty()) {
        match device.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(n) => filled = filled.saturating_add(n),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Io { device: 0, offset, len, source }),
        }
    }
    page.data.truncate(filled);
    page.number = number.saturating_add(1);
    Ok(())
}
