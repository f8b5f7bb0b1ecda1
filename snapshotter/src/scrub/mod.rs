//! Every layer of a root, read to its last byte and held against what is known of it.
//!
//! It goes on beside a daemon that works on the same root: it reads, and what it puts away is a row of the database that
//! the daemon looks at before it stands on a layer. Bytes come from the disk and not from memory.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use erolith_mkfs::check::{Limits, check};
use rustix::fs::Advice;
use sha2::{Digest as _, Sha256};

use crate::layerdir::{self, IMAGE, Images};
use crate::mounts;
use crate::protect::{Digest, FsVerityState, Pin};
use crate::service::{quarantine, root_parts};
use crate::store::{Filters, Kind, Origin, OriginBlob, Store};
use crate::{Error, IntegrityError, Result};

/// How the media types of layers that are images begin, where they do not end in `.erofs`.
const EROFS_LAYERS: &str = "application/vnd.erofs";
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// What holds a layer that was found good to what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The kernel, by fs-verity, and all of it was read.
    Verity,
    /// The digest that was kept when it came in, or that of the blob whose file it shares.
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
    Quarantined(String),
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
    /// [`crate::ServiceError::Config`] where there is no root, and those of the database: one of an earlier version is
    /// left to the daemon.
    pub fn open(root: &Path) -> Result<Self> {
        let (database, snapshots) = root_parts(root)?;
        let store = Store::open_beside(&database)?;
        let filters = Filters::parse(&["kind==committed".to_owned()])?;
        let mut layers = Vec::new();
        for info in store.list(&filters)? {
            // One that was removed since is none.
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
                Some(reason) => Verdict::Quarantined(reason),
                None => match self.judge(id, &path, &mut count) {
                    Ok(proof) => Verdict::Sound(proof),
                    Err(error) => Verdict::Damaged(error.line()),
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
    pub fn quarantine(&self, id: u64, reason: &str) -> Result<bool> {
        quarantine(&self.store, &self.images, &self.snapshots.join(id.to_string()), id, reason)
    }

    fn judge(&self, id: u64, path: &Path, told: &mut dyn FnMut(u64)) -> Result<Proof> {
        let proof = judge(id, path, self.store.pin_of(id)?, told)?;
        if proof != Proof::Structure || layerdir::is_link(path)? {
            return Ok(proof);
        }
        match self.store.origin_of(id)?.as_ref().and_then(own_blob) {
            Some(blob) => require_blob(id, path, blob),
            None => Ok(proof),
        }
    }

    fn image(&self, id: u64) -> PathBuf {
        self.snapshots.join(id.to_string()).join(IMAGE)
    }
}

/// The blob that an image is itself: a layer that came as a raw image has the digest of its blob for a diffID.
fn own_blob(origin: &Origin) -> Option<&OriginBlob> {
    let is_own = |blob: &&OriginBlob| {
        let media_type = blob.media_type.as_str();
        let is_image = media_type.starts_with(EROFS_LAYERS) || media_type.ends_with(".erofs");
        blob.digest == origin.diff_id && is_image
    };
    origin.blob.as_ref().filter(is_own)
}

/// Refuses an image that is not the blob that it should be. One to which something was appended is held to nothing.
fn require_blob(id: u64, path: &Path, blob: &OriginBlob) -> Result<Proof> {
    let name = || path.display().to_string();
    let read = |source| Error::Integrity(IntegrityError::Read { image: name(), source });
    let mut file = layerdir::open_image(id, path)?;
    let len = file.metadata().map_err(read)?.len();
    if len > blob.size || !blob.digest.starts_with("sha256:") {
        return Ok(Proof::Structure);
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = file.read(&mut buffer).map_err(read)?;
        let part = buffer.get(..n).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        hasher.update(part);
    }
    let hex = hasher.finalize().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    if blob.digest == format!("sha256:{hex}") {
        return Ok(Proof::Digest);
    }
    let source = format!("its digest is sha256:{hex}, and that of its blob {}", blob.digest);
    Err(Error::Integrity(IntegrityError::Check { image: name(), source: source.into() }))
}

/// What proves that the image at `path` is the one that `pin` tells of.
pub(crate) fn judge(
    id: u64,
    path: &Path,
    pin: Option<Pin>,
    told: &mut dyn FnMut(u64),
) -> Result<Proof> {
    let file = layerdir::open_image(id, path)?;
    // What memory still has right may be wrong on the disk. Pages in use stay, which costs a proof and nothing else.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    let name = path.display().to_string();
    mounts::inspect(&name, &file, &[])?;
    let read = |source| Error::Integrity(IntegrityError::Read { image: name.clone(), source });
    let digest = Digest::of(&file, told).map_err(read)?;
    let report = check(&file, &[], &Limits::default()).map_err(read)?;
    if let Some(finding) = report.errors().next() {
        let source = finding.to_string().into();
        return Err(Error::Integrity(IntegrityError::Check { image: name, source }));
    }
    let Some(pin) = pin else { return Ok(Proof::Structure) };
    let measured =
        if layerdir::is_link(path)? { None } else { FsVerityState::of(&file, path)?.measured };
    pin.judge(digest, measured)
        .map_err(|fault| Error::Integrity(IntegrityError::FsVerity { image: name, fault }))?;
    Ok(if measured.is_some() { Proof::Verity } else { Proof::Digest })
}

#[cfg(test)]
mod tests;
