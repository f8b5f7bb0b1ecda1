//! Content that is stored once for several files, and content that could be.

use std::collections::{BTreeMap, BTreeSet};

use erolith_mkfs::image::{Error, ExtentLocation};
use sha2::{Digest as _, Sha256};

use super::facts::{Facts, File};
use crate::source::Opened;

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// What several files have in common on disk.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Runs that more than one file, or one file more than once, refers to.
    pub(super) runs: u64,
    /// Bytes that are not stored because others are referred to.
    pub(super) saved: u64,
    /// The files whose runs save most: bytes, references, one of the files.
    pub(super) top: Vec<(u64, u64, usize)>,
}

/// Finds runs of data with several references.
pub(super) fn shared(facts: &Facts, top: usize) -> Shared {
    let mut found = Shared::default();
    // Where the bytes end that were met so far, by device.
    let (mut device, mut end) = (0, 0);
    let same = |a: &super::facts::Run, b: &super::facts::Run| {
        (a.device, a.start, a.len) == (b.device, b.start, b.len)
    };
    for group in facts.runs.chunk_by(same) {
        let Some(run) = group.first() else { continue };
        if run.device != device {
            (device, end) = (run.device, 0);
        }
        let run_end = run.start.saturating_add(run.len);
        // Runs are in order, so what is behind `end` is new.
        let news = run_end.saturating_sub(run.start.max(end));
        end = end.max(run_end);
        let saved = run.len.saturating_mul(group.len() as u64).saturating_sub(news);
        if saved > 0 {
            found.runs += 1;
            found.saved = found.saved.saturating_add(saved);
            found.top.push((saved, group.len() as u64, run.file));
        }
    }
    found.top.sort_unstable_by(|a, b| b.cmp(a));
    found.top.truncate(top);
    found
}

/// Files of equal content that are stored more than once.
#[derive(Debug)]
pub(super) struct Duplicate {
    /// Bytes that one copy would save.
    pub(super) wasted: u64,
    /// Places in [`Facts::files`].
    pub(super) files: Vec<usize>,
}

/// Finds files of equal content: those of equal size are hashed.
pub(super) fn duplicates(image: &Opened, facts: &Facts) -> Result<Vec<Duplicate>, Error> {
    let mut by_size: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (index, file) in facts.files.iter().enumerate().filter(|(_, file)| file.stored > 0) {
        by_size.entry(file.size).or_default().push(index);
    }
    let mut found = Vec::new();
    for same_size in by_size.into_values().filter(|files| files.len() > 1) {
        let mut by_content: BTreeMap<[u8; 32], Vec<(PlaceKey, usize)>> = BTreeMap::new();
        for index in same_size {
            let Some(file) = facts.files.get(index) else { continue };
            let (digest, place) = digest(image, file)?;
            by_content.entry(digest).or_default().push((place, index));
        }
        for same in by_content.into_values() {
            // Those that begin at one place share what is stored.
            let places: BTreeSet<PlaceKey> = same.iter().map(|(place, _)| *place).collect();
            let stored = same.first().and_then(|(_, index)| facts.files.get(*index));
            let copies = places.len().saturating_sub(1) as u64;
            let wasted = stored.map_or(0, |file| file.stored.saturating_mul(copies));
            if wasted > 0 {
                let files = same.into_iter().map(|(_, index)| index).collect();
                found.push(Duplicate { wasted, files });
            }
        }
    }
    found.sort_by(|a, b| b.wasted.cmp(&a.wasted).then_with(|| a.files.cmp(&b.files)));
    Ok(found)
}

/// A device, or a number that stands for no device, and a byte offset.
type PlaceKey = (u16, u64);

/// Something that is the same for extents in the same place, and for no others of one image.
fn place_key(place: ExtentLocation) -> PlaceKey {
    // There are fewer devices than that.
    const BEHIND_INODE: u16 = u16::MAX;
    const PACKED: u16 = u16::MAX - 1;
    match place {
        ExtentLocation::Hole => (0, 0),
        ExtentLocation::Device { device, offset }
        | ExtentLocation::Encoded { device, offset, .. } => (device, offset),
        ExtentLocation::Inline { offset, .. } | ExtentLocation::EncodedInline { offset, .. } => {
            (BEHIND_INODE, offset)
        }
        ExtentLocation::Fragment { offset } => (PACKED, offset),
    }
}

/// A digest of the content and of where its holes are, which need not be read; and where it begins.
fn digest(image: &Opened, file: &File) -> Result<([u8; 32], PlaceKey), Error> {
    let inode = image.stat(file.nid)?;
    let mut hash = Sha256::new();
    let mut buf = vec![0; PIECE];
    let mut pos = 0;
    let mut first = None;
    for extent in image.extents(&inode) {
        let extent = extent?;
        if extent.place == ExtentLocation::Hole {
            continue;
        }
        first.get_or_insert(place_key(extent.place));
        if extent.start != pos {
            pos = extent.start;
            hash.update(b"hole");
            hash.update(pos.to_le_bytes());
        }
        let end = extent.end().min(inode.size);
        while pos < end {
            let want = usize::try_from(end - pos).map_or(PIECE, |left| left.min(PIECE));
            let part = buf.get_mut(..want).unwrap_or_default();
            let n = image.read_at(&inode, part, pos)?;
            hash.update(part.get(..n).unwrap_or_default());
            pos += n as u64;
        }
    }
    Ok((hash.finalize().into(), first.unwrap_or_default()))
}
