//! Why a tree could not be restored.

use std::io;

use erolith_mkfs::image;

/// Why a tree could not be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The destination has files.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A file cannot be made or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An owner or group that no file can have.
    #[error("owner {uid}:{gid} cannot be set")]
    BadOwner {
        /// The owner.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// The kernel refuses a part of a file.
    #[error("{what}")]
    Refused {
        /// What was to be restored.
        what: Restored,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was to be restored.
    pub(super) fn of(what: Restored) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Refused { what, source }
    }
}

/// A part of a file that the kernel may refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restored {
    /// Another name of a file.
    HardLink,
    /// A character or block device.
    Device,
    /// A whiteout, a FIFO or a socket.
    Node,
    /// Owner and group.
    Owner,
    /// The extended attribute of this name.
    Xattr(Vec<u8>),
    /// The permissions.
    Mode,
    /// The modification time.
    Time,
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HardLink => f.write_str("hard link"),
            Self::Device => f.write_str("making a device"),
            Self::Node => f.write_str("making a node"),
            Self::Owner => f.write_str("owner"),
            Self::Xattr(name) => write!(f, "attribute {}", name.escape_ascii()),
            Self::Mode => f.write_str("mode"),
            Self::Time => f.write_str("modification time"),
        }
    }
}
