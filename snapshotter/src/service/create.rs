//! Making active snapshots and views.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use super::labels::{DIFF_ID_LABEL, is_unpack};
use super::unpack::{self, Staging};
use super::{Snapshotter, limit};
use crate::Result;
use crate::api_mounts::Mount;
use crate::fault::point;
use crate::files::{failed, stat, sync_dir};
use crate::layerdir::{self, IMAGE, UPPER, record};
use crate::lowers::IdMaps;
use crate::mounts;
use crate::store::{Entry, Kind, Labels, Snapshot};
use crate::uppers::Owner;

/// A directory that is complete but has no number yet. It goes when it never gets one.
pub(super) struct Fresh<'s> {
    service: &'s Snapshotter,
    path: PathBuf,
    /// Something in it is worth a sync: a layer from a cache, or the filesystem of a writable layer.
    has_content: bool,
    /// A limit that is set when the number is known.
    limit: Option<u64>,
    is_placed: bool,
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if !self.is_placed
            && let Err(error) = self.service.discard(&self.path)
        {
            tracing::warn!(error = error.line(), "a new directory is left for the next cleanup");
        }
    }
}

impl Snapshotter {
    /// What `prepare` and `view` have in common. The cost depends on the number of parents and on nothing else.
    pub(super) fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: &Labels,
        staging: Option<&dyn Staging>,
    ) -> Result<Vec<Mount>> {
        let labels = unpack::obeyed(labels);
        let (maps, labels) = self.maps_on(parent, labels.as_ref())?;
        let labels = labels.as_ref();
        let limit = self.limit_of(kind, key, labels);
        let snapshot = {
            let _creating = self.creating.read().unwrap_or_else(PoisonError::into_inner);
            point("create.before_directory")?;
            let mut fresh = self.fresh(kind)?;
            if let Some(staging) = staging.filter(|_| kind == Kind::Active) {
                fresh.has_content = self.take_cached(&fresh.path, key, labels, staging)?;
                if fresh.has_content
                    && let Err(error) = self.heal(&fresh.path)
                {
                    tracing::warn!(error = error.line(), "a damaged layer could not be made whole");
                }
            }
            // With a layer there is nothing to write to.
            if let Some(bytes) = limit.filter(|_| !fresh.has_content) {
                let below = self.parent_of_new(parent)?;
                self.limit(&mut fresh, bytes, self.owner_of(below, maps.as_ref())?)?;
            }
            point("create.after_directory")?;
            self.store.create(kind, key, parent, labels, &mut |snapshot| {
                self.place(&mut fresh, key, snapshot, maps.as_ref())
            })?
        };
        let mounts = point("create.after_commit");
        mounts.and_then(|()| self.arrays(&snapshot, maps.as_ref())).inspect_err(|_| {
            // A failed request leaves nothing: the same key can be tried again.
            if let Err(error) = self.forget(key) {
                tracing::warn!(error = error.line(), key, "a snapshot without mounts is left");
            }
        })
    }

    /// Everything a new snapshot has in its directory.
    pub(super) fn fresh(&self, kind: Kind) -> Result<Fresh<'_>> {
        let path =
            self.snapshots.join(format!("new-{}-{}", std::process::id(), self.next_serial()));
        let fresh =
            Fresh { service: self, path, has_content: false, limit: None, is_placed: false };
        // A killed process may have had the same number.
        layerdir::remove_tree(&fresh.path)?;
        layerdir::make(&fresh.path, kind)?;
        Ok(fresh)
    }

    /// What the writable layer of a new snapshot is limited to, if it has one and it is.
    pub(super) fn limit_of(&self, kind: Kind, key: &str, labels: &Labels) -> Option<u64> {
        match kind {
            Kind::Active => limit::of(key, labels, self.config.default_size),
            Kind::View | Kind::Committed => None,
        }
    }

    /// Limits what will be written to a new directory.
    pub(super) fn limit(&self, fresh: &mut Fresh<'_>, bytes: u64, owner: Owner) -> Result<()> {
        match self.uppers.prepare(&fresh.path, bytes, owner)? {
            true => fresh.limit = Some(bytes),
            false => fresh.has_content = true,
        }
        Ok(())
    }

    /// The number of the parent that a new snapshot will have.
    fn parent_of_new(&self, parent: &str) -> Result<Option<u64>> {
        if parent.is_empty() { Ok(None) } else { Ok(Some(self.store.snapshot(parent)?.id)) }
    }

    /// Gives the directory its number. Runs before the row is committed, so that a row is never without a directory;
    /// a directory without a row is what cleanup looks for.
    ///
    /// Only a layer, or a writable layer's own filesystem, is worth a sync: an empty directory follows from its row, and
    /// is made from it again if a power cut took it. What a container syncs in it later takes the directory along, on
    /// every filesystem with a journal.
    pub(super) fn place(
        &self,
        fresh: &mut Fresh<'_>,
        key: &str,
        snapshot: &Snapshot,
        maps: Option<&IdMaps>,
    ) -> Result<()> {
        self.own_upper(&fresh.path, snapshot.parents.first().copied(), maps)?;
        if let Some(bytes) = fresh.limit {
            self.uppers.number(&fresh.path, snapshot.id, bytes)?;
        }
        record::begin(&fresh.path, &Entry::new(key, snapshot))?;
        point("create.after_record")?;
        let dir = self.dir(snapshot.id);
        if let Err(errno) = rustix::fs::rename(&fresh.path, &dir) {
            if !matches!(errno, Errno::NOTEMPTY | Errno::EXIST) {
                return Err(failed("naming", &dir)(errno));
            }
            // A database put back from a copy gives numbers again: what lies there has no row in it.
            self.set_aside(&dir)?;
            rustix::fs::rename(&fresh.path, &dir).map_err(failed("naming", &dir))?;
        }
        fresh.is_placed = true;
        point("create.after_rename")?;
        if self.config.sync && fresh.has_content {
            sync_dir(&dir)?;
            sync_dir(&self.snapshots)?;
        }
        point("create.after_sync")
    }

    /// Gives the upper directory in `dir` its owner.
    pub(super) fn own_upper(
        &self,
        dir: &Path,
        parent: Option<u64>,
        maps: Option<&IdMaps>,
    ) -> Result<()> {
        let Some((uid, gid)) = self.owner_of(parent, maps)? else { return Ok(()) };
        let upper = dir.join(UPPER);
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(CWD, &upper, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("setting the owner of", &upper))
    }

    /// Who owns the root directory: whom the maps say, else who owns that of the parent.
    pub(super) fn owner_of(&self, parent: Option<u64>, maps: Option<&IdMaps>) -> Result<Owner> {
        match (maps, parent) {
            (Some(maps), _) => Ok(Some(maps.root())),
            (None, Some(parent)) => layerdir::owner(&self.dir(parent)).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Puts the layer that the labels name into `dir`, if some cache has it for this caller, and returns whether. A cache
    /// that has a damaged one does not have it.
    fn take_cached(
        &self,
        dir: &Path,
        key: &str,
        labels: &Labels,
        staging: &dyn Staging,
    ) -> Result<bool> {
        let is_unpack = is_unpack(labels);
        let Some(diff_id) = labels.get(DIFF_ID_LABEL).filter(|_| is_unpack) else {
            return Ok(false);
        };
        let (kept, cached) = (self.images.find(diff_id), self.cached(diff_id));
        if (kept.is_none() && cached.is_none()) || !staging.is_known() {
            return Ok(false);
        }
        let image = dir.join(IMAGE);
        if let Some(kept) = kept
            && self.may_have(key, diff_id, &kept, staging)?
            && is_whole(&kept)
        {
            // First, so that an image is never there without what protects it.
            layerdir::link_sidecar(&kept, &image)?;
            match rustix::fs::linkat(CWD, &kept, CWD, &image, AtFlags::empty()) {
                Ok(()) => return Ok(true),
                // It was swept since it was found, or has as many names as a file may have.
                Err(Errno::NOENT | Errno::MLINK) => {}
                Err(errno) => return Err(failed("linking", &image)(errno)),
            }
        }
        let Some(cached) = cached else { return Ok(false) };
        let [from, to] = [&cached, &image].map(|image| layerdir::sidecar_path(image));
        layerdir::remove_sidecar(&image)?;
        if stat(&from)?.is_some() {
            rustix::fs::symlink(&from, &to).map_err(failed("linking", &to))?;
        }
        rustix::fs::symlink(&cached, &image).map_err(failed("linking", &image))?;
        Ok(true)
    }

    /// The layer in one of the operator's caches.
    fn cached(&self, diff_id: &str) -> Option<PathBuf> {
        let relative = layerdir::layer_path(diff_id)?;
        self.config.caches.iter().map(|cache| cache.join(&relative)).find(|path| {
            // A cache that lacks it is the ordinary case, and no damage.
            path.symlink_metadata().is_ok() && is_whole(path)
        })
    }
}

/// Whether there is an image, and all of it.
fn is_whole(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    match mounts::inspect(&path.display().to_string(), &file, &[]) {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(error = error.line(), "a cached layer is passed over");
            false
        }
    }
}
