//! Directory blocks: an array of 12-byte entries, then their names back to back.
//!
//! Entries are in strict ascending byte order over the whole directory, with `.` and `..` sorted in like
//! any other name.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::inode::mode;

/// Longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// `struct erofs_dirent`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Dirent {
    /// The inode; bit 63 says that it is in the metabox.
    pub nid: U64,
    /// Offset of the name from the start of the directory block. The first one, divided by 12, is the
    /// number of entries in the block.
    pub nameoff: U16,
    /// A [`FileType`].
    pub file_type: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<Dirent>() == 12);

/// The type of an entry, as in `linux/fs_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// Regular file.
    Regular = 1,
    /// Directory.
    Directory = 2,
    /// Character device.
    Char = 3,
    /// Block device.
    Block = 4,
    /// FIFO.
    Fifo = 5,
    /// Socket.
    Socket = 6,
    /// Symbolic link.
    Symlink = 7,
}

impl FileType {
    /// The entry type that belongs to an inode mode; `None` when the mode has no valid type.
    #[must_use]
    pub fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & mode::IFMT {
            mode::IFREG => Self::Regular,
            mode::IFDIR => Self::Directory,
            mode::IFCHR => Self::Char,
            mode::IFBLK => Self::Block,
            mode::IFIFO => Self::Fifo,
            mode::IFSOCK => Self::Socket,
            mode::IFLNK => Self::Symlink,
            _ => return None,
        })
    }

    /// The type bits of an inode mode.
    #[must_use]
    pub fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => mode::IFREG,
            Self::Directory => mode::IFDIR,
            Self::Char => mode::IFCHR,
            Self::Block => mode::IFBLK,
            Self::Fifo => mode::IFIFO,
            Self::Socket => mode::IFSOCK,
            Self::Symlink => mode::IFLNK,
        }
    }
}
