//! What it takes to rebuild a damaged layer without a client: where its image came from, and the way of a rebuilt image
//! into the directory of the layer.
//!
//! The daemon has the blobs and the differ, so it writes the image; this decides whether it is the layer's. Killed at any
//! point, the layer is quarantined as before, or whole: a row leaves the quarantine last.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rustix::io::Errno;

use super::Snapshotter;
use super::integrity::known;
use crate::IntegrityError;
use crate::fault::point;
use crate::files::{failed, stat, sync_dir};
use crate::layerdir::snapshot_id;
use crate::layerdir::{self, DAMAGED, IMAGE, record};
use crate::protect::{self, Digest, FsVerityMismatch, Pin};
use crate::store::{Kind, Origin, Snapshot};
use crate::{Error, Result, scrub};

/// A damaged layer, with what is known of the image that it lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Number of the snapshot.
    pub id: u64,
    /// Its name: `NAMESPACE/NUMBER/CHAIN`, as containerd's metadata store calls snapshots.
    pub name: String,
    /// The name of the layer below; nothing for the lowest.
    pub parent: Option<String>,
    /// What was found.
    pub reason: String,
    /// Its directory.
    pub dir: PathBuf,
    /// The fs-verity digest of its image, if one was kept.
    pub pin: Option<Digest>,
    /// Whether its image had a dm-verity hash tree.
    pub has_tree: bool,
    /// Where its image came from, if that was recorded.
    pub origin: Option<Origin>,
    /// Where its image lies in a cache, of a layer that is a link into one.
    pub cached: Option<PathBuf>,
    /// Images of the layers below, the nearest first.
    pub lowers: Vec<PathBuf>,
}

impl Snapshotter {
    /// Remembers where the image of the active snapshot in `dir` came from. The commit makes that durable.
    pub fn note_origin(&self, dir: &Path, origin: Origin) {
        let id = dir.file_name().and_then(|name| snapshot_id(name.to_str()?));
        let Some(id) = id.filter(|_| dir.parent() == Some(&self.snapshots)) else { return };
        self.origins.lock().unwrap_or_else(PoisonError::into_inner).insert(id, origin);
    }

    /// What was noted of the active snapshot `id`.
    pub(super) fn origin_noted(&self, id: u64) -> Option<Origin> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(super) fn forget_origin(&self, id: u64) {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// What is known of the damaged layer `id`; nothing when it is not damaged. Its directory is made if it is gone.
    ///
    /// # Errors
    /// [`Error::Storage`], and those of the database.
    pub fn broken(&self, id: u64) -> Result<Option<Broken>> {
        let Some(reason) = self.store.damaged()?.remove(&id) else { return Ok(None) };
        let Some(entry) = self.store.entry(id)? else { return Ok(None) };
        let snapshot = self.store.snapshot(&entry.key)?;
        let dir = self.dir(id);
        if stat(&dir)?.is_none() {
            self.rebuild(&entry.key, &snapshot)?;
        }
        let Snapshot { parents, .. } = snapshot;
        let parent = parents.first().map(|&id| self.store.name_of(id)).transpose()?.flatten();
        Ok(Some(Broken {
            id,
            name: entry.key,
            parent,
            reason,
            pin: entry.pin.map(|pin| pin.digest),
            has_tree: entry.tree.is_some(),
            origin: entry.origin,
            cached: std::fs::read_link(dir.join(DAMAGED)).ok(),
            lowers: parents.iter().map(|&id| self.dir(id).join(IMAGE)).collect(),
            dir,
        }))
    }

    /// Ends the quarantine of the layer `id`, whose image was published in its directory, whole and durable. Every other
    /// damaged layer that had the same digest gets that image, too.
    ///
    /// # Errors
    /// [`IntegrityError::FsVerity`] when the image does not have the digest that the layer was committed with; the
    /// layer stays quarantined then. [`IntegrityError::Gone`], [`Error::Storage`], and those of the database.
    pub fn healed(&self, id: u64) -> Result<()> {
        let dir = self.dir(id);
        let image = dir.join(IMAGE);
        point("heal.after_image")?;
        let file = layerdir::open_image(id, &image)?;
        let pin = self.store.pin_of(id)?.map(|pinned| same(&image, pinned)).transpose()?;
        layerdir::require_checked(&image, &file)?;
        let tree = layerdir::read_sidecar(&image)?;
        protect::remove_image(&dir.join(DAMAGED))?;
        sync_dir(&dir)?;
        point("heal.before_transaction")?;
        self.store.set_healed(id, pin, tree)?;
        point("heal.after_transaction")?;
        record::refresh_if_possible(&self.store, &dir, id);
        self.protect_from_hands(id);
        // What shows the damaged image may be mounted still.
        self.lowers.forget(id)?;
        if let Some(pin) = pin {
            self.give(&image, pin)?;
        }
        Ok(())
    }

    /// Takes a damaged layer that is a link into a cache from the quarantine when the image there is sound. Returns
    /// whether it is.
    ///
    /// # Errors
    /// [`Error::Storage`], and those of the database.
    pub fn relink(&self, id: u64) -> Result<bool> {
        let (dir, damaged) = (self.dir(id), self.dir(id).join(DAMAGED));
        let is_layer = self.store.kind_of(id)? == Some(Kind::Committed);
        if !is_layer || !layerdir::is_link(&damaged)? {
            return Ok(false);
        }
        if let Err(error) = scrub::judge(id, &damaged, None, &mut |_| {}) {
            tracing::debug!(id, error = error.line(), "the image in the cache is not sound");
            return Ok(false);
        }
        match rustix::fs::rename(&damaged, dir.join(IMAGE)) {
            Ok(()) => self.healed(id).map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("naming", &damaged)(errno)),
        }
    }
}

/// What is known of the image, which must have the digest that `pinned` says.
fn same(image: &Path, pinned: Pin) -> Result<Pin> {
    let found = known(image)?;
    let measured = found.map(|pin| pin.digest);
    match found {
        Some(found) if found.digest == pinned.digest => Ok(found),
        _ => Err(Error::Integrity(IntegrityError::FsVerity {
            image: image.display().to_string(),
            fault: FsVerityMismatch::Changed { pinned: pinned.digest, measured },
        })),
    }
}
