//! What callers are told to mount, with the layers below it mounted for them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::layerdir;
use crate::lowers::{IdMaps, Layers, Space};
use crate::mounts::inspect;
use crate::store::{Kind, Snapshot};
use crate::uppers::Upper;
use crate::verity;
use crate::{Error, Result, ServiceError};

use super::config::Profile;
use super::integrity::CheckedLayers;
use super::unpack;
use super::{Snapshotter, text};
use crate::api_mounts::Mount;
use crate::api_mounts::write::{self, Places, Planned, SnapshotShape};

/// Layers that we mount ourselves need not be named.
static NONE: BTreeSet<u64> = BTreeSet::new();

impl Snapshotter {
    /// What to mount for an active snapshot or a view. Layers that are not mounted, as after a reboot, are.
    ///
    /// # Errors
    /// `NotFound`, [`ServiceError::Committed`], and whatever keeps its parents from being mounted.
    pub fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let (snapshot, maps) = self.in_use(key)?;
        self.arrays(&snapshot, maps.as_ref())
    }

    /// What [`Snapshotter::mounts`] answers when everything is mounted already, as it is while containers run; nothing
    /// when something is to be mounted or waited for. It takes no longer than a few lookups.
    ///
    /// # Errors
    /// As [`Snapshotter::mounts`].
    pub fn standing_mounts(&self, key: &str) -> Result<Option<Vec<Mount>>> {
        // The mount manager finds out what stands.
        if self.config.profile == Profile::Managed {
            return Ok(None);
        }
        let (snapshot, maps) = self.in_use(key)?;
        // A directory of mapped layers may have to be made.
        if maps.is_some() {
            return Ok(None);
        }
        let shape = self.shape(&snapshot, None)?;
        let held = self.lowers.try_hold();
        if held.is_none() || matches!(shape.upper, Upper::Image(_)) {
            return Ok(None);
        }
        let (space, Planned { mounts, lowers }) = self.planned(&shape)?;
        Ok(self.lowers.are_mounted(&space, &lowers)?.then_some(mounts))
    }

    /// A snapshot that can be mounted.
    fn in_use(&self, key: &str) -> Result<(Snapshot, Option<IdMaps>)> {
        let snapshot = self.store.snapshot(key)?;
        if snapshot.kind == Kind::Committed {
            return Err(Error::Service(ServiceError::Committed { key: key.to_owned() }));
        }
        let maps = IdMaps::from_labels(&snapshot.labels)?;
        Ok((snapshot, maps))
    }

    /// The mounts of a snapshot, with the layers below them mounted. A layer that turns out to be damaged is quarantined.
    pub(super) fn arrays(&self, snapshot: &Snapshot, maps: Option<&IdMaps>) -> Result<Vec<Mount>> {
        let shape = self.shape(snapshot, maps)?;
        let layers = CheckedLayers::new(self);
        let mounts = {
            let _held = self.lowers.hold();
            match self.config.profile {
                Profile::Managed => self.managed(&shape, &layers),
                Profile::Plain => self.plain(&shape, &layers),
            }
        };
        mounts.map_err(|error| layers.quarantine(error))
    }

    /// What decides the mounts of a snapshot, as its directory has it.
    fn shape<'a>(
        &self,
        snapshot: &'a Snapshot,
        maps: Option<&'a IdMaps>,
    ) -> Result<SnapshotShape<'a>> {
        let &Snapshot { id, kind, ref parents, .. } = snapshot;
        self.require_undamaged(parents)?;
        let dir = self.dir(id);
        let applied = kind == Kind::Active && layerdir::is_applied(&dir)?;
        let upper = match kind {
            Kind::Active => {
                // With its layer there, it is read-only.
                if !applied {
                    self.uppers.require_limit(&dir)?;
                }
                self.uppers.find(id, &dir, applied)?
            }
            Kind::View | Kind::Committed => Upper::Directory,
        };
        let beside = kind == Kind::Active && unpack::chain_below(&snapshot.labels).is_some();
        Ok(SnapshotShape { kind, id, applied, beside, upper, parents, maps })
    }

    fn places<'a>(&'a self, lowers: &'a Path, verity: &'a BTreeSet<u64>) -> Places<'a> {
        Places {
            snapshots: text(&self.snapshots),
            lowers: text(lowers),
            uppers: text(self.uppers.places()),
            nothing: text(&self.nothing),
            overlay_options: &self.config.overlay_options,
            verity,
        }
    }

    fn managed(&self, shape: &SnapshotShape<'_>, layers: &CheckedLayers<'_>) -> Result<Vec<Mount>> {
        let own = shape.applied.then_some(shape.id);
        for &id in own.iter().chain(shape.parents) {
            self.require_image(id, layers).inspect_err(|error| layers.failed(id, error))?;
        }
        if let Upper::Image(_) = shape.upper {
            self.uppers.hand_over(shape.id, &self.dir(shape.id).join(layerdir::RWLAYER))?;
        }
        let mut protected = BTreeSet::new();
        for &id in shape.parents.iter().chain(shape.applied.then_some(&shape.id)) {
            let image = self.dir(id).join(layerdir::IMAGE);
            if self.config.dm_verity.sidecar_for_others(&image, verity::is_in_kernel)? {
                protected.insert(id);
            }
        }
        write::managed(shape, &self.places(Path::new(""), &protected))
    }

    fn plain(&self, shape: &SnapshotShape<'_>, layers: &CheckedLayers<'_>) -> Result<Vec<Mount>> {
        let (space, Planned { mounts, lowers }) = self.planned(shape)?;
        self.lowers.ensure(&space, &lowers, layers)?;
        if let Upper::Image(_) = shape.upper {
            self.uppers.ensure(shape.id, &self.dir(shape.id).join(layerdir::RWLAYER))?;
        }
        Ok(mounts)
    }

    /// The mounts of the profile `plain`, and where its layers belong.
    fn planned(&self, shape: &SnapshotShape<'_>) -> Result<(Space, Planned)> {
        // Without layers there is nothing to map: the upper directory has its owners already.
        let has_layers = shape.applied || !shape.parents.is_empty();
        let space = self.lowers.space(shape.maps.filter(|_| has_layers))?;
        let planned = write::plain(shape, &self.places(space.dir(), &NONE))?;
        Ok((space, planned))
    }

    /// Others will mount this: what is missing or unsound shall be our error, and not theirs later.
    fn require_image(&self, id: u64, layers: &CheckedLayers<'_>) -> Result<()> {
        let path = layers.image(id);
        let file = layerdir::open_image(id, &path)?;
        inspect(&path.display().to_string(), &file, &[])?;
        layers.require_tree(id, &path)?;
        layers.require_intact(id, &path, &file)
    }
}
