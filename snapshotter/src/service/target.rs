//! Which directory the mounts of a snapshot are of: where a differ writes its layer, and reads what a container wrote.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use erolith_overlay::Owners;

use super::Snapshotter;
use crate::api_mounts::Mount;
use crate::layerdir::{self, MARKER};
use crate::lowers::IdMaps;
use crate::store::{Kind, Labels};
use crate::{Error, Result, ServiceError};

/// What a container wrote.
#[derive(Debug)]
pub struct UpperChanges {
    /// The upper directory, open.
    pub upper: OwnedFd,
    /// The index of the overlay (`index=on`), open, if it has one.
    pub index: Option<OwnedFd>,
    /// Whose numbers the owners in it are.
    pub owners: Owners,
}

impl Snapshotter {
    /// The layer directory that `mounts` are of, by the rule of [`layerdir::of_mounts`]; nothing when they are of a
    /// snapshotter without such directories.
    ///
    /// Two more are found by what we mounted: a snapshot whose writable layer is a filesystem of its own; and one whose
    /// layer is there already, so that a layer can be applied again when the first answer got lost. What shows that
    /// layer is unmounted: it would go on to show the old one.
    ///
    /// # Errors
    /// [`ServiceError::Finished`] for one of our directories whose snapshot is not active: containers may be running on
    /// its layer. What the database gives.
    pub fn layer_dir(&self, mounts: &[Mount]) -> Result<Option<PathBuf>> {
        let Some(dir) = layerdir::of_mounts(mounts).or_else(|| self.mounted(mounts)) else {
            return Ok(None);
        };
        if let Some(id) = self.require_active(&dir)? {
            self.lowers.forget(id)?;
        }
        Ok(Some(dir))
    }

    /// What was written into the active snapshot in `dir`, wherever its upper directory is; nothing for a directory that
    /// is not ours.
    ///
    /// # Errors
    /// [`ServiceError::Finished`] for one of our directories whose snapshot is not active,
    /// [`crate::IntegrityError::Gone`], and what mounting gives.
    pub fn written_in(&self, dir: &Path) -> Result<Option<UpperChanges>> {
        let Some(id) = self.require_active(dir)? else { return Ok(None) };
        self.written(id, &self.store.labels_of(id)?).map(Some)
    }

    /// What was written into the active snapshot `id`, which has these labels.
    pub(super) fn written(&self, id: u64, labels: &Labels) -> Result<UpperChanges> {
        let owners = IdMaps::from_labels(labels)?.map(|maps| maps.owners()).unwrap_or_default();
        let (upper, index) = self.open_upper(id)?;
        Ok(UpperChanges { upper, index, owners })
    }

    /// The number of the active snapshot whose directory this is; nothing for those of others.
    fn require_active(&self, dir: &Path) -> Result<Option<u64>> {
        if dir.parent() != Some(&self.snapshots) {
            return Ok(None);
        }
        let id = dir.file_name().and_then(|name| layerdir::snapshot_id(name.to_str()?));
        let kind = id.map(|id| self.store.kind_of(id)).transpose()?.flatten();
        match (id, kind) {
            (Some(id), Some(Kind::Active)) => Ok(Some(id)),
            _ => Err(Error::Service(ServiceError::Finished { dir: dir.to_owned() })),
        }
    }

    /// The directory of what we mounted on top.
    fn mounted(&self, mounts: &[Mount]) -> Option<PathBuf> {
        let dir = self.paths.dir_on_top(mounts)?;
        dir.join(MARKER).is_file().then_some(dir)
    }
}
