//! What every file of a tree carries besides its content.

/// A modification time. Before 1970 the seconds are negative and the nanoseconds still count forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970-01-01 00:00:00 UTC.
    pub sec: i64,
    /// Nanoseconds, below 10^9.
    pub nsec: u32,
}

/// Owner, permissions and modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
}

/// Attributes of a directory without a member: what containerd gives it.
pub const IMPLICIT_DIR: Meta =
    Meta { mode: 0o755, uid: 0, gid: 0, mtime: Time { sec: 0, nsec: 0 } };

/// An extended attribute: its full name (`security.capability`) and its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// Full name, with the namespace.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// A run of stored bytes of a sparse file; everything between runs is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}
