//! Undoing a mount, with no memory of how it was made: the mount table says what is there, and one unmount
//! frees overlay, layers and loop devices.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::mount::UnmountFlags;

use super::plan::OVERLAY_SOURCE;
use super::table::{self, MountEntry};
use crate::sys::loopdev;
use crate::{Error, MountError, Result};

/// How far an unmount may go.
#[derive(Debug, Clone, Copy, Default)]
pub struct UmountOptions {
    /// Also what erolith did not mount.
    pub force: bool,
    /// Detach now and free when the last user is gone (`umount -l`).
    pub lazy: bool,
}

/// Unmounts what is mounted on top at `dir`, and returns its line of the mount table.
///
/// # Errors
/// [`MountError::NotMounted`] when `dir` is no mount point, [`MountError::NotOurs`] when erolith did not mount it,
/// [`crate::KernelError::Call`] with EBUSY while it is in use.
pub fn umount(dir: &Path, options: UmountOptions) -> Result<MountEntry> {
    let entry = mounted_at(dir)?;
    if !options.force && !is_ours(&entry) {
        let (fs_type, from) = (entry.fs_type, entry.source.to_string_lossy().into_owned());
        return Err(Error::Mount(MountError::NotOurs { dir: entry.mount_point, fs_type, from }));
    }
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, options.lazy);
    rustix::mount::unmount(&entry.mount_point, flags)
        .map_err(Error::kernel_on("unmount", &entry.mount_point))?;
    Ok(entry)
}

/// The line of the mount on top at `dir`, which must be its root.
///
/// # Errors
/// [`MountError::NotMounted`], and [`crate::KernelError::Call`] when `dir` cannot be opened.
pub fn mounted_at(dir: &Path) -> Result<MountEntry> {
    let failed = Error::kernel_on("open", dir);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty()).map_err(&failed)?;
    let id = rustix::fs::statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .map_err(&failed)?
        .stx_mnt_id;
    let not_mounted = || Error::Mount(MountError::NotMounted { dir: dir.to_owned() });
    let place =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)))
            .unwrap_or_else(|_| PathBuf::from(dir));
    let table = table::read()?;
    let entry = table::by_id(&table, id).ok_or_else(not_mounted)?;
    if entry.mount_point != place {
        return Err(not_mounted());
    }
    Ok(entry.clone())
}

/// Whether erolith made the mount. Overlays carry our name as their source and loop devices carry it in their
/// state; a file-backed EROFS mount shows the descriptor it was made from.
fn is_ours(entry: &MountEntry) -> bool {
    let source = Path::new(&entry.source);
    match entry.fs_type.as_str() {
        "overlay" => entry.source == OVERLAY_SOURCE,
        "erofs" if source.starts_with("/proc/self/fd") => true,
        "erofs" => loopdev::status_of_node(source).is_ok_and(|status| status.ours),
        _ => false,
    }
}
