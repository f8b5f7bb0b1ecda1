//! Cleanup: what the database does not know goes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::Snapshotter;
use super::release::has_overlay;
use crate::Result;
use crate::api_mounts::OverlayDir;
use crate::fault::point;
use crate::files::{failed, names};
use crate::layerdir::snapshot_id;
use crate::layerdir::{DAMAGED, IMAGE, UPPER, remove_tree};
use crate::mounts::table::{self, MountEntry};
use crate::protect;
use crate::store::{Filters, Kind};

/// How the names of directories begin that have no row any more and are to be deleted.
const GONE: &str = "gone-";

impl Snapshotter {
    /// Unmounts the layers that no active snapshot or view has below it, deletes the directories without a snapshot,
    /// and forgets converted layers that are nowhere in use. May be called at any time; a second call finds nothing.
    /// What cannot be removed is logged and tried again next time.
    ///
    /// # Errors
    /// When the database or the root cannot be read.
    pub fn cleanup(&self) -> Result<()> {
        let _alone = self.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
        self.lowers.sweep(&|ids| self.wanted(ids))?;
        let is_active = |id| Ok(self.store.kind_of(id)? == Some(Kind::Active));
        self.uppers.sweep(&is_active, || self.lowers.alone())?;
        self.set_orphans_aside()?;
        point("cleanup.after_aside")?;
        for name in names(&self.snapshots)?.iter().filter(|name| name.starts_with(GONE)) {
            if let Err(error) = self.discard(&self.snapshots.join(name)) {
                tracing::warn!(error = error.line(), "left for the next cleanup");
            }
        }
        point("cleanup.after_delete")?;
        self.images.sweep()?;
        Ok(())
    }

    /// Deletes a directory that has no row and that no overlay writes to, and what limits it.
    pub(super) fn discard(&self, dir: &Path) -> Result<()> {
        // First, for with the directory goes the knowledge of it.
        self.uppers.release(dir)?;
        for name in [IMAGE, DAMAGED] {
            protect::remove_image(&dir.join(name))?;
        }
        remove_tree(dir)
    }

    /// Which of these layers have to stay mounted.
    fn wanted(&self, ids: &[u64]) -> Result<Vec<u64>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let in_use = self.store.lowers_in_use()?;
        let (mut keep, rest): (Vec<u64>, Vec<u64>) = ids.iter().partition(|id| in_use.contains(id));
        // An active snapshot shows its own layer once it has one. That is rare, so it is asked last.
        if !rest.is_empty() {
            let active = self.active()?;
            keep.extend(rest.iter().filter(|id| active.contains(id)));
        }
        Ok(keep)
    }

    fn active(&self) -> Result<BTreeSet<u64>> {
        let filters = Filters::parse(&["kind==active".to_owned()])?;
        let mut ids = BTreeSet::new();
        for info in self.store.list(&filters)? {
            // One that was removed since is not active.
            ids.extend(self.store.snapshot(&info.name).ok().map(|snapshot| snapshot.id));
        }
        Ok(ids)
    }

    /// Renames directories without a row, for deletion. No directory is made at the same time.
    fn set_orphans_aside(&self) -> Result<()> {
        let _alone = self.creating.write().unwrap_or_else(PoisonError::into_inner);
        let ids = self.store.ids()?;
        let names = names(&self.snapshots)?;
        let orphans: Vec<_> = names.iter().filter(|name| is_orphan(name, &ids)).collect();
        point("cleanup.before_aside")?;
        if orphans.is_empty() {
            return Ok(());
        }
        let mounts = table::read()?;
        for name in orphans {
            let dir = self.snapshots.join(name);
            if is_upper(&mounts, &dir.join(UPPER)) {
                tracing::info!(dir = %dir.display(), "removed, and still mounted somewhere");
                continue;
            }
            if let Err(error) = self.set_aside(&dir) {
                tracing::warn!(error = error.line(), "left for the next cleanup");
            }
        }
        Ok(())
    }

    /// A free name for what shall be deleted.
    pub(super) fn aside(&self) -> PathBuf {
        loop {
            let path = self.snapshots.join(format!("{GONE}{}", self.next_serial()));
            if !path.exists() {
                return path;
            }
        }
    }

    /// Takes a directory from its place; cleanup deletes it.
    pub(super) fn set_aside(&self, dir: &Path) -> Result<()> {
        rustix::fs::rename(dir, self.aside()).map_err(failed("setting aside", dir))
    }
}

/// Whether a name is that of a directory which was never finished, or whose snapshot is gone. Names of another form
/// are not ours.
fn is_orphan(name: &str, ids: &BTreeSet<u64>) -> bool {
    name.starts_with("new-") || snapshot_id(name).is_some_and(|id| !ids.contains(&id))
}

/// Whether an overlay still writes to `upper`.
fn is_upper(mounts: &[MountEntry], upper: &Path) -> bool {
    has_overlay(mounts, &OverlayDir::Upper.option(upper.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orphans_are_told_from_the_rest() {
        let ids = BTreeSet::from([1, 2]);
        let table = [
            ("1", false),
            ("3", true),
            ("new-1-2", true),
            ("gone-4", false),
            ("notes.txt", false),
            ("", false),
            ("1a", false),
        ];
        for (name, want) in table {
            assert_eq!(is_orphan(name, &ids), want, "{name}");
        }
    }

    #[test]
    fn an_upper_in_use_is_seen_in_the_mount_table() {
        let line = b"5 1 0:9 / /run/c/rootfs rw - overlay overlay rw,lowerdir=/l,upperdir=/r/7/fs,workdir=/r/7/work\n";
        let mounts = table::parse(line).unwrap();
        assert!(is_upper(&mounts, Path::new("/r/7/fs")));
        assert!(!is_upper(&mounts, Path::new("/r/77/fs")));
        assert!(!is_upper(&mounts, Path::new("/r/7")));
    }
}
