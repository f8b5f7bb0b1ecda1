//! What a check found.

use std::fmt;

use crate::format::Layout;
use crate::image::{Corruption, CorruptionKind};

/// What a finding means for the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Unusual or careless, and harmless: every reader shows the same tree.
    Warning,
    /// Refuse the image.
    Error,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it means for the image.
    pub severity: Severity,
    /// What is wrong, where, and the values seen.
    pub corruption: Corruption,
    /// One path of the inode, without a leading slash; empty for the root and for what has none.
    pub path: Vec<u8>,
}

impl Finding {
    /// A stable name for scripts and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.corruption.fault.code()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}[{}]: ", self.code())?;
        if !self.path.is_empty() {
            write!(f, "/{}: ", self.path.escape_ascii())?;
        }
        write!(f, "{}", self.corruption)
    }
}

/// What was counted on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Different inodes in the tree.
    pub inodes: u64,
    /// Directories among them.
    pub directories: u64,
    /// Names in all directories, without `.` and `..`.
    pub names: u64,
    /// Bytes of content of regular files, holes included.
    pub bytes: u64,
    /// Inodes by [`Layout`].
    pub layouts: [u64; 5],
    /// Inodes with extended attributes.
    pub with_xattrs: u64,
    /// Runs of data outside metadata.
    pub extents: u64,
    /// Bytes of metadata looked at.
    pub metadata: u64,
}

impl Stats {
    /// Inodes of one layout.
    #[must_use]
    pub fn layout(&self, layout: Layout) -> u64 {
        self.layouts.get(layout as usize).copied().unwrap_or(0)
    }
}

/// How much a check is willing to do. Reaching a limit is an error of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Names in all directories.
    pub names: u64,
    /// Runs of data in all files.
    pub extents: u64,
    /// Bytes of content in all regular files, holes included.
    pub bytes: u64,
    /// Bytes of metadata; `None` for eight times the image and 64 MiB more. Structures that overlap are
    /// counted as often as they are read.
    pub metadata: Option<u64>,
    /// Nesting of directories.
    pub depth: usize,
    /// Errors reported, and as many warnings.
    pub findings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            names: 1 << 24,
            extents: 1 << 25,
            bytes: 1 << 50,
            metadata: None,
            depth: crate::image::DEPTH_MAX,
            findings: 200,
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What is wrong, in the order found.
    pub findings: Vec<Finding>,
    /// Warnings that were left out because there were too many.
    pub more_warnings: u64,
    /// What was counted, as far as the check came.
    pub stats: Stats,
}

impl Report {
    /// True when nothing speaks against the image.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors().next().is_none()
    }

    /// The findings that speak against the image.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.severity == Severity::Error)
    }
}

/// What a fault means. Only what no reader trips over is a warning.
pub(super) fn severity(fault: CorruptionKind) -> Severity {
    match fault {
        CorruptionKind::SuperInodes
        | CorruptionKind::SuperReserved
        | CorruptionKind::SuperNoChecksum
        | CorruptionKind::DeviceUnused
        | CorruptionKind::InodeSpecialData
        | CorruptionKind::InodeNlink
        | CorruptionKind::InodeNlinkZero
        | CorruptionKind::InodeReserved
        | CorruptionKind::ChunkFeature
        | CorruptionKind::DirReserved
        | CorruptionKind::XattrHidden
        | CorruptionKind::XattrReserved => Severity::Warning,
        _ => Severity::Error,
    }
}
