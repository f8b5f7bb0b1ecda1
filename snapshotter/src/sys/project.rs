//! The project of a file: a number that quotas are counted by, which what is made in a directory takes over.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{self, Getter, Opcode, Setter, opcode};

/// `struct fsxattr` of `include/uapi/linux/fs.h`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

const _: () = assert!(size_of::<FsXattr>() == 28);

const FS_IOC_FSGETXATTR: Opcode = opcode::read::<FsXattr>(b'X', 31);
const FS_IOC_FSSETXATTR: Opcode = opcode::write::<FsXattr>(b'X', 32);
const _: () = assert!(FS_IOC_FSGETXATTR == 0x801C_581F);
const _: () = assert!(FS_IOC_FSSETXATTR == 0x401C_5820);

const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// The project of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Project {
    /// 0: that of all who have none.
    pub(crate) id: u32,
    /// What is made in the directory gets it, too; and nothing of another project can be moved there.
    pub(crate) inherits: bool,
}

/// The project of an open file or directory.
///
/// # Errors
/// ENOTTY or EOPNOTSUPP where the filesystem knows no such thing.
pub(crate) fn of(file: BorrowedFd<'_>) -> Result<Project, Errno> {
    let FsXattr { xflags, projid, .. } = get(file)?;
    Ok(Project { id: projid, inherits: xflags & FS_XFLAG_PROJINHERIT != 0 })
}

/// Sets the project of an open file or directory, and of nothing below it.
///
/// # Errors
/// What the filesystem answers: EOPNOTSUPP from ext4 without the feature `project`, EDQUOT when the project is full.
pub(crate) fn set(file: BorrowedFd<'_>, project: Project) -> Result<(), Errno> {
    let mut attributes = get(file)?;
    attributes.projid = project.id;
    attributes.xflags &= !FS_XFLAG_PROJINHERIT;
    if project.inherits {
        attributes.xflags |= FS_XFLAG_PROJINHERIT;
    }
    // SAFETY: FS_IOC_FSSETXATTR reads one `struct fsxattr`, which `FsXattr` is (asserted above).
    let set = unsafe { Setter::<FS_IOC_FSSETXATTR, FsXattr>::new(attributes) };
    // SAFETY: as above; the kernel writes nothing back.
    unsafe { ioctl::ioctl(file, set) }
}

fn get(file: BorrowedFd<'_>) -> Result<FsXattr, Errno> {
    // SAFETY: FS_IOC_FSGETXATTR fills one `struct fsxattr`, which `FsXattr` is (asserted above).
    let get = unsafe { Getter::<FS_IOC_FSGETXATTR, FsXattr>::new() };
    // SAFETY: as above; every bit pattern is a valid `FsXattr`, and the call fails rather than fill a part.
    unsafe { ioctl::ioctl(file, get) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// The layout is right when what other calls say of the file is read here too.
    #[test]
    fn attributes_are_read_and_written() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let open = std::fs::File::open(dir.path()).unwrap();
        let Ok(before) = get(open.as_fd()) else {
            assert!(std::env::var_os("CI").is_none(), "no FS_IOC_FSGETXATTR on /var/tmp");
            println!("skipped: no FS_IOC_FSGETXATTR on /var/tmp");
            return;
        };
        // FS_XFLAG_NODUMP is FS_NODUMP_FL of the other interface.
        let flags = rustix::fs::ioctl_getflags(&open).unwrap();
        rustix::fs::ioctl_setflags(&open, flags | rustix::fs::IFlags::NODUMP).unwrap();
        assert_eq!(get(open.as_fd()).unwrap().xflags, before.xflags | 0x80);
        let project = of(open.as_fd()).unwrap();
        set(open.as_fd(), project).unwrap();
        assert_eq!(of(open.as_fd()).unwrap(), project);
    }
}
