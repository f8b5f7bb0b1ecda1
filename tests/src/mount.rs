//! Mounts without a mount point: `fsopen` and `fsmount` give a detached mount that lives as long as its descriptor, so
//! a test that dies leaves nothing behind.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

/// A detached read-only mount, gone when dropped.
#[derive(Debug)]
pub struct Mounted {
    fd: OwnedFd,
}

impl Mounted {
    /// Mounts an image straight from its file, with the files of its extra devices.
    ///
    /// # Errors
    /// Which step the kernel refused, with what it wrote to the context's log.
    pub fn erofs(image: &Path, devices: &[&Path]) -> Result<Self, String> {
        let fs =
            fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| format!("fsopen: {e}"))?;
        let configure = || {
            fsconfig_set_flag(&fs, "ro")?;
            fsconfig_set_string(&fs, "source", image)?;
            for device in devices {
                fsconfig_set_string(&fs, "device", *device)?;
            }
            fsconfig_create(&fs)
        };
        configure().map_err(|e| format!("{}: {e}: {}", image.display(), log(&fs)))?;
        Self::attach(&fs)
    }

    /// Mounts layers, lowest first, as one tree.
    ///
    /// # Errors
    /// Which step the kernel refused.
    pub fn overlay(layers: &[Self]) -> Result<Self, String> {
        let fs =
            fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| format!("fsopen: {e}"))?;
        let configure = || {
            for layer in layers.iter().rev() {
                fsconfig_set_fd(&fs, "lowerdir+", &layer.fd)?;
            }
            fsconfig_create(&fs)
        };
        configure().map_err(|e| format!("overlay of {}: {e}: {}", layers.len(), log(&fs)))?;
        Self::attach(&fs)
    }

    fn attach(fs: &OwnedFd) -> Result<Self, String> {
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map(|fd| Self { fd })
            .map_err(|e| format!("fsmount: {e}"))
    }

    /// A path that leads to the root of the mount from this process.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/.", self.fd.as_raw_fd()))
    }
}

/// What the kernel wrote about a failed mount.
fn log(fs: &OwnedFd) -> String {
    let mut out = Vec::new();
    let mut buf = [0; 4096];
    loop {
        match rustix::io::read(fs, &mut buf) {
            Ok(0) | Err(_) => break,
            Ok(n) => out.extend_from_slice(buf.get(..n).unwrap_or_default()),
        }
    }
    String::from_utf8_lossy(&out).trim_end().replace('\n', "; ")
}

/// Whether the kernel lets this process mount images from plain files, and why not.
///
/// # Errors
/// The reason, for [`crate::need!`].
pub fn available() -> Result<(), String> {
    match fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Ok(()),
        Err(Errno::PERM) => Err("mounting needs root".to_owned()),
        Err(Errno::NODEV) => Err("this kernel has no EROFS".to_owned()),
        Err(e) => Err(format!("fsopen(erofs): {e}")),
    }
}

/// Bytes of a file or of a block device that are in memory.
///
/// # Errors
/// What the system says; a filesystem must be ours for an honest answer.
pub fn resident(path: &Path) -> std::io::Result<u64> {
    let file = std::fs::File::open(path)?;
    // The length of a block device is found at its end.
    let bytes = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
    crate::sys::resident(&file, bytes)
}
