//! Checking the structure of images from strangers, before a kernel sees them.
//!
//! What is checked: every field of the superblock, the device table, every inode that has a name, every
//! directory block, every xattr, and where every byte of data is said to be, compression maps included. Of file
//! data only what stands for holes in compressed files is read, once each. An image without findings has one meaning only: its names are sorted and unique, each
//! directory has one parent, every reader finds the same names and attributes, and no structure leads outside the
//! image or into another. This is stricter than the kernel, which checks a structure when it is used, and than
//! `fsck.erofs`.
//!
//! The tree is walked level by level, and the inodes met are then checked in the order in which they are
//! stored, so that metadata is read about once and mostly forward.
//!
//! Memory: 32 bytes a name, about 100 bytes and its name for a directory, 32 bytes for a run of data, 24 for
//! the place of an inode, about 100 for a shared xattr, and what [`Image`] keeps. [`Limits`] bounds all of them.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod data;
mod inode;
mod overlap;
mod reached;
mod report;
mod superblock;
mod tree;
mod xattr;

use std::collections::BTreeSet;
use std::io;

use reached::{Foreign, TreeState};

pub use report::{Finding, Limits, Report, Severity, Stats};

use crate::image::{Corruption, CorruptionKind, Error, ExtentLocation, Image, Super};
use crate::io::ReadAt;

/// Checks an image and the devices of its table. With no devices given, they are taken to follow the image on
/// its own storage.
///
/// # Errors
/// Only what the storage reports; whatever is wrong with the image is in the report.
pub fn check(primary: &dyn ReadAt, devices: &[&dyn ReadAt], limits: &Limits) -> io::Result<Report> {
    let mut report = Report::default();
    let image = match Image::open(primary, devices.to_vec()) {
        Ok(image) => image,
        Err(Error::Corrupt(c)) => {
            let severity = report::severity(c.fault);
            report.findings.push(Finding { severity, corruption: c, path: Vec::new() });
            return Ok(report);
        }
        Err(e) => return Err(e.into()),
    };
    let budget = primary.size().saturating_mul(8).saturating_add(64 << 20);
    let mut check = Check {
        image: &image,
        limits: *limits,
        metadata: limits.metadata.unwrap_or(budget),
        tree: TreeState::default(),
        shared: xattr::Shared::default(),
        places: overlap::Places::default(),
        devices_used: vec![false; image.superblock().devices.len()],
        sizes: [primary].iter().chain(devices).map(|device| device.size()).collect(),
        zeros: BTreeSet::new(),
        chunk_bit_missed: false,
        report,
    };
    match check.run() {
        Ok(()) | Err(CheckStop::Limit) => Ok(check.report),
        Err(CheckStop::Storage(e)) => Err(e),
    }
}

/// Why a check ends early.
enum CheckStop {
    /// A limit was reached; the report says which.
    Limit,
    /// The storage failed.
    Storage(io::Error),
}

/// A check in progress.
struct Check<'a> {
    image: &'a Foreign<'a>,
    limits: Limits,
    /// Bytes of metadata that may be looked at.
    metadata: u64,
    tree: TreeState,
    shared: xattr::Shared,
    places: overlap::Places,
    devices_used: Vec<bool>,
    /// Bytes of the image and of each device.
    sizes: Vec<u64>,
    /// Clusters that were found to decode to so many zeros.
    zeros: BTreeSet<(ExtentLocation, u64)>,
    /// A chunk-based file was met, and nothing announces it.
    chunk_bit_missed: bool,
    report: Report,
}

impl Check<'_> {
    fn run(&mut self) -> Result<(), CheckStop> {
        self.check_superblock()?;
        self.walk_directories()?;
        self.check_inodes()?;
        self.check_overlaps()?;
        self.check_totals()
    }

    fn sb(&self) -> &Super {
        self.image.superblock()
    }

    /// Bytes on a device.
    fn size(&self, device: u16) -> u64 {
        self.sizes.get(usize::from(device)).copied().unwrap_or(0)
    }

    /// Reports a fault of something that has no path.
    fn find(&mut self, corruption: Corruption) -> Result<(), CheckStop> {
        self.find_at(corruption, Vec::new)
    }

    /// Reports a fault; the path is only made when it is needed.
    fn find_at(
        &mut self,
        corruption: Corruption,
        path: impl FnOnce() -> Vec<u8>,
    ) -> Result<(), CheckStop> {
        let severity = report::severity(corruption.fault);
        let same = |f: &&Finding| f.severity == severity;
        if self.report.findings.iter().filter(same).count() >= self.limits.findings {
            if severity == Severity::Error {
                return self.stop(CorruptionKind::LimitFindings);
            }
            self.report.more_warnings = self.report.more_warnings.saturating_add(1);
            return Ok(());
        }
        self.report.findings.push(Finding { severity, corruption, path: path() });
        Ok(())
    }

    /// Ends the check because of a limit.
    fn stop(&mut self, fault: CorruptionKind) -> Result<(), CheckStop> {
        let corruption = Corruption::new(fault);
        let severity = report::severity(fault);
        self.report.findings.push(Finding { severity, corruption, path: Vec::new() });
        Err(CheckStop::Limit)
    }

    /// Counts bytes of metadata against the limit.
    fn spend(&mut self, bytes: u64) -> Result<(), CheckStop> {
        self.report.stats.metadata = self.report.stats.metadata.saturating_add(bytes);
        if self.report.stats.metadata > self.metadata {
            return self.stop(CorruptionKind::LimitMetadata);
        }
        Ok(())
    }
}

/// Splits what reading said: a value, a fault of the image, or a reason to stop.
fn sort<T>(result: Result<T, Error>) -> Result<Result<T, Corruption>, CheckStop> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Corrupt(c)) => Ok(Err(c)),
        Err(e) => Err(CheckStop::Storage(e.into())),
    }
}
