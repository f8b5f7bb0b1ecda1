//! Writable layers that cannot grow beyond a limit, so that one container cannot fill the disk of all.
//!
//! There are two ways, and the filesystem of the root decides which is taken:
//!
//! - **quota**: the upper directory and its work directory are a project of their own, which the filesystem keeps to
//!   its limit (ext4 with the feature `project` mounted with `prjquota`, XFS with `pquota`). It costs nothing.
//! - **image**: the upper directory is in a filesystem of its own, made in the sparse file `rwlayer.img` in the
//!   directory of the snapshot, and mounted at `<state>/w/<id>` through a loop device. It works everywhere.
//!
//! Which way a snapshot has is seen on disk and nowhere else: one with an image has no work directory beside it, one
//! with a quota has the project on its upper directory. So nothing that was promised a limit is ever without: an image
//! that is gone, or a quota that is no longer kept, is an error of the call that asks for the mounts.
//!
//! What a quota cannot keep: a process that is root in the first user namespace may move its own files to another
//! project, and on ext4 one with CAP_SYS_RESOURCE that writes without an overlay, as in a snapshot without parents, is
//! not limited. Who does not trust such containers takes images.

mod image;
pub(crate) mod mkfs;
mod project;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use erolith_durable::scratch;

use crate::IntegrityError;
use crate::files::{ensure_dir, failed, open_dir, stat};
use crate::kernel;
use crate::layerdir::{RWLAYER, WORK};
use crate::{Error, Result};

pub(crate) use image::Owner;
use project::Projects;
#[cfg(test)]
pub(crate) use project::in_use;

/// Where images are mounted, below the state directory.
pub(crate) const PLACE: &str = "w";
/// The upper directory in an image.
pub(crate) const IMAGE_UPPER: &str = "upper";
/// The work directory in an image.
pub(crate) const IMAGE_WORK: &str = "work";
/// The least that can be asked for: the smallest filesystem with a journal and something beside it. It is the same
/// for both ways, so that a request has the same answer on every node.
pub const MIN_LIMIT: u64 = 16 << 20;

/// How writable layers are kept to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitBy {
    /// By quota where the filesystem of the root does that, else by image.
    #[default]
    Auto,
    /// By quota or not at all: a limited snapshot cannot be made where there is none.
    Quota,
    /// By image.
    Image,
}

/// Where the upper directory of an active snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upper {
    /// In the directory of the snapshot.
    Directory,
    /// In an image of so many bytes.
    Image(u64),
    /// Nowhere any more: it would be in an image, but the layer is there already.
    None,
}

/// The writable layers of one service.
#[derive(Debug)]
pub(crate) struct Uppers {
    /// `<state>/w`.
    places: PathBuf,
    projects: Projects,
    limit_by: LimitBy,
    /// One image at a time is looked for and mounted.
    mounting: Mutex<()>,
}

impl Uppers {
    /// Finds out how limits are kept for directories below `snapshots`, and says so in the log.
    ///
    /// # Errors
    /// [`Error::Storage`] when directories cannot be made or opened.
    pub(crate) fn open(
        state: &Path,
        snapshots: &Path,
        identity: &str,
        limit_by: LimitBy,
    ) -> Result<Self> {
        let places = state.join(PLACE);
        ensure_dir(&places, 0o700)?;
        let projects = Projects::open(snapshots, identity)?;
        let uppers = Self { places, projects, limit_by, mounting: Mutex::default() };
        let by = if uppers.by_quota() { "project quota" } else { "filesystem image" };
        tracing::info!(by, quota = uppers.projects.evidence(), "how writable layers are limited");
        Ok(uppers)
    }

    /// Says in the log if limits cannot be kept. For services in which every container has one; the others find out
    /// when they want one.
    pub(crate) fn try_out(&self, snapshots: &Path) {
        let tried = match (self.by_quota(), self.projects.are_kept()) {
            (true, true) => return,
            (true, false) => Err(self.projects.evidence().to_owned()),
            (false, _) => open_dir(snapshots)
                .and_then(|dir| scratch(dir.as_fd()).map_err(failed("making a file in", snapshots)))
                .and_then(|file| kernel::sized_image(&file))
                .map_err(|error| error.line()),
        };
        if let Err(error) = tried {
            tracing::error!(
                error,
                "no container can be made: its writable layer would have no limit"
            );
        }
    }

    fn by_quota(&self) -> bool {
        match self.limit_by {
            LimitBy::Auto => self.projects.are_kept(),
            LimitBy::Quota => true,
            LimitBy::Image => false,
        }
    }

    /// The first half of limiting a snapshot: what can be done before it has its number. `dir` is its directory.
    /// Returns whether the second half, [`Uppers::number`], is still to be done.
    ///
    /// # Errors
    /// As [`mkfs::make`].
    pub(crate) fn prepare(&self, dir: &Path, bytes: u64, owner: Owner) -> Result<bool> {
        if self.by_quota() {
            return Ok(true);
        }
        image::make(dir, bytes, owner)?;
        Ok(false)
    }

    /// The second half: gives the directory a project that follows from the snapshot's number.
    ///
    /// # Errors
    /// [`crate::LimitError::Unlimited`] where quotas are not kept, [`crate::KernelError::Call`].
    pub(crate) fn number(&self, dir: &Path, id: u64, bytes: u64) -> Result<()> {
        self.projects.assign(dir, id, bytes)
    }

    /// Where the upper directory of the active snapshot in `dir` is. `applied` says that it has its layer.
    ///
    /// # Errors
    /// [`IntegrityError::Gone`] when its image is.
    pub(crate) fn find(&self, id: u64, dir: &Path, applied: bool) -> Result<Upper> {
        // It is made with one of the two.
        if stat(&dir.join(WORK))?.is_some() {
            return Ok(Upper::Directory);
        }
        if applied {
            return Ok(Upper::None);
        }
        let path = dir.join(RWLAYER);
        match stat(&path)? {
            Some(stat) => Ok(Upper::Image(u64::try_from(stat.st_size).unwrap_or(0))),
            None => Err(Error::Integrity(IntegrityError::Gone { id, path })),
        }
    }

    /// Refuses a snapshot that was made with a limit by quota which is no longer kept.
    ///
    /// # Errors
    /// [`crate::LimitError::Unlimited`].
    pub(crate) fn require_limit(&self, dir: &Path) -> Result<()> {
        self.projects.require(dir)
    }

    /// Gives back what limits the snapshot in `dir`, which is not written to any more. May be done twice.
    ///
    /// # Errors
    /// [`crate::KernelError::Call`], [`Error::Storage`].
    pub(crate) fn release(&self, dir: &Path) -> Result<()> {
        self.projects.release(dir)
    }

    /// Where the image of a snapshot is mounted.
    pub(crate) fn place(&self, id: u64) -> PathBuf {
        self.places.join(id.to_string())
    }

    /// The upper directory in the mounted image of a snapshot.
    pub(crate) fn upper(&self, id: u64) -> PathBuf {
        self.place(id).join(IMAGE_UPPER)
    }

    /// The work directory in the mounted image of a snapshot.
    pub(crate) fn work(&self, id: u64) -> PathBuf {
        self.place(id).join(IMAGE_WORK)
    }

    /// Where the places of all images are.
    pub(crate) fn places(&self) -> &Path {
        &self.places
    }

    /// The snapshots whose images are mounted, or were.
    fn mounted(&self) -> Result<Vec<u64>> {
        let names = crate::files::names(&self.places)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}
