//! What lies where: nothing may lie in the metadata of another, and no pcluster partly in another.
//!
//! Data that is shared is legal, and comes from deduplication: chunks of different files in the same blocks.
//! Pclusters are shared as a whole; two that overlap in part made kernels hang (CVE-2024-47736).

use super::{Check, CheckStop};
use crate::image::{Corruption, CorruptionKind};

/// Bytes taken on the image by an inode and all that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Meta {
    start: u64,
    end: u64,
    nid: u64,
}

/// Bytes taken by data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Extent {
    device: u16,
    start: u64,
    end: u64,
    nid: u64,
}

/// Stands for the inode of what belongs to the superblock.
const NO_NID: u64 = u64::MAX;

/// Everything that has a place.
#[derive(Debug, Default)]
pub(super) struct Places {
    inodes: Vec<Meta>,
    fixed: Vec<Meta>,
    data: Vec<Extent>,
    pclusters: Vec<Extent>,
}

impl Places {
    /// Notes a structure that is no inode.
    pub(super) fn metadata(&mut self, start: u64, end: u64) {
        self.fixed.push(Meta { start, end, nid: NO_NID });
    }

    /// Notes an inode with its xattrs, tables and inline data.
    pub(super) fn inode(&mut self, start: u64, end: u64, nid: u64) {
        self.inodes.push(Meta { start, end, nid });
    }

    /// Notes data.
    pub(super) fn data(&mut self, device: u16, start: u64, end: u64, nid: u64, pcluster: bool) {
        let extent = Extent { device, start, end, nid };
        if pcluster {
            self.pclusters.push(extent);
        } else if start < end && device == 0 {
            self.data.push(extent);
        }
    }
}

impl Check<'_> {
    pub(super) fn check_overlaps(&mut self) -> Result<(), CheckStop> {
        let mut places = std::mem::take(&mut self.places);
        let mut metadata = places.inodes;
        metadata.append(&mut places.fixed);
        metadata.sort_unstable();
        for (before, after) in metadata.iter().zip(metadata.iter().skip(1)) {
            // Tables of the superblock may follow it anywhere, even in each other.
            if before.end > after.start && (before.nid != NO_NID || after.nid != NO_NID) {
                let c = Corruption::new(CorruptionKind::InodeOverlap).at(after.start);
                let detail = format!("bytes up to {} belong to {}", before.end, owner(before.nid));
                let nid = if after.nid == NO_NID { before.nid } else { after.nid };
                self.find(c.nid(nid).detail(detail))?;
            }
        }
        places.pclusters.sort_unstable();
        for (before, after) in places.pclusters.iter().zip(places.pclusters.iter().skip(1)) {
            let same = (before.start, before.end) == (after.start, after.end);
            if before.device == after.device && before.end > after.start && !same {
                let c = Corruption::new(CorruptionKind::DataOverlap).nid(after.nid).at(after.start);
                let detail =
                    format!("bytes {}..{} of inode {}", before.start, before.end, before.nid);
                self.find(c.detail(detail))?;
            }
        }
        places.data.extend(places.pclusters.iter().filter(|extent| extent.device == 0));
        places.data.sort_unstable();
        self.check_data_in_metadata(&metadata, &places.data)
    }

    /// Both are sorted by where they start.
    fn check_data_in_metadata(
        &mut self,
        metadata: &[Meta],
        data: &[Extent],
    ) -> Result<(), CheckStop> {
        let mut metadata = metadata.iter().peekable();
        for extent in data {
            // Inodes do not overlap, or were reported; so those behind are behind for good.
            while metadata.next_if(|meta| meta.end <= extent.start).is_some() {}
            let Some(meta) = metadata.peek().filter(|meta| meta.start < extent.end) else {
                continue;
            };
            let c =
                Corruption::new(CorruptionKind::DataOverlapsMeta).nid(extent.nid).at(extent.start);
            let detail =
                format!("bytes {}..{} belong to {}", meta.start, meta.end, owner(meta.nid));
            self.find(c.detail(detail))?;
        }
        Ok(())
    }
}

fn owner(nid: u64) -> String {
    if nid == NO_NID { "the superblock".into() } else { format!("inode {nid}") }
}
