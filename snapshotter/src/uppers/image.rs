//! Limits by a filesystem of the layer's own, in a file in the directory of the snapshot.
//!
//! There is at most one loop device over an image, whichever process and mount namespace attached it: two would be two
//! caches of the same blocks, and the filesystem would be lost. Mounting the device once more gives the same
//! filesystem, and the device goes away with the last mount of it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::PoisonError;

use erolith_overlay::INDEX_DIR;
use rustix::fs::{AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::{IMAGE_UPPER, IMAGE_WORK, Uppers, mkfs};
use crate::fault::point;
use crate::files::{failed, make_dir, make_file};
use crate::layerdir::{RWLAYER, WORK, remove_tree};
use crate::lowers::{attach_at, is_mounted, unmount};
use crate::mounts::FsContext;
use crate::sys::loopdev::{self, Access};
use crate::{Error, Result};
use crate::{IntegrityError, KernelError};

/// User and group of the upper directory; nothing for ourselves.
pub(crate) type Owner = Option<(u32, u32)>;

/// What the image is filled with while it is made.
const TREE: &str = "tree";
/// Block size of the device, that of the filesystem.
const BLOCK: u32 = 4096;
/// - Blocks that files gave back are given back to the host.
/// - Inode tables are empty already: the file was.
const OPTIONS: [&str; 2] = ["discard", "noinit_itable"];

/// Makes the image of the snapshot in `dir`, which then has no work directory of its own, and syncs it: a container
/// that syncs its files later does not sync what lies around them.
pub(super) fn make(dir: &Path, bytes: u64, owner: Owner) -> Result<()> {
    let (path, tree) = (dir.join(RWLAYER), dir.join(TREE));
    make_dir(&tree, 0o755)?;
    for name in [IMAGE_UPPER, IMAGE_WORK] {
        make_dir(&tree.join(name), 0o755)?;
    }
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let upper = tree.join(IMAGE_UPPER);
        rustix::fs::chown(&upper, Some(uid), Some(gid))
            .map_err(failed("setting the owner of", &upper))?;
    }
    make_file(&path, 0o600)?;
    point("upper.before_filesystem")?;
    let file = open(&path, OFlags::RDWR)?;
    mkfs::make(&file, &path.display().to_string(), bytes, Some(&tree))?;
    point("upper.after_filesystem")?;
    file.sync_all().map_err(failed("syncing", &path))?;
    remove_tree(&tree)?;
    let work = dir.join(WORK);
    match rustix::fs::unlinkat(CWD, &work, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("removing", &work)(errno)),
    }
}

impl Uppers {
    /// Mounts the image of snapshot `id` at its place, if it is not. For those who hold.
    ///
    /// Neither `nodev` nor `nosuid` is set: this is what a container sees, as it would see a directory of the host.
    pub(crate) fn ensure(&self, id: u64, image: &Path) -> Result<()> {
        let place = self.place(id);
        if is_mounted(&place)? {
            return Ok(());
        }
        let _alone = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        if is_mounted(&place)? {
            return Ok(());
        }
        let mount = mount(id, image, Access::ReadWrite)?;
        point("upper.after_mount")?;
        attach_at(mount.as_fd(), &place)
    }

    /// Whether the image of a snapshot is mounted at its place.
    pub(crate) fn is_mounted(&self, id: u64) -> Result<bool> {
        is_mounted(&self.place(id))
    }

