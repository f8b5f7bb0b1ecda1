//! Everything that can be wrong with an image, each with a stable code.
//!
//! The reader stops at the first fault in its way; [`crate::check`] collects all of them. Both name them by
//! the same words.

use std::fmt;
use std::io;

use erolith_errors::{ErrorClass, ErrorFacts, ErrorStatus};

/// Declares [`CorruptionKind`], its codes and its texts in one table.
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What is wrong with a structure of an image.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum CorruptionKind { $($(#[$doc])* #[doc = $text] $name,)* }

        impl CorruptionKind {
            /// Every fault there is.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// A stable name for scripts and logs.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The rule that is broken, in words.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

faults! {
    SuperShort = "super-short", "the image ends inside the superblock";
    SuperMagic = "super-magic", "not an EROFS superblock";
    SuperBlockSize = "super-block-size", "the block size is outside 512 bytes to 64 KiB";
    SuperChecksum = "super-checksum", "the superblock checksum is wrong";
    SuperIncompat = "super-incompat", "unknown incompatible features";
    SuperExtension = "super-extension", "the superblock extension is too long, or missing where a feature needs it";
    SuperDirBlock = "super-dir-block", "directory blocks must be one block";
    SuperNanoseconds = "super-nanoseconds", "the fixed nanoseconds are not below 10^9";
    SuperSpecialNid = "super-special-nid", "the packed or metabox inode must lie in plain metadata";
    SuperBlocks = "super-blocks", "the image is shorter than the blocks it claims";
    SuperInodes = "super-inodes", "the inode count is not the number of inodes in the tree";
    SuperMetaStart = "super-meta-start", "the metadata area starts behind the end of the image";
    SuperXattrStart = "super-xattr-start", "the shared xattr area starts behind the end of the image";
    SuperReserved = "super-reserved", "reserved bytes of the superblock are not zero";
    SuperNoChecksum = "super-no-checksum", "the superblock carries no checksum";
    DeviceTable = "device-table", "the device table is outside the image";
    DeviceCount = "device-count", "the number of devices given is not the number in the table";
    DeviceShort = "device-short", "a device is shorter than its slot claims";
    DeviceOverlap = "device-overlap", "two devices, or a device and the image, share unified addresses";
    DeviceUnused = "device-unused", "no file refers to this device";
    ComprConfig = "compr-config", "a compression configuration record is invalid";
    ComprAlgorithm = "compr-algorithm", "a compression algorithm that the superblock does not announce";
    PrefixTable = "prefix-table", "the table of long xattr prefixes is invalid";

    InodeOutside = "inode-outside", "the inode is outside the image";
    InodeFormat = "inode-format", "undefined bits in the inode format";
    InodeLayout = "inode-layout", "undefined data layout";
    InodeType = "inode-type", "the mode has no valid file type";
    InodeTime = "inode-time", "the nanoseconds are not below 10^9, or the time overflows";
    InodeSize = "inode-size", "the size does not fit the file type";
    InodeSpecialData = "inode-special-data", "a device, FIFO or socket with data";
    InodeNlink = "inode-nlink", "the link count is not the number of names";
    InodeNlinkZero = "inode-nlink-zero", "the link count is zero";
    InodeReserved = "inode-reserved", "reserved bytes of the inode are not zero";
    InodeDotOmitted = "inode-dot-omitted", "an omitted dot entry without the 48-bit feature";
    InodeOverlap = "inode-overlap", "the inode overlaps another inode or its data";
    SymlinkEmpty = "symlink-empty", "an empty symbolic link";
    SymlinkLong = "symlink-long", "a symbolic link of more than 4095 bytes";
    SymlinkNul = "symlink-nul", "a symbolic link with a NUL byte";

    DataOutside = "data-outside", "file data is outside its device";
    DataInlineCrosses = "data-inline-crosses", "an inline tail crosses a block border";
    DataDevice = "data-device", "a device number that is not in the device table";
    DataDeviceMissing = "data-device-missing", "the data is on a device that was not given";
    DataCrossesDevice = "data-crosses-device", "file data runs from one device into another";
    DataOverlapsMeta = "data-overlaps-metadata", "file data overlaps metadata";
    DataOverlap = "data-overlap", "extents of different files overlap in part";
    ChunkFormat = "chunk-format", "undefined bits in the chunk format";
    ChunkOutside = "chunk-outside", "the chunk index is outside the image";
    ChunkType = "chunk-type", "only regular files may be chunk-based";
    ChunkFeature = "chunk-feature", "a chunk-based file without the feature bit";

    MapHeader = "map-header", "undefined or contradicting bits in the compression header";
    MapFeature = "map-feature", "a compression form that the superblock does not announce";
    MapOutside = "map-outside", "the compression index is outside the image";
    MapEntry = "map-entry", "an invalid compression index entry";
    MapLookback = "map-lookback", "a compression index does not lead back to a head";
    MapLookahead = "map-lookahead", "a compression index leads past the next head";
    MapBlockCount = "map-block-count", "a missing, misplaced or invalid compressed block count";
    MapExtentOrder = "map-extent-order", "extent records are not in ascending order";
    MapTooLarge = "map-too-large", "a compressed extent above 1 MiB encoded or 12 MiB decoded";
    MapStored = "map-stored", "a stored extent longer than its bytes";
    MapInterlaced = "map-interlaced", "a rotated extent that its cluster cannot hold";
    MapHole = "map-hole", "a compressed hole that kernels before Linux 7.2 do not read as zeros";
    FragmentOutside = "fragment-outside", "a fragment outside the packed inode";
    FragmentRecursion = "fragment-recursion", "the packed inode refers to fragments itself";
    Decode = "decode", "compressed data does not decode";
    MetaboxNid = "metabox-nid", "a metabox inode in an image without a metabox";

    DirSize = "dir-size", "the directory size is invalid";
    DirTable = "dir-table", "the first name offset of a directory block is invalid";
    DirNameOffset = "dir-name-offset", "name offsets of a directory block are not ascending within the block";
    DirNameEmpty = "dir-name-empty", "an empty name";
    DirNameLong = "dir-name-long", "a name of more than 255 bytes";
    DirNameByte = "dir-name-byte", "a name with a slash or a NUL byte";
    DirOrder = "dir-order", "names are not in ascending order";
    DirDuplicate = "dir-duplicate", "the same name twice";
    DirEntryType = "dir-entry-type", "an undefined entry type";
    DirTypeMismatch = "dir-type-mismatch", "the entry type is not the type of the inode";
    DirDot = "dir-dot", "the dot entry is missing or does not lead to the directory itself";
    DirDotDot = "dir-dotdot", "the dot-dot entry is missing or does not lead to the parent";
    DirReserved = "dir-reserved", "a reserved byte of a directory entry is not zero";
    DirCycle = "dir-cycle", "a directory is reached again below itself";
    DirTwice = "dir-twice", "a directory has two names";
    DirDeep = "dir-deep", "directories are nested too deeply";
    RootType = "root-type", "the root is not a directory";

    XattrHeader = "xattr-header", "an xattr area that is only a header";
    XattrOutside = "xattr-outside", "the xattr area is outside the image";
    XattrShared = "xattr-shared", "a shared xattr is outside the image, or has no area to be in";
    XattrEntry = "xattr-entry", "an xattr entry reaches past its area";
    XattrPrefix = "xattr-prefix", "an xattr prefix that is not in the table";
    XattrName = "xattr-name", "an xattr name that is empty, too long, or has a NUL byte";
    XattrDuplicate = "xattr-duplicate", "the same xattr twice";
    XattrFilter = "xattr-filter", "the name filter hides an xattr that is there";
    XattrHidden = "xattr-hidden", "an xattr in a namespace that Linux does not show";
    XattrValue = "xattr-value", "an access list or capability that the kernel does not take";
    XattrReserved = "xattr-reserved", "reserved bytes of an xattr header are not zero";

    LimitInodes = "limit-inodes", "more inodes than the limit";
    LimitBytes = "limit-bytes", "more bytes in files than the limit";
    LimitMetadata = "limit-metadata", "more metadata to read than the limit";
    LimitFindings = "limit-findings", "more findings than the limit; the rest is not reported";
}

impl fmt::Display for CorruptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A fault and the place where it was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// Which rule is broken.
    pub fault: CorruptionKind,
    /// The inode, where the fault belongs to one.
    pub nid: Option<u64>,
    /// Byte offset of the structure: in the image, or in the metabox for an inode that is there.
    pub offset: Option<u64>,
    /// The values seen; may be empty.
    pub detail: String,
}

impl Corruption {
    /// A fault without a place.
    #[must_use]
    pub fn new(fault: CorruptionKind) -> Self {
        Self { fault, nid: None, offset: None, detail: String::new() }
    }

    /// With the inode it belongs to, unless one is known already.
    #[must_use]
    pub fn nid(mut self, nid: u64) -> Self {
        self.nid.get_or_insert(nid);
        self
    }

    /// With the byte offset of the structure, unless one is known already.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset.get_or_insert(offset);
        self
    }

    /// With the values seen.
    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = detail.to_string();
        self
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(nid) = self.nid {
            write!(f, "inode {nid}: ")?;
        }
        write!(f, "{}", self.fault)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        Ok(())
    }
}

/// Why something of an image could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage failed.
    #[error("cannot read {len} bytes at {offset} of device {device}")]
    Io {
        /// 0 for the image itself, k for slot k - 1 of the device table.
        device: u16,
        /// Byte offset in the device.
        offset: u64,
        /// Bytes wanted.
        len: usize,
        /// What the storage said.
        source: io::Error,
    },
    /// The image is wrong.
    #[error("{0}")]
    Corrupt(Corruption),
    /// A directory was wanted.
    #[error("inode {nid} is not a directory")]
    NotADirectory {
        /// The inode.
        nid: u64,
    },
    /// A symbolic link was wanted.
    #[error("inode {nid} is not a symbolic link")]
    NotASymlink {
        /// The inode.
        nid: u64,
    },
    /// A file with content was wanted.
    #[error("inode {nid} has no content")]
    NoContent {
        /// The inode.
        nid: u64,
    },
}

