//! What the kernel and overlayfs call inodes (`struct file_handle`, `struct ovl_fb` of `fs/overlayfs/overlayfs.h`).

use std::ffi::CStr;
use std::fmt::Debug;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// `OVL_FH_MAGIC`.
const MAGIC: u8 = 0xFB;
/// `OVL_FH_FLAG_BIG_ENDIAN`.
const BIG_ENDIAN: u8 = 1;
/// What a filesystem calls an inode (`struct file_handle`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileHandle {
    /// The type of the handle.
    pub kind: u8,
    /// The handle.
    pub bytes: Vec<u8>,
}

/// Asks the kernel what it calls the inodes of directories. Only needed where layers below are directories.
pub trait FileHandles: Debug + Send + Sync {
    /// The handle of what has this name in a directory, which is not followed (name_to_handle_at(2)).
    ///
    /// # Errors
    /// What the kernel reports.
    fn handle(&self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<FileHandle>;

    /// The UUID of the filesystem, if the kernel tells it (`FS_IOC_GETFSUUID`, Linux 6.9).
    fn uuid(&self, dir: BorrowedFd<'_>) -> Option<[u8; 16]>;
}

/// The index directory of an upper directory.
#[derive(Debug)]
pub struct IndexDir {
    /// The directory.
    pub dir: OwnedFd,
    /// What calls the inodes of directories; nothing where all layers below are images.
    pub handles: Option<Arc<dyn FileHandles>>,
}

/// What overlayfs calls an inode (`struct ovl_fb` of `fs/overlayfs/overlayfs.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The UUID of its filesystem; nothing when the overlay was mounted with `uuid=off`, or the filesystem has none.
    pub uuid: Option<[u8; 16]>,
    /// What that filesystem calls it.
    pub handle: FileHandle,
}

impl Origin {
    /// Reads the value of the marks `origin` and `upper`: version, magic, length, flags, type, UUID and handle. Nothing for what is none, or was written by a machine with
    /// another order of bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[version, magic, len, flags, kind], rest) = bytes.split_first_chunk::<5>()?;
        let (uuid, handle) = rest.split_first_chunk::<16>()?;
        let is_right = version == 0 && magic == MAGIC && usize::from(len) == bytes.len();
        let is_ours = (flags & BIG_ENDIAN != 0) == cfg!(target_endian = "big");
        if !is_right || !is_ours || handle.is_empty() {
            return None;
        }
        let uuid = Some(*uuid).filter(|uuid| *uuid != [0; 16]);
        Some(Self { uuid, handle: FileHandle { kind, bytes: handle.to_vec() } })
    }

    /// Reads the name of an entry of the index.
    pub(super) fn from_name(name: &[u8]) -> Option<Self> {
        let digit = |&b: &u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        };
        let bytes = name.chunks(2).map(byte).collect::<Option<Vec<_>>>()?;
        Self::parse(&bytes)
    }
}
