//! `mount_setattr(2)`, which rustix 1.1 does not have, for id-mapped mounts and for clones with other attributes.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// `struct mount_attr` of `include/uapi/linux/mount.h`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `MOUNT_ATTR_SIZE_VER0`.
const _: () = assert!(size_of::<MountAttr>() == 32);

/// Maps the owners of the detached mount `mount` through the user namespace `userns`.
///
/// # Errors
/// What the kernel answers: EINVAL when the filesystem does not allow it, ENOSYS before 5.12.
pub(crate) fn map_ids(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> Result<(), Errno> {
    let userns_fd = u64::try_from(userns.as_raw_fd()).map_err(|_| Errno::BADF)?;
    set(mount, &MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns_fd })
}

/// Takes attributes away from the mount `mount`.
///
/// # Errors
/// What the kernel answers: EPERM for an attribute that is locked, ENOSYS before 5.12.
pub(crate) fn clear(mount: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<(), Errno> {
    let clear = u64::from(attributes.bits());
    set(mount, &MountAttr { set: 0, clear, propagation: 0, userns_fd: 0 })
}

fn set(mount: BorrowedFd<'_>, attr: &MountAttr) -> Result<(), Errno> {
    // SAFETY: the path is an empty NUL-terminated string, `attr` is a `struct mount_attr` of the size passed and
    // is only read, and both outlive the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if ret == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&errno).unwrap_or(Errno::INVAL))
}
