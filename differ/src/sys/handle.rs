//! File handles: name_to_handle_at(2), and the UUID of a filesystem.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use erolith_overlay::{FileHandle, FileHandles};
use rustix::ioctl::{Getter, Opcode, opcode};

/// `MAX_HANDLE_SZ` of `include/linux/exportfs.h`.
const MAX_BYTES: u32 = 128;

/// `struct file_handle` with room for the largest handle.
#[repr(C)]
struct Room {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; 128],
}

const _: () = assert!(size_of::<Room>() == 8 + 128 && MAX_BYTES == 128);

/// `struct fsuuid2` of `include/uapi/linux/fs.h`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct FsUuid {
    len: u8,
    uuid: [u8; 16],
}

const FS_IOC_GETFSUUID: Opcode = opcode::read::<FsUuid>(0x15, 0);
const _: () = assert!(FS_IOC_GETFSUUID == 0x8011_1500);

/// What this kernel calls files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel;

impl FileHandles for Kernel {
    fn handle(&self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<FileHandle> {
        let mut room = Room { handle_bytes: MAX_BYTES, handle_type: 0, f_handle: [0; 128] };
        let mut mount: c_int = 0;
        let at = (&raw mut room).cast::<libc::file_handle>();
        // SAFETY: the descriptor is open while it is borrowed, the name ends in NUL, `room` begins like `struct
        // file_handle` and has the bytes behind it that it says (asserted above), and `mount` takes one `int`.
        let ret = unsafe {
            libc::name_to_handle_at(dir.as_raw_fd(), name.as_ptr(), at, &raw mut mount, 0)
        };
        if ret != 0 {
            return Err(io::Error::last_os_error());
        }
        let strange = || io::Error::from(io::ErrorKind::InvalidData);
        let len = usize::try_from(room.handle_bytes).map_err(|_| strange())?;
        let bytes = room.f_handle.get(..len).ok_or_else(strange)?.to_vec();
        let kind = u8::try_from(room.handle_type).map_err(|_| strange())?;
        Ok(FileHandle { kind, bytes })
    }

    fn uuid(&self, dir: BorrowedFd<'_>) -> Option<[u8; 16]> {
        // SAFETY: FS_IOC_GETFSUUID fills one `struct fsuuid2`, which `FsUuid` is (asserted above).
        let get = unsafe { Getter::<FS_IOC_GETFSUUID, FsUuid>::new() };
        // SAFETY: as above; every bit pattern is a valid `FsUuid`.
        let found = unsafe { rustix::ioctl::ioctl(dir, get) }.ok()?;
        (usize::from(found.len) == found.uuid.len() && found.uuid != [0; 16]).then_some(found.uuid)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn two_names_of_one_inode_have_one_handle() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        drop(std::fs::File::create(at("a")).unwrap());
        std::fs::hard_link(at("a"), at("b")).unwrap();
        drop(std::fs::File::create(at("c")).unwrap());
        let opened = std::fs::File::open(dir.path()).unwrap();
        let handle = |name: &CStr| Kernel.handle(opened.as_fd(), name);
        let (Ok(a), Ok(b), Ok(c)) = (handle(c"a"), handle(c"b"), handle(c"c")) else {
            eprintln!("skipped: the filesystem of /var/tmp has no file handles");
            return;
        };
        assert_eq!(a, b);
        assert_ne!(a, c);
        assert_eq!(handle(c"none").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