    /// The upper directory in an image that is mounted elsewhere or nowhere, and the index in its work directory. What it
    /// is mounted for goes with the descriptors.
    pub(crate) fn peek(&self, id: u64, image: &Path) -> Result<(OwnedFd, Option<OwnedFd>)> {
        let _alone = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        // Read-only, for other programs may mount it at the same time and do not look for our device.
        let mount = match mount(id, image, Access::ReadOnly) {
            // It was not unmounted before the power went: its journal has to be written back.
            Err(error) if matches!(error.errno(), Some(Errno::ROFS | Errno::ACCESS)) => {
                mount(id, image, Access::ReadWrite)?
            }
            other => other?,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |name: &Path| rustix::fs::openat(&mount, name, flags, Mode::empty());
        let upper = open(Path::new(IMAGE_UPPER));
        let upper = upper.map_err(failed("opening the upper directory in", image))?;
        match open(&Path::new(IMAGE_WORK).join(INDEX_DIR)) {
            Err(Errno::NOENT) => Ok((upper, None)),
            index => Ok((upper, Some(index.map_err(failed("opening the index in", image))?))),
        }
    }

    /// Leaves the image of a snapshot to a caller that mounts it itself, and does not look for a device of ours: one is
    /// there only when the profile was another one before.
    ///
    /// # Errors
    /// [`KernelError::Call`] with EBUSY while a container of that time has it.
    pub(crate) fn hand_over(&self, id: u64, image: &Path) -> Result<()> {
        self.unmount(id)?;
        let Some(device) = loopdev::find(open(image, OFlags::RDONLY)?.as_fd())? else {
            return Ok(());
        };
        let status = device.status()?;
        if status.ours && !status.read_only {
            return Err(Error::kernel_on("hand over", image)(Errno::BUSY));
        }
        Ok(())
    }

    /// Unmounts the image of a snapshot. Containers that have it keep it.
    pub(crate) fn unmount(&self, id: u64) -> Result<()> {
        unmount(&self.place(id), UnmountFlags::NOFOLLOW)
    }

    /// Unmounts the images of all snapshots but those that are active. That is asked again while nothing is handed
    /// out, which is what `alone` sees to. Failures are logged: the next sweep tries again.
    pub(crate) fn sweep<G>(
        &self,
        is_active: &dyn Fn(u64) -> Result<bool>,
        alone: impl FnOnce() -> G,
    ) -> Result<()> {
        let unused = without_active(self.mounted()?, is_active)?;
        if unused.is_empty() {
            return Ok(());
        }
        let _alone = alone();
        for id in without_active(unused, is_active)? {
            if let Err(error) = self.unmount(id) {
                tracing::warn!(error = error.line(), "a writable layer stays mounted for now");
            }
            point("upper.after_unmount")?;
        }
        Ok(())
    }
}

fn without_active(ids: Vec<u64>, is_active: &dyn Fn(u64) -> Result<bool>) -> Result<Vec<u64>> {
    let mut left = Vec::new();
    for id in ids {
        if !is_active(id)? {
            left.push(id);
        }
    }
    Ok(left)
}

/// The filesystem in `image`, mounted nowhere.
fn mount(id: u64, image: &Path, access: Access) -> Result<OwnedFd> {
    let flags = match access {
        Access::ReadOnly => OFlags::RDONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    let gone = |error| match error {
        Error::Storage { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Error::Integrity(IntegrityError::Gone { id, path: image.to_owned() })
        }
        other => other,
    };
    // Between looking for a device and making one, against other processes that mount it. Not the file that the device gets:
    // that stays open as long as it is mounted, and so would the lock.
    let lock = open(image, OFlags::RDONLY).map_err(gone)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(failed("locking", image))?;
    let file = open(image, flags).map_err(gone)?;
    let device = match loopdev::find(file.as_fd())? {
        Some(device) => device,
        None => loopdev::attach(file.as_fd(), BLOCK, access)?,
    };
    let context = FsContext::open("ext4")?;
    context.string("source", &device.path().to_string_lossy())?;
    if device.status()?.read_only {
        context.flag("ro")?;
    }
    for option in OPTIONS {
        context.flag(option)?;
    }
    let attributes = match access {
        Access::ReadOnly => MountAttrFlags::MOUNT_ATTR_RDONLY,
        Access::ReadWrite => MountAttrFlags::empty(),
    };
    context.mount(attributes).map_err(|error| match error {
        Error::Kernel(KernelError::Call { action, errno, log }) => {
            Error::Kernel(KernelError::Call {
                action: format!("{}: {action}", image.display()),
                errno,
                log,
            })
        }
        other => other,
    })
}

fn open(path: &Path, flags: OFlags) -> Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(failed("opening", path))
}
