//! Every layer of a root, read to its last byte and held against what is known of it.
//!
//! It goes on beside a daemon that works on the same root: it reads, and what it puts away is a row of the database that
//! the daemon looks at before it stands on a layer. Bytes come from the disk and not from memory.

use std::path::{Path, PathBuf};

use erolith_mkfs::check::{Limits, check};
use rustix::fs::Advice;

use crate::layerdir::{self, IMAGE, Images};
use crate::mounts;
use crate::protect::{Digest, Found, Pin};
use crate::service::{put_away, root_parts};
use crate::store::{Filters, Kind, Store};
use crate::{Error, Result};

/// What holds a layer that was found good to what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The kernel, by fs-verity, and all of it was read.
    Verity,
    /// The digest that was kept when it came in.
    Digest,
    /// No digest is known: its structure is sound, and that is all that can be said.
    Structure,
}

/// What was found of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is what it was.
    Sound(Proof),
    /// It is not.
    Damaged(String),
    /// It was found damaged before, and waits for its image.
    PutAway(String),
}

/// A layer that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// Number of the snapshot.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its image.
    pub path: PathBuf,
    /// Bytes that were read.
    pub bytes: u64,
    /// What was found.
    pub verdict: Verdict,
}

/// The layers of a root.
#[derive(Debug)]
pub struct Scrub {
    store: Store,
    images: Images,
    snapshots: PathBuf,
    layers: Vec<(u64, String)>,
}

impl Scrub {
    /// Opens the root of a service, which may be running.
    ///
    /// # Errors
    /// [`Error::Config`] where there is no root, and those of the database: one of an earlier version is left to the
    /// daemon.
    pub fn open(root: &Path) -> Result<Self> {
        let (database, snapshots) = root_parts(root)?;
        let store = Store::open_beside(&database)?;
        let filters = Filters::parse(&["kind==committed".to_owned()])?;
        let mut layers = Vec::new();
        for info in store.list(&filters)? {
            // One that was removed meanwhile is none.
            if let Ok(snapshot) = store.snapshot(&info.name) {
                layers.push((snapshot.id, info.name));
            }
        }
        Ok(Self { store, images: Images::open(root, true)?, snapshots, layers })
    }

    /// Bytes of all images together, for those who show how far it is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let size = |(id, _): &(u64, String)| {
            std::fs::metadata(self.image(*id)).map_or(0, |meta| meta.len())
        };
        self.layers.iter().map(size).sum()
    }

    /// Looks at every layer. `told` hears of bytes that were read, `found` of each layer.
    ///
    /// # Errors
    /// Those of the database. What is wrong with a layer is no error.
    pub fn run(
        &self,
        told: &mut dyn FnMut(u64),
        found: &mut dyn FnMut(Scrubbed) -> Result<()>,
    ) -> Result<()> {
        for (id, name) in &self.layers {
            let (id, path) = (*id, self.image(*id));
            let mut bytes = 0;
            let mut count = |n| {
                bytes += n;
                told(n);
            };
            let verdict = match self.store.damaged()?.remove(&id) {
                Some(reason) => Verdict::PutAway(reason),
                None => match judge(id, &path, self.store.pin_of(id)?, &mut count) {
                    Ok(proof) => Verdict::Sound(proof),
                    Err(error) => Verdict::Damaged(error.to_string()),
                },
            };
            // What was removed or healed in the meantime is not to be judged by what was there.
            let is_layer = self.store.kind_of(id)? == Some(Kind::Committed);
            if is_layer {
                found(Scrubbed { id, name: name.clone(), path, bytes, verdict })?;
            }
        }
        Ok(())
    }

    /// Puts a damaged layer away, so that pulling its image makes it whole. Containers keep what they have mounted.
    ///
    /// # Errors
    /// [`Error::Storage`], and those of the database.
    pub fn put_away(&self, id: u64, reason: &str) -> Result<bool> {
        put_away(&self.store, &self.images, &self.snapshots.join(id.to_string()), id, reason)
    }

    fn image(&self, id: u64) -> PathBuf {
        self.snapshots.join(id.to_string()).join(IMAGE)
    }
}

/// What proves that the image at `path` is the one that `pin` tells of.
fn judge(id: u64, path: &Path, pin: Option<Pin>, told: &mut dyn FnMut(u64)) -> Result<Proof> {
    let file = layerdir::open_image(id, path)?;
    // What memory still has right may be wrong on the disk. Pages in use stay, which costs a proof and nothing else.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    let name = path.display().to_string();
    mounts::inspect(&name, &file, &[])?;
    let read = |source| Error::Read { image: name.clone(), source };
    let digest = Digest::of(&file, told).map_err(read)?;
    let report = check(&file, &[], &Limits::default()).map_err(read)?;
    if let Some(finding) = report.errors().next() {
        return Err(Error::Check { image: name, source: finding.to_string().into() });
    }
    let Some(pin) = pin else { return Ok(Proof::Structure) };
    let measured = if layerdir::is_link(path)? { None } else { Found::of(&file, path)?.measured };
    pin.judge(digest, measured).map_err(|fault| Error::Unsealed { image: name, fault })?;
    Ok(if measured.is_some() { Proof::Verity } else { Proof::Digest })
}

#[cfg(test)]
mod tests;
