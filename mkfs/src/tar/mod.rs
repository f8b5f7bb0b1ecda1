//! Tar archives, read as containerd and Go's `archive/tar` read them, and written.
//!
//! An archive is a sequence of 512-byte blocks: a header, the member's data padded to a block, the next
//! header, and so on up to two blocks of zeros. Extension headers (POSIX pax `x`, GNU `L` and `K`) carry
//! what the next header has no room for.
//!
//! Two readers that disagree about one archive let an attacker show one tree to a scanner and another to
//! the container. So there is one rule: what [`Reader`] yields is what Go yields, or it is an error. Where
//! Go quietly resolves a contradiction (two `x` headers, a pax path beside a GNU long name, an owner beyond
//! 32 bits), this reader refuses. It accepts more than containerd in a few places where nothing can be
//! misread: old GNU sparse files, type `7`, `LIBARCHIVE.xattr`.
//!
//! Why an own reader: the crate `tar` drops repeated pax keys, pax values with newlines, sparse maps and
//! negative times. The crate `tar-core` is a careful parser without I/O, but its verdicts differ from Go's
//! on data behind header-only members, empty pax values, prefixes under GNU magic, NUL in names and numbers
//! beyond 64 bits. Both serve the tests as second opinions where they are faithful.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod error;
mod header;
mod pax;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{Error, Problem};
pub use reader::Reader;
pub use writer::Writer;

use zerocopy::FromBytes as _;

use crate::meta::{Meta, Segment, Xattr};

/// Bytes of a block, the unit of everything in an archive.
pub const BLOCK: usize = 512;

/// Greatest major number of a device on Linux.
const MAJOR_MAX: u32 = 0xfff;
/// Greatest minor number of a device on Linux.
const MINOR_MAX: u32 = 0xf_ffff;

/// Whether `block` is a header block with a right checksum.
#[must_use]
pub fn is_header(block: &[u8]) -> bool {
    header::Header::ref_from_bytes(block).is_ok_and(header::Header::checksum_matches)
}

/// One member of an archive. Paths are as stored: cleaning them is the tree's rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Offset of the member's first header block (extension headers included) in the archive.
    pub offset: u64,
    /// Offset of the member's first data byte in the archive, behind a sparse map stored in the data.
    pub data_offset: u64,
    /// Name, bytes as stored; never empty, without NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Target of a symbolic or hard link, bytes as stored, without NUL; empty for everything else.
    pub link: Vec<u8>,
    /// Size of the file once expanded; 0 for everything but regular files.
    pub size: u64,
    /// Data bytes in the archive: `size`, or the sum of `sparse`.
    pub stored: u64,
    /// Runs of data of a sparse file, none empty, ascending, within `size`; `None` for a dense file.
    pub sparse: Option<Vec<Segment>>,
    /// Device number of devices: major (12 bits) and minor (20 bits).
    pub rdev: (u32, u32),
    /// Owner, permissions and time. A symbolic link always has mode `0o777`.
    pub meta: Meta,
    /// Extended attributes, names unique and ascending.
    pub xattrs: Vec<Xattr>,
    /// What only libarchive's own records say of extended attributes.
    pub libarchive: Libarchive,
}

/// Records `LIBARCHIVE.xattr.` of a member. containerd does not read them, so an image that holds one that cannot be kept
/// works elsewhere: such an attribute is dropped, and is no reason to refuse the member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Libarchive {
    /// Names among the member's `xattrs` that no record `SCHILY.xattr.` has, ascending.
    pub only: Vec<Vec<u8>>,
    /// Names of those that could not be decoded, or that no file on Linux can have.
    pub undecoded: Vec<Vec<u8>>,
}

/// The types of member that become part of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Regular file.
    #[default]
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Hard link.
    Hardlink,
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// FIFO.
    Fifo,
}

/// What an archive may ask of the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Extension headers before one member.
    pub extensions: u32,
    /// Bytes of one extension header's payload, and of one sparse map.
    pub extension_size: u64,
    /// Runs of one sparse file.
    pub sparse_runs: usize,
    /// Size of one file once expanded.
    pub file_size: u64,
}

impl Default for Limits {
    /// 16 headers, 1 MiB as in Go and libarchive, 10 000 runs, 16 TiB as in ext4.
    fn default() -> Self {
        Self { extensions: 16, extension_size: 1 << 20, sparse_runs: 10_000, file_size: 1 << 44 }
    }
}

/// Bytes from `len` to the next block boundary.
fn padding(len: u64) -> u64 {
    const MASK: u64 = BLOCK as u64 - 1;
    len.wrapping_neg() & MASK
}
