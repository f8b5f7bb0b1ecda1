//! An OCI image layout directory (image-spec, image-layout.md) as a content store.
//!
//! ```text
//! oci-layout             {"imageLayoutVersion":"1.0.0"}
//! index.json             what is in here, by name
//! blobs/<alg>/<hex>      content; never changed once it has its name
//! ingest/build-<number>  content being written, locked by its writer
//! ingest/fetch-<hex>     the same, kept after a crash to be resumed
//! ```
//!
//! How content is published, so that a crash at any time leaves it whole or not there:
//! write to a file in `ingest/`, verify, fsync the file, rename it to its name, fsync the directory.
//! `index.json`, which makes an image visible, is replaced in the same way after all blobs it leads to.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use erolith_durable::fault::point;
use erolith_durable::{Durability, Tmpfile};
use serde_json::Value;

use super::{Blob, ContentStore, Dir, Ingest, LocalBlob, Mode, Provider, Reference, Staging};
use crate::error::{ContentError, MismatchError};
use crate::oci::Descriptor;
use crate::{Digest, Error, Result};

const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";
const INGEST_DIR: &str = "ingest";
/// Names in it of what is made anew after a crash, and thrown away by a sweep.
const BUILD: &str = "build-";
/// How often a name in it may be taken, or swept before it is locked.
const ATTEMPTS: usize = 100;
/// Largest `index.json`; a registry's index is smaller, but a layout may hold many images.
const INDEX_LIMIT: u64 = 16 << 20;
const EMPTY_INDEX: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// An image layout directory.
#[derive(Debug)]
pub struct OciLayout {
    root: Dir,
    /// False for a directory that is thrown away in the end: nothing is synced.
    durable: bool,
}

