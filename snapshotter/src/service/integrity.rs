//! Layers that are not what they were: found when they are mounted, quarantined, and made whole when their image comes in
//! again.
//!
//! A damaged layer keeps its row, because others stand on it and its owner is the one who removes it; its image does not
//! keep its name, so that it is not linked once more. Preparing on it fails with the reason. `Stat` does not find it, nor
//! what stands on it, so a client that calls `Stat` first unpacks the layer again. The image that it brings is known by its
//! digest, and goes to every damaged layer that had the same, before the client learns that the name is taken. `heal` has
//! what the daemon needs to rebuild a layer without a client.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};

use erolith_verity::dmverity::sidecar::Sidecar;

use super::Snapshotter;
use crate::files::failed;
use crate::layerdir::{self, IMAGE, Images, record};
use crate::lowers::Layers;
use crate::protect::{Digest, FsVerityState, Pin};
use crate::store::Store;
use crate::{Error, IntegrityError, Result};

impl Snapshotter {
    /// Gives the image in the directory `dir`, which has just come in, to every damaged layer that had the same digest.
    /// Returns how many are whole again.
    ///
    /// # Errors
    /// [`Error::Storage`], and those of the database.
    pub fn heal(&self, dir: &Path) -> Result<u64> {
        if self.store.damaged()?.is_empty() {
            return Ok(0);
        }
        let image = dir.join(IMAGE);
        let Some(pin) = known(&image)? else { return Ok(0) };
        self.give(&image, pin)
    }

    /// Gives `image`, which is known as `pin`, to every damaged layer that had the same digest. Returns how many.
    pub(super) fn give(&self, image: &Path, pin: Pin) -> Result<u64> {
        let tree = layerdir::read_sidecar(image)?;
        let mut healed = 0;
        for id in self.store.damaged_with(pin.digest)? {
            layerdir::replace_image(&self.dir(id), image)?;
            self.store.set_healed(id, Some(pin), tree)?;
            record::refresh_if_possible(&self.store, &self.dir(id), id);
            // What shows the damaged one may be mounted still.
            self.lowers.forget(id)?;
            tracing::warn!(id, "a damaged layer has its image again");
            healed += 1;
        }
        Ok(healed)
    }

    /// Refuses parents that are known to be damaged.
    pub(super) fn require_undamaged(&self, parents: &[u64]) -> Result<()> {
        let damaged = self.store.damaged()?;
        for &id in parents {
            if let Some(reason) = damaged.get(&id) {
                return Err(self.damaged(id, reason.clone()));
            }
        }
        Ok(())
    }

    fn damaged(&self, id: u64, reason: String) -> Error {
        let name = self.store.name_of(id).ok().flatten().unwrap_or_default();
        Error::Integrity(IntegrityError::Damaged { id, name, reason })
    }
}

/// Puts the image of a damaged layer away. Returns whether there is such a layer.
///
/// The order makes it whole whenever it is cut short: an image by diffID would come back as the layer, so that goes first;
/// a layer whose image has no name is found damaged once more.
pub(crate) fn quarantine(
    store: &Store,
    images: &Images,
    dir: &Path,
    id: u64,
    reason: &str,
) -> Result<bool> {
    if store.kind_of(id)? != Some(crate::store::Kind::Committed) {
        return Ok(false);
    }
    images.forget(&dir.join(IMAGE))?;
    layerdir::quarantine(dir)?;
    let is_layer = store.set_damaged(id, reason)?;
    record::refresh_if_possible(store, dir, id);
    Ok(is_layer)
}

/// Refuses an image whose sidecar is not the one it was committed with. One that had none then, or was committed before
/// that was kept, may have got one.
fn require_tree(image: &Path, pinned: Option<Sidecar>) -> Result<()> {
    let Some(pinned) = pinned else { return Ok(()) };
    let other = |found| {
        Error::Integrity(IntegrityError::Sidecar {
            image: image.display().to_string(),
            pinned,
            found,
        })
    };
    match layerdir::read_sidecar(image) {
        Ok(Some(found)) if found == pinned => Ok(()),
        Ok(found) => Err(other(found)),
        // It is there, and says nothing.
        Err(Error::Integrity(IntegrityError::DmVerity { .. })) => Err(other(None)),
        Err(error) => Err(error),
    }
}

/// What is known of an image that has just come in. A digest that the kernel does not enforce is computed once more:
/// this is rare, and prevents that a damaged layer is replaced by a damaged image.
pub(super) fn known(image: &Path) -> Result<Option<Pin>> {
    if layerdir::is_link(image)? {
        return Ok(None);
    }
    let file = File::open(image).map_err(failed("opening", image))?;
    let found = FsVerityState::of(&file, image)?;
    if found.measured.is_some() {
        return Ok(found.digest().map(|digest| Pin { digest, is_enforced: true }));
    }
    let digest = Digest::of(&file, &mut |_| {}).map_err(failed("reading", image))?;
    Ok(Some(Pin { digest, is_enforced: false }))
}

/// The layers of the service for one request, which judges those that are mounted for it.
pub(super) struct CheckedLayers<'s> {
    service: &'s Snapshotter,
    /// The one that kept the request from succeeding.
    failed: Cell<Option<u64>>,
}

impl<'s> CheckedLayers<'s> {
    pub(super) fn new(service: &'s Snapshotter) -> Self {
        Self { service, failed: Cell::default() }
    }

    /// Quarantines the layer that failed, if it is damaged. No mounts are held then.
    pub(super) fn quarantine(&self, error: Error) -> Error {
        let Some(id) = self.failed.get().filter(|_| error.is_damage()) else { return error };
        let Snapshotter { store, images, lowers, .. } = self.service;
        let reason = error.line();
        let is_layer = quarantine(store, images, &self.service.dir(id), id, &reason)
            .and_then(|is_layer| lowers.forget(id).map(|()| is_layer));
        match is_layer {
            Ok(true) => {
                tracing::error!(id, reason, "a layer is damaged and was quarantined");
                self.service.damaged(id, reason)
            }
            // An active snapshot whose differ can write its layer again.
            Ok(false) => error,
            Err(other) => {
                tracing::error!(id, error = %other.line(), "a damaged layer could not be quarantined");
                error
            }
        }
    }
}

impl Layers for CheckedLayers<'_> {
    fn image(&self, id: u64) -> PathBuf {
        self.service.dir(id).join(IMAGE)
    }

    fn require_tree(&self, id: u64, image: &Path) -> Result<()> {
        if !self.service.config.dm_verity.looks() {
            return Ok(());
        }
        require_tree(image, self.service.store.tree_of(id)?)
    }

    fn require_intact(&self, id: u64, image: &Path, file: &File) -> Result<()> {
        let is_link = layerdir::is_link(image)?;
        if !is_link {
            let pin = self.service.store.pin_of(id)?;
            // Before it is committed nothing is pinned, and the commit seals it if need be.
            if pin.is_some() || self.is_layer(id)? {
                self.service.protector().require(file, image, pin)?;
            }
        }
        layerdir::require_checked(image, file)
    }

    fn failed(&self, id: u64, _error: &Error) {
        self.failed.set(Some(id));
    }
}

impl CheckedLayers<'_> {
    fn is_layer(&self, id: u64) -> Result<bool> {
        Ok(self.service.store.kind_of(id)? == Some(crate::store::Kind::Committed))
    }
}
