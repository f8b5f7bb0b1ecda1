//! Scratch space that vanishes with its owner: a detached tmpfs.
//!
//! It takes everything that a tree can have (devices, `trusted.*` and long `user.*` attributes, holes), whatever the disk
//! under `$TMPDIR` is, and leaves nothing behind when a test dies.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

/// A directory of its own file system, gone when dropped.
#[derive(Debug)]
pub struct Scratch {
    // Held for the mount it keeps alive.
    _fd: OwnedFd,
    path: PathBuf,
}

impl Scratch {
    /// Room for `bytes`.
    ///
    /// # Errors
    /// Why this process cannot have one, for [`crate::need!`].
    pub fn new(bytes: u64) -> Result<Self, String> {
        let fail = |e| format!("a scratch tmpfs: {e}");
        let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail)?;
        fsconfig_set_string(&fs, "size", bytes.to_string()).map_err(fail)?;
        fsconfig_set_string(&fs, "mode", "0700").map_err(fail)?;
        fsconfig_create(&fs).map_err(fail)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        let fd = fsmount(fs.as_fd(), flags, MountAttrFlags::empty()).map_err(fail)?;
        // By process id, so that the path also leads there from the programs that the test starts.
        let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        Ok(Self { _fd: fd, path: path.into() })
    }

    /// Where it is, for this process and those that it starts.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}