impl OciLayout {
    /// Opens the layout at `path` for reading and writing.
    ///
    /// # Errors
    /// [`crate::error::ContentError::NotALayout`] when there is something else, and what the storage reports.
    pub fn open(path: &Path) -> Result<Self> {
        let layout = Self { root: Dir::open(path)?, durable: true };
        let not = |reason| {
            Error::Content(ContentError::NotALayout { path: path.display().to_string(), reason })
        };
        let Some(bytes) = layout.root.read(LAYOUT_FILE, 4096)? else {
            return Err(not("it has no file oci-layout"));
        };
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|_| not("oci-layout is not JSON"))?;
        match value.get("imageLayoutVersion").and_then(Value::as_str) {
            Some("1.0.0") => Ok(layout),
            _ => Err(not("oci-layout names another version than 1.0.0")),
        }
    }

    /// Opens the layout at `path`; makes one if there is nothing or an empty directory.
    ///
    /// # Errors
    /// As [`OciLayout::open`].
    pub fn create(path: &Path) -> Result<Self> {
        let root = Dir::create(path)?;
        let names = root.names()?;
        if names.iter().any(|name| name == LAYOUT_FILE) {
            return Self::open(path);
        }
        // What an interrupted creation leaves behind counts as empty.
        let ours = |name: &String| [INGEST_DIR, INDEX_FILE, "blobs"].contains(&name.as_str());
        if !names.iter().all(ours) {
            let path = path.display().to_string();
            return Err(Error::Content(ContentError::NotALayout {
                path,
                reason: "it is a directory with other things",
            }));
        }
        let layout = Self { root, durable: true };
        if !names.iter().any(|name| name == INDEX_FILE) {
            layout.replace(INDEX_FILE, EMPTY_INDEX)?;
        }
        layout.replace(LAYOUT_FILE, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(layout)
    }

    /// The same, for a directory that is thrown away in the end.
    pub(crate) fn not_durable(self) -> Self {
        Self { durable: false, ..self }
    }

    /// Whether what is stored here stays.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable
    }

    /// The bytes of `index.json`.
    ///
    /// # Errors
    /// [`crate::error::ContentError::NotALayout`] when there is none, and what the storage reports.
    pub fn index(&self) -> Result<Vec<u8>> {
        self.root.read(INDEX_FILE, INDEX_LIMIT)?.ok_or_else(|| {
            Error::Content(ContentError::NotALayout {
                path: "layout".to_owned(),
                reason: "it has no index.json",
            })
        })
    }

    /// Replaces `index.json` by what `change` makes of it, with no other process between.
    ///
    /// # Errors
    /// What `change` reports, and what the storage reports; then the old index is still there.
    pub fn update_index(&self, change: impl FnOnce(&[u8]) -> Result<Vec<u8>>) -> Result<()> {
        let _lock = self.root.lock()?;
        let bytes = change(&self.index()?)?;
        self.replace(INDEX_FILE, &bytes)
    }

    /// Begins to write a blob whose digest need not be known yet.
    ///
    /// # Errors
    /// [`ContentError::Busy`] when the same work is being resumed elsewhere, and what the storage reports.
    pub fn ingest(&self, mode: Mode<'_>) -> Result<Box<dyn Ingest>> {
        point("ingest.before_create").map_err(Error::io("creating an ingest file"))?;
        let draft = self.begin(mode, "ingest")?;
        point("ingest.after_create").map_err(Error::io("creating an ingest file"))?;
        let layout = Self { root: self.root.try_clone()?, durable: self.durable };
        Ok(Box::new(LayoutIngest { draft, layout }))
    }

    /// Stores `bytes` as a blob unless it is there. Returns its digest.
    ///
    /// # Errors
    /// What the storage reports.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        if let Ok(there) = self.open(&digest)
            && there.document(&digest, size, size).is_ok()
        {
            return Ok(digest);
        }
        let ingest = self.ingest(Mode::Fresh)?;
        ingest.file().write_all(bytes).map_err(Error::io(format!("writing blob {digest}")))?;
        ingest.commit(&digest, size)?;
        Ok(digest)
    }

    /// Removes what processes that died left in `ingest/`, and `ingest/` itself when nothing is in it.
    ///
    /// # Errors
    /// What the storage reports.
    pub fn sweep(&self) -> Result<()> {
        let dir = self.root.create_dir(INGEST_DIR)?;
        for name in dir.names()?.iter().filter(|name| name.starts_with(BUILD)) {
            match dir.locked(name) {
                Ok(Some(_lock)) => dir.remove(name)?,
                Ok(None) => {}
                // Another sweep has removed all of it, with the directory.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.root.remove_empty_dir(INGEST_DIR);
        Ok(())
    }

    /// The names of all files that a layout must have, in a fixed order.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let mut files = vec![LAYOUT_FILE.to_owned(), INDEX_FILE.to_owned()];
        let blobs = self.root.create_dir("blobs")?;
        for algorithm in blobs.names()? {
            let names = blobs.create_dir(&algorithm)?.names()?;
            files.extend(names.iter().map(|name| format!("blobs/{algorithm}/{name}")));
        }
        Ok(files)
    }

    /// The directory in which new content is written: for scratch files on the same filesystem.
    pub(crate) fn root(&self) -> &Dir {
        &self.root
    }

    /// The file of a blob.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<LocalBlob> {
        let path = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        let missing = || Error::Content(ContentError::BlobMissing { digest: digest.clone() });
        let file = self.root.file(&path)?.ok_or_else(missing)?;
        let meta = file.metadata().map_err(Error::io(format!("examining {path}")))?;
        Ok(LocalBlob::new(Arc::new(file), 0, meta.len()))
    }

    /// Opens and locks a file in `ingest/`, which a sweep may remove at any time before. Its fault points are those of `points`.
    fn begin(&self, mode: Mode<'_>, points: &'static str) -> Result<Tmpfile> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for _ in 0..ATTEMPTS {
            let name = match mode {
                Mode::Resume(reference) => {
                    format!("fetch-{}", Digest::of(reference.as_bytes()).hex())
                }
                Mode::Fresh => {
                    let number = NEXT.fetch_add(1, Ordering::Relaxed);
                    format!("{BUILD}{}-{number}", std::process::id())
                }
            };
            let dir = self.root.create_dir(INGEST_DIR)?;
            match (dir.locked(&name), mode) {
                (Ok(Some(file)), _) => {
                    let mut draft = Tmpfile::draft(file, dir.into_fd(), name.as_ref(), points);
                    if mode == Mode::Fresh {
                        draft.file().set_len(0).map_err(Error::io("truncating an ingest file"))?;
                    } else {
                        draft.keep_draft();
                    }
                    return Ok(draft);
                }
                (Ok(None), Mode::Resume(reference)) => {
                    return Err(Error::Content(ContentError::Busy {
                        reference: reference.to_owned(),
                    }));
                }
                // A process with our process id in another PID namespace.
                (Ok(None), Mode::Fresh) => {}
                (Err(Error::Io { source, .. }), _) if source.kind() == ErrorKind::NotFound => {}
                (Err(error), _) => return Err(error),
            }
        }
        Err(Error::Content(ContentError::Busy { reference: INGEST_DIR.to_owned() }))
    }

    /// Replaces the file `name` of the layout as a whole.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.replace_in(&self.root, name, bytes)
    }

    /// Replaces the file `name` in `to`, a directory on the same filesystem.
    pub(crate) fn replace_in(&self, to: &Dir, name: &str, bytes: &[u8]) -> Result<()> {
        point("publish.before_create").map_err(Error::io("creating a file"))?;
        let draft = self.begin(Mode::Fresh, "publish")?;
        point("publish.after_create").map_err(Error::io("creating a file"))?;
        draft.file().write_all(bytes).map_err(Error::io(format!("writing {name}")))?;
        let synced = draft
            .sync(Durability::of(self.durable))
            .map_err(Error::io(format!("syncing {name}")))?;
        let named = to.publish(synced, name)?;
        named.settle(&[]).map_err(Error::io("syncing a directory"))?;
        self.root.remove_empty_dir(INGEST_DIR);
        Ok(())
    }
}

