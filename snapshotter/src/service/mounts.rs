//! What callers are told to mount, with the layers below it mounted for them.

use std::fs::File;
use std::path::Path;

use crate::files::{failed, stat};
use crate::layerdir;
use crate::lowers::{IdMaps, Space};
use crate::store::{Kind, Snapshot};
use crate::uppers::Upper;
use crate::{Error, Result};

use super::arrays::{self, Places, Planned, Shape};
use super::config::Profile;
use super::{Mount, Snapshotter, text};

impl Snapshotter {
    /// What to mount for an active snapshot or a view. Layers that are not mounted, as after a reboot, are.
    ///
    /// # Errors
    /// `NotFound`, [`Error::Committed`], and whatever keeps its parents from being mounted.
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
            return Err(Error::Committed { key: key.to_owned() });
        }
        let maps = IdMaps::from_labels(&snapshot.labels)?;
        Ok((snapshot, maps))
    }

    /// The mounts of a snapshot, with the layers below them mounted.
    pub(super) fn arrays(&self, snapshot: &Snapshot, maps: Option<&IdMaps>) -> Result<Vec<Mount>> {
        let shape = self.shape(snapshot, maps)?;
        let _held = self.lowers.hold();
        match self.config.profile {
            Profile::Managed => self.managed(&shape),
            Profile::Plain => self.plain(&shape),
        }
    }

    /// What decides the mounts of a snapshot, as its directory has it.
    fn shape<'a>(&self, snapshot: &'a Snapshot, maps: Option<&'a IdMaps>) -> Result<Shape<'a>> {
        let &Snapshot { id, kind, ref parents, .. } = snapshot;
        let dir = self.dir(id);
        let applied = kind == Kind::Active && layerdir::is_applied(&dir)?;
        let upper = match kind {
            Kind::Active => {
                // With its layer there, nobody writes any more.
                if !applied {
                    self.uppers.require_limit(&dir)?;
                }
                self.uppers.find(id, &dir, applied)?
            }
            Kind::View | Kind::Committed => Upper::Directory,
        };
        Ok(Shape { kind, id, applied, upper, parents, maps })
    }

    fn places<'a>(&'a self, lowers: &'a Path) -> Places<'a> {
        Places {
            snapshots: text(&self.snapshots),
            lowers: text(lowers),
            uppers: text(self.uppers.places()),
            overlay_options: &self.config.overlay_options,
        }
    }

    fn managed(&self, shape: &Shape<'_>) -> Result<Vec<Mount>> {
        self.require_images(shape.applied.then_some(shape.id), shape.parents)?;
        if let Upper::Image(_) = shape.upper {
            self.uppers.hand_over(shape.id, &self.dir(shape.id).join(layerdir::RWLAYER))?;
        }
        arrays::managed(shape, &self.places(Path::new("")))
    }

    fn plain(&self, shape: &Shape<'_>) -> Result<Vec<Mount>> {
        let (space, Planned { mounts, lowers }) = self.planned(shape)?;
        let image = |id| self.dir(id).join(layerdir::IMAGE);
        self.lowers.ensure(&space, &lowers, &image)?;
        if let Upper::Image(_) = shape.upper {
            self.uppers.ensure(shape.id, &self.dir(shape.id).join(layerdir::RWLAYER))?;
        }
        Ok(mounts)
    }

    /// The mounts of the profile `plain`, and where its layers belong.
    fn planned(&self, shape: &Shape<'_>) -> Result<(Space, Planned)> {
        // Without layers there is nothing to map: the upper directory has its owners already.
        let has_layers = shape.applied || !shape.parents.is_empty();
        let space = self.lowers.space(shape.maps.filter(|_| has_layers))?;
        let planned = arrays::plain(shape, &self.places(space.dir()))?;
        Ok((space, planned))
    }

    /// Others will mount these: what is missing or unsound shall be our error, and not theirs later. Parents were
    /// checked when they were committed.
    fn require_images(&self, own: Option<u64>, parents: &[u64]) -> Result<()> {
        for &id in own.iter().chain(parents) {
            let path = self.dir(id).join(layerdir::IMAGE);
            if stat(&path)?.is_none() {
                return Err(Error::Gone { id, path });
            }
        }
        let Some(id) = own else { return Ok(()) };
        let path = self.dir(id).join(layerdir::IMAGE);
        let file = File::open(&path).map_err(failed("opening", &path))?;
        layerdir::require_checked(&path, &file)
    }
}
