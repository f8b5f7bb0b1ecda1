//! Mapped layers are unmounted once the overlays over them are there.

use std::path::Path;
use std::time::Duration;

use super::Snapshotter;
use crate::Result;
use crate::api_mounts::OverlayDir;
use crate::layerdir::UPPER;
use crate::lowers::{IdMaps, LowerId, Mapped};
use crate::mounts::table::{self, MountEntry};
use crate::store::{Filters, Kind, Snapshot};

/// Active snapshots and views with mapped owners.
const MAPPED: [&str; 2] = [
    "kind==active,labels.\"containerd.io/snapshot/uidmapping\"",
    "kind==view,labels.\"containerd.io/snapshot/uidmapping\"",
];

impl Snapshotter {
    /// Unmounts layers with mapped owners over which every overlay that needs them is mounted, if nothing with these maps was
    /// handed out for `idle`: a caller that has just been given their names may not have mounted its overlay yet, while
    /// another one over the same snapshot is there. Returns how many such mounts are left. Without any it costs the listing
    /// of one directory.
    ///
    /// # Errors
    /// When the database, the state directory or the mount table cannot be read.
    pub fn release_mapped(&self, idle: Duration) -> Result<usize> {
        self.lowers.release(idle, &|spaces| self.needed(spaces))
    }

    /// The layers in each of these spaces whose overlay is yet to come.
    fn needed(&self, spaces: &[Mapped]) -> Result<Vec<Vec<LowerId>>> {
        let table = table::read()?;
        let mut needed = vec![Vec::new(); spaces.len()];
        for info in self.store.list(&Filters::parse(&MAPPED.map(str::to_owned))?)? {
            // One that has been removed needs nothing.
            let Ok(snapshot) = self.store.snapshot(&info.name) else { continue };
            if !has_layers_in_overlay(&snapshot) {
                continue;
            }
            let Ok(Some(maps)) = IdMaps::from_labels(&snapshot.labels) else { continue };
            let of_these = spaces.iter().zip(&mut needed);
            for (space, needed) in of_these.filter(|(space, _)| space.maps == maps.text()) {
                if !self.is_standing(&snapshot, &space.dir, &table) {
                    let ids = snapshot.parents.iter().copied().chain([snapshot.id]);
                    needed.extend(ids.map(|id| LowerId { id, bare: false }));
                }
            }
        }
        Ok(needed)
    }

    /// Whether the overlay of a snapshot is in the mount table: one that writes to its upper directory or, for what is
    /// read-only, one over these very places.
    fn is_standing(&self, snapshot: &Snapshot, space: &Path, table: &[MountEntry]) -> bool {
        let &Snapshot { id, kind, ref parents, .. } = snapshot;
        let upper = |path: &Path| OverlayDir::Upper.option(path.display());
        let words = match kind {
            Kind::Active => vec![upper(&self.dir(id).join(UPPER)), upper(&self.uppers.upper(id))],
            Kind::View | Kind::Committed => {
                let place =
                    |&id| space.join(LowerId { id, bare: false }.name()).display().to_string();
                let places: Vec<_> = parents.iter().map(place).collect();
                vec![OverlayDir::Lower.option(places.join(":"))]
            }
        };
        words.iter().any(|word| has_overlay(table, word))
    }
}

/// Whether a snapshot is shown as an overlay. A single layer that is read-only is bound, and its mount has another name.
fn has_layers_in_overlay(snapshot: &Snapshot) -> bool {
    let fewest = if snapshot.kind == Kind::Active { 1 } else { 2 };
    snapshot.parents.len() >= fewest
}

/// Whether there is an overlay with this option.
pub(super) fn has_overlay(mounts: &[MountEntry], option: &str) -> bool {
    let mut overlays = mounts.iter().filter(|entry| entry.fs_type == "overlay");
    overlays.any(|entry| entry.super_options.split(',').any(|word| word == option))
}
