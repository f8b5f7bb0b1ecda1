//! Which system calls can fail, and how each of them does.

/// What a call does. It says how the call may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Puts bytes into a file, or takes room for them.
    Write,
    /// Makes what was written durable.
    Sync,
    /// Makes, changes or takes a name.
    Name,
    /// Changes an attribute.
    Attribute,
    /// `ioctl`: flags, clones, fs-verity, loop devices.
    Control,
    /// Mounts or unmounts.
    Mount,
}

/// Where a call names what it works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    /// A descriptor in this argument.
    Descriptor(usize),
    /// A path: it counts wherever that leads.
    Path,
    /// A path, and flags in this argument: it counts when it makes a file.
    Opens(usize),
}

/// Calls that change something, with their names.
pub(super) const CALLS: &[(i64, &str, Family, Object)] = &[
    (libc::SYS_write, "write", Family::Write, Object::Descriptor(0)),
    (libc::SYS_writev, "writev", Family::Write, Object::Descriptor(0)),
    (libc::SYS_pwrite64, "pwrite64", Family::Write, Object::Descriptor(0)),
    (libc::SYS_pwritev, "pwritev", Family::Write, Object::Descriptor(0)),
    (libc::SYS_fallocate, "fallocate", Family::Write, Object::Descriptor(0)),
    (libc::SYS_ftruncate, "ftruncate", Family::Write, Object::Descriptor(0)),
    (libc::SYS_copy_file_range, "copy_file_range", Family::Write, Object::Descriptor(2)),
    (libc::SYS_sendfile, "sendfile", Family::Write, Object::Descriptor(0)),
    (libc::SYS_fsync, "fsync", Family::Sync, Object::Descriptor(0)),
    (libc::SYS_fdatasync, "fdatasync", Family::Sync, Object::Descriptor(0)),
    (libc::SYS_sync_file_range, "sync_file_range", Family::Sync, Object::Descriptor(0)),
    (libc::SYS_syncfs, "syncfs", Family::Sync, Object::Descriptor(0)),
    (libc::SYS_openat, "openat", Family::Name, Object::Opens(2)),
    (libc::SYS_mkdirat, "mkdirat", Family::Name, Object::Path),
    (libc::SYS_mknodat, "mknodat", Family::Name, Object::Path),
    (libc::SYS_symlinkat, "symlinkat", Family::Name, Object::Path),
    (libc::SYS_linkat, "linkat", Family::Name, Object::Path),
    (libc::SYS_renameat, "renameat", Family::Name, Object::Path),
    (libc::SYS_renameat2, "renameat2", Family::Name, Object::Path),
    (libc::SYS_unlinkat, "unlinkat", Family::Name, Object::Path),
    (libc::SYS_fchmod, "fchmod", Family::Attribute, Object::Descriptor(0)),
    (libc::SYS_fchmodat, "fchmodat", Family::Attribute, Object::Path),
    (libc::SYS_fchown, "fchown", Family::Attribute, Object::Descriptor(0)),
    (libc::SYS_fchownat, "fchownat", Family::Attribute, Object::Path),
    (libc::SYS_utimensat, "utimensat", Family::Attribute, Object::Path),
    (libc::SYS_fsetxattr, "fsetxattr", Family::Attribute, Object::Descriptor(0)),
    (libc::SYS_setxattr, "setxattr", Family::Attribute, Object::Path),
    (libc::SYS_ioctl, "ioctl", Family::Control, Object::Descriptor(0)),
    (libc::SYS_mount, "mount", Family::Mount, Object::Path),
    (libc::SYS_umount2, "umount2", Family::Mount, Object::Path),
    (libc::SYS_open_tree, "open_tree", Family::Mount, Object::Path),
    (libc::SYS_move_mount, "move_mount", Family::Mount, Object::Path),
    (libc::SYS_fsopen, "fsopen", Family::Mount, Object::Path),
    (libc::SYS_fsconfig, "fsconfig", Family::Mount, Object::Path),
    (libc::SYS_fsmount, "fsmount", Family::Mount, Object::Path),
    (libc::SYS_mount_setattr, "mount_setattr", Family::Mount, Object::Path),
    // What only this architecture has; Rust's standard library and C's take them where they are.
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open", Family::Name, Object::Opens(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", Family::Name, Object::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", Family::Name, Object::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link", Family::Name, Object::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, "symlink", Family::Name, Object::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", Family::Name, Object::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", Family::Name, Object::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, "chmod", Family::Attribute, Object::Path),
];

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// EIO: the device.
    Io,
    /// ENOSPC: no room.
    NoSpace,
    /// EDQUOT: no room for this user or project.
    Quota,
    /// EINTR: a signal came before anything was done.
    Interrupted,
    /// ENOMEM: the kernel has no memory.
    NoMemory,
    /// EMFILE: no descriptor is left.
    NoDescriptor,
    /// Half of the bytes are written, and the call says so.
    Short,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Io,
        Self::NoSpace,
        Self::Quota,
        Self::Interrupted,
        Self::NoMemory,
        Self::NoDescriptor,
        Self::Short,
    ];

    /// Its number; `None` for what succeeds in part.
    pub(super) fn errno(self) -> Option<i32> {
        Some(match self {
            Self::Io => libc::EIO,
            Self::NoSpace => libc::ENOSPC,
            Self::Quota => libc::EDQUOT,
            Self::Interrupted => libc::EINTR,
            Self::NoMemory => libc::ENOMEM,
            Self::NoDescriptor => libc::EMFILE,
            Self::Short => return None,
        })
    }

    /// Whether calls of this family can fail so, as their manual pages have it.
    #[must_use]
    pub fn fits(self, family: Family) -> bool {
        match self {
            Self::Io => true,
            Self::NoSpace | Self::Quota => !matches!(family, Family::Control | Family::Mount),
            Self::Interrupted => matches!(family, Family::Write | Family::Sync),
            Self::NoMemory => matches!(family, Family::Mount | Family::Control | Family::Name),
            Self::NoDescriptor => matches!(family, Family::Name),
            Self::Short => family == Family::Write,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_can_fail_and_every_failure_has_a_call() {
        for (_, name, family, _) in CALLS {
            assert!(Failure::ALL.iter().any(|failure| failure.fits(*family)), "{name}");
        }
        for failure in Failure::ALL {
            assert!(CALLS.iter().any(|(_, _, family, _)| failure.fits(*family)), "{failure:?}");
        }
    }
}
