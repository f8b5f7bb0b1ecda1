//! A filesystem context: fsopen(2), fsconfig(2) and fsmount(2), with the log the kernel keeps in it.
//!
//! A mount made here is attached nowhere. It lives as long as its descriptor, unless it is attached or used
//! as a layer, so whatever fails or dies half-way leaves nothing.

use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::{Error, KernelError, MountError, Result};

/// Longest string fsconfig(2) takes: `strndup_user(_value, 256)` in fs/fsopen.c counts the NUL.
const VALUE_MAX: usize = 255;
/// Messages that are kept of one context; the kernel itself keeps 8.
const LOG_MAX: usize = 16;

/// A filesystem being configured.
#[derive(Debug)]
pub(crate) struct FsContext {
    fd: OwnedFd,
    fs: &'static str,
}

impl FsContext {
    /// fsopen(2).
    pub(crate) fn open(fs: &'static str) -> Result<Self> {
        let fd = rustix::mount::fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|errno| Error::kernel(format!("fsopen {fs}"), errno))?;
        Ok(Self { fd, fs })
    }

    /// An option with a value.
    pub(crate) fn string(&self, key: &str, value: &str) -> Result<()> {
        if value.len() > VALUE_MAX {
            let (bytes, limit) = (value.len(), VALUE_MAX);
            return Err(Error::Mount(MountError::ValueTooLong {
                key: key.to_owned(),
                bytes,
                limit,
            }));
        }
        let set = rustix::mount::fsconfig_set_string(&self.fd, key, value);
        set.map_err(|errno| self.failed(format_args!("option {key}={value}"), errno))
    }

    /// An option without a value.
    pub(crate) fn flag(&self, key: &str) -> Result<()> {
        let set = rustix::mount::fsconfig_set_flag(&self.fd, key);
        set.map_err(|errno| self.failed(format_args!("option {key}"), errno))
    }

    /// An option whose value is an open file or a detached mount.
    pub(crate) fn fd(&self, key: &str, value: BorrowedFd<'_>) -> Result<()> {
        let set = rustix::mount::fsconfig_set_fd(&self.fd, key, value);
        set.map_err(|errno| self.failed(format_args!("option {key} by descriptor"), errno))
    }

    /// An option whose value is a path, given as an open file: whatever the path's length, and whatever
    /// happens to the name, the kernel opens exactly this file.
    pub(crate) fn file(&self, key: &str, value: BorrowedFd<'_>) -> Result<()> {
        self.string(key, &format!("/proc/self/fd/{}", value.as_raw_fd()))
    }

    /// Makes the filesystem, and a detached mount of it.
    pub(crate) fn mount(&self, attributes: MountAttrFlags) -> Result<OwnedFd> {
        let created = rustix::mount::fsconfig_create(&self.fd);
        created.map_err(|errno| self.failed(format_args!("mount"), errno))?;
        let mount = rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes);
        mount.map_err(|errno| self.failed(format_args!("fsmount"), errno))
    }

    fn failed(&self, action: impl Display, errno: Errno) -> Error {
        Error::Kernel(KernelError::Call {
            action: format!("{}: {action}", self.fs),
            errno,
            log: self.log(),
        })
    }

    /// Each read(2) of a context gives one message, after a letter for its severity; ENODATA ends them.
    fn log(&self) -> Vec<String> {
        let mut messages = Vec::new();
        let mut buffer = [0u8; 1024];
        while messages.len() < LOG_MAX {
            let Ok(n @ 1..) = rustix::io::read(&self.fd, &mut buffer) else { break };
            let text = String::from_utf8_lossy(buffer.get(..n).unwrap_or_default());
            let text = text.trim_end();
            messages.push(text.get(2..).unwrap_or(text).to_owned());
        }
        messages
    }
}

/// Attaches a detached mount at the directory that `target` is open on.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount.as_fd(), "", target, "", flags)
}
