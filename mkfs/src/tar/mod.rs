//! Tar archives, read as containerd and Go's `archive/tar` read them, and written.

use crate::meta::{Meta, Segment, Xattr};

/// One member of an archive. Paths are as stored: cleaning them is the tree's rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Offset of the member's first header block (extension headers included) in the archive.
    pub offset: u64,
    /// Offset of the member's first data byte in the archive, behind a sparse map stored in the data.
    pub data_offset: u64,
    /// Name, bytes as stored.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Target of a symbolic or hard link, bytes as stored.
    pub link: Vec<u8>,
    /// Size of the file once expanded; 0 for everything but regular files.
    pub size: u64,
    /// Data bytes in the archive: `size`, or the sum of `sparse`.
    pub stored: u64,
    /// Runs of data of a sparse file, ascending, within `size`; `None` for a dense file.
    pub sparse: Option<Vec<Segment>>,
    /// Device number of devices: major and minor.
    pub rdev: (u32, u32),
    /// Owner, permissions and time.
    pub meta: Meta,
    /// Extended attributes, names unique, in the order first seen.
    pub xattrs: Vec<Xattr>,
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
