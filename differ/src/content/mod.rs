//! The content store: blobs by digest, and how new ones come in.
//!
//! A [`Blob`] is a range of an open file, so a blob in a directory and a blob inside a tar archive are the same
//! thing to its readers; or a [`BlobSource`] elsewhere. New content is written through an [`Ingest`] and appears under its digest whole, synced
//! and verified, or not at all.

mod blob;
mod dir;
mod layout;
mod scratch;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::fs::File;
use std::os::fd::OwnedFd;

pub(crate) use blob::require_digest;
pub use blob::{Blob, BlobReader, BlobSource, LocalBlob};
pub(crate) use dir::{Dir, spool};
pub use layout::OciLayout;
pub(crate) use scratch::ScratchFile;

use crate::oci::Descriptor;
use crate::{Digest, Error, Result};

/// Where blobs are read from.
pub trait Provider: Send + Sync + Debug {
    /// Opens the blob called `digest`. Its bytes are not verified by that.
    ///
    /// # Errors
    /// [`crate::error::ContentError::BlobMissing`], and what the storage reports.
    fn open(&self, digest: &Digest) -> Result<Blob>;
}

/// Something that a document names, and that a store which collects garbage keeps as long as the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference<'a> {
    /// The config of a manifest.
    Config(&'a Digest),
    /// A layer of a manifest.
    Layer(&'a Digest),
    /// The snapshot that all layers of a config are unpacked into, by their chainID, if there is one.
    Snapshot(&'a Digest),
}

/// A store that images are committed to: the layout of a directory, or containerd's content store.
pub trait ContentStore {
    /// What can go wrong.
    type Error: From<Error>;

    /// The bytes of a document of at most `limit` bytes, not verified; `None` when they are not there: stores often hold
    /// one platform of an index only.
    ///
    /// # Errors
    /// [`crate::error::BudgetError::Document`], and what the storage reports.
    fn document(&self, described: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Stores a document, which keeps what it names. On return it survives a power cut as far as the store does.
    ///
    /// # Errors
    /// What the storage reports.
    fn put_document(&self, bytes: &[u8], names: &[Reference<'_>]) -> Result<Digest, Self::Error>;
}

/// Whether what is written now can be used after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode<'a> {
    /// No: it begins empty.
    Fresh,
    /// Yes, under this name: [`Staging::file`] holds the bytes that need not be fetched again. No other process can do the
    /// work of that name at the same time.
    Resume(&'a str),
}

/// A file that is being written and that no reader looks at.
pub trait Staging: Send + Debug {
    /// The file to write to, open for reading and writing.
    fn file(&self) -> &File;

    /// A directory on the same filesystem, for scratch files.
    ///
    /// # Errors
    /// What the storage reports.
    fn scratch_dir(&self) -> Result<OwnedFd>;
}

impl<T: Staging + ?Sized> Staging for Box<T> {
    fn file(&self) -> &File {
        (**self).file()
    }

    fn scratch_dir(&self) -> Result<OwnedFd> {
        (**self).scratch_dir()
    }
}

/// A blob being written. Dropped without [`Ingest::commit`] it leaves nothing, unless it was begun to be resumed.
pub trait Ingest: Staging {
    /// Syncs what was written and publishes it as `digest`, which the caller has computed from the very bytes in
    /// the file. On return it survives a power cut.
    ///
    /// # Errors
    /// [`crate::error::MismatchError::BlobSize`] when the file is not `size` bytes long, and what the storage reports. Then nothing
    /// was published.
    fn commit(self: Box<Self>, digest: &Digest, size: u64) -> Result<()>;
}