impl Error {
    /// What callers decide by.
    #[must_use]
    pub fn facts(&self) -> ErrorFacts<'_> {
        let class = match self {
            Self::Io { .. } => ErrorClass::Io,
            _ => ErrorClass::Input,
        };
        ErrorFacts::new(self.code(), class, ErrorStatus::InvalidArgument)
    }

    /// The fault, when the image is to blame and not its storage.
    #[must_use]
    pub fn corruption(&self) -> Option<&Corruption> {
        match self {
            Self::Corrupt(c) => Some(c),
            _ => None,
        }
    }

    /// The same error, blamed on inode `nid` unless it already names one.
    #[must_use]
    pub(crate) fn in_inode(self, nid: u64) -> Self {
        match self {
            Self::Corrupt(c) => Self::Corrupt(c.nid(nid)),
            other => other,
        }
    }
}

erolith_errors::error_codes! {
    Error {
        Self::Io { .. } => "image-io", "the storage of the image cannot be read";
        Self::NotADirectory { .. } => "not-a-directory", "a directory is asked for, and the inode is none";
        Self::NotASymlink { .. } => "not-a-symlink", "a symbolic link is asked for, and the inode is none";
        Self::NoContent { .. } => "no-content", "content is asked for, and the inode has none";
    }
    wrapped {
        Self::Corrupt(corruption) => corruption.fault.code();
    }
}

impl From<Corruption> for Error {
    fn from(c: Corruption) -> Self {
        Self::Corrupt(c)
    }
}

impl From<CorruptionKind> for Error {
    fn from(fault: CorruptionKind) -> Self {
        Self::Corrupt(Corruption::new(fault))
    }
}

impl From<Error> for io::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Io { source, .. } => source,
            Error::Corrupt(c) => Self::new(io::ErrorKind::InvalidData, c.to_string()),
            other => Self::new(io::ErrorKind::InvalidInput, other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CorruptionKind;

    #[test]
    fn codes_are_unique_and_kebab_case() {
        let mut codes: Vec<&str> = CorruptionKind::ALL.iter().map(|f| f.code()).collect();
        for code in &codes {
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), CorruptionKind::ALL.len());
    }
}