impl Provider for OciLayout {
    fn open(&self, digest: &Digest) -> Result<Blob> {
        Ok(self.open_blob(digest)?.into())
    }
}

impl ContentStore for OciLayout {
    type Error = Error;

    fn document(&self, described: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.open(&described.digest) {
            Ok(blob) => blob.bytes(limit).map(Some),
            Err(Error::Content(ContentError::BlobMissing { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn put_document(&self, bytes: &[u8], _names: &[Reference<'_>]) -> Result<Digest> {
        self.put(bytes)
    }
}

#[derive(Debug)]
struct LayoutIngest {
    draft: Tmpfile,
    layout: OciLayout,
}

impl Staging for LayoutIngest {
    fn scratch_dir(&self) -> Result<OwnedFd> {
        Ok(self.layout.root.create_dir(INGEST_DIR)?.into_fd())
    }

    fn file(&self) -> &File {
        self.draft.file()
    }
}

impl Ingest for LayoutIngest {
    fn commit(self: Box<Self>, digest: &Digest, size: u64) -> Result<()> {
        let Self { draft, layout } = *self;
        let failed = || Error::io(format!("publishing {digest}"));
        point("ingest.after_write").map_err(failed())?;
        let meta = draft.file().metadata().map_err(Error::io("examining an ingest file"))?;
        if meta.len() != size {
            let digest = digest.clone();
            return Err(Error::Mismatch(MismatchError::BlobSize {
                digest,
                expected: size,
                actual: meta.len(),
            }));
        }
        let root = &layout.root;
        let blobs = root.create_dir("blobs")?;
        let dir = blobs.create_dir(digest.algorithm().name())?;
        let synced =
            draft.sync(Durability::of(layout.durable)).map_err(Error::io("syncing a blob"))?;
        let named = dir.publish(synced, digest.hex())?;
        // The parents too: the process that made these directories may have died before it synced them.
        named.settle(&[blobs.as_fd(), root.as_fd()]).map_err(failed()).map(drop)
    }
}
