//! The bytes of a blob: mostly a range of an open file, but not always.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use erolith_mkfs::io::{ReadAt, copy_range};

use super::ScratchFile;
use crate::error::{BudgetError, MismatchError};
use crate::{Digest, Error, Hasher, Result};

/// Bytes copied through memory at a time.
const PIECE: usize = 1 << 20;

/// Where the bytes of a blob are read from: a local file, or a store from which they come when they are asked for.
pub trait BlobSource: ReadAt + Send + Sync + std::fmt::Debug {
    /// The local file, if all bytes are in one: then its blocks can be shared, and another process can read its descriptor.
    fn local(&self) -> Option<&LocalBlob> {
        None
    }
}

/// A range of an open file.
#[derive(Debug, Clone)]
pub struct LocalBlob {
    file: Arc<File>,
    offset: u64,
    size: u64,
}

impl LocalBlob {
    /// `size` bytes of `file` at `offset`.
    #[must_use]
    pub fn new(file: Arc<File>, offset: u64, size: u64) -> Self {
        Self { file, offset, size }
    }

    /// The file it is a part of.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where it begins in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl ReadAt for LocalBlob {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.size.saturating_sub(offset);
        let want = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let at = self.offset.checked_add(offset).ok_or(io::ErrorKind::InvalidInput)?;
        FileExt::read_at(&*self.file, buf.get_mut(..want).unwrap_or_default(), at)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl BlobSource for LocalBlob {
    fn local(&self) -> Option<&LocalBlob> {
        Some(self)
    }
}

/// Bytes of a blob, wherever they are stored.
#[derive(Debug, Clone)]
pub struct Blob(Arc<dyn BlobSource>);

impl From<LocalBlob> for Blob {
    fn from(blob: LocalBlob) -> Self {
        Self::from_source(Arc::new(blob))
    }
}

impl Blob {
    /// `size` bytes of `file` at `offset`.
    #[must_use]
    pub fn new(file: Arc<File>, offset: u64, size: u64) -> Self {
        LocalBlob::new(file, offset, size).into()
    }

    /// The bytes of `source`.
    #[must_use]
    pub fn from_source(source: Arc<dyn BlobSource>) -> Self {
        Self(source)
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.size()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The local file with its bytes, if there is one.
    #[must_use]
    pub fn local(&self) -> Option<&LocalBlob> {
        self.0.local()
    }

    /// Its bytes in a local file: where they are, or copied to a file without a name in the directory `scratch`.
    ///
    /// # Errors
    /// What the storage reports.
    pub fn to_local(&self, scratch: &Path) -> Result<LocalBlob> {
        if let Some(local) = self.local() {
            return Ok(local.clone());
        }
        let file = ScratchFile::new(scratch)?.into_file();
        self.copy_to(0, self.len(), &file, 0).map_err(Error::io("fetching a blob"))?;
        Ok(LocalBlob::new(Arc::new(file), 0, self.len()))
    }

    /// Copies `len` of its bytes at `offset` to `to` at `to_offset`, inside the kernel where it can.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when it has fewer bytes, and what the storage reports.
    pub(crate) fn copy_to(
        &self,
        offset: u64,
        len: u64,
        to: &File,
        to_offset: u64,
    ) -> io::Result<()> {
        if let Some(local) = self.local() {
            let from = local.offset.checked_add(offset).ok_or(io::ErrorKind::InvalidInput)?;
            return copy_range(local.file.as_fd(), from, to, to_offset, len);
        }
        let mut piece = vec![0; usize::try_from(len).map_or(PIECE, |len| len.min(PIECE))];
        let mut done = 0;
        while done < len {
            let want = usize::try_from(len - done).map_or(PIECE, |left| left.min(PIECE));
            let piece = piece.get_mut(..want).unwrap_or_default();
            match self.0.read_at(piece, offset + done) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    to.write_all_at(piece.get(..n).unwrap_or_default(), to_offset + done)?;
                    done += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether it is the very same storage as `other`.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        let id = |blob: &Self| {
            let LocalBlob { file, offset, .. } = blob.local()?;
            file.metadata().ok().map(|m| (m.dev(), m.ino(), *offset))
        };
        id(self).is_some_and(|this| Some(this) == id(other))
    }

    /// Its bytes from the front.
    #[must_use]
    pub fn reader(&self) -> BlobReader {
        BlobReader { blob: self.clone(), pos: 0 }
    }

    /// Refuses another size than that of its descriptor.
    ///
    /// # Errors
    /// [`MismatchError::BlobSize`].
    pub(crate) fn require_size(&self, digest: &Digest, expected: u64) -> Result<()> {
        let (digest, actual) = (digest.clone(), self.len());
        match actual == expected {
            true => Ok(()),
            false => Err(MismatchError::BlobSize { digest, expected, actual }.into()),
        }
    }

    /// All its bytes, which are a document: at most `limit` of them, `size` and `digest` verified.
    ///
    /// # Errors
    /// [`crate::error::BudgetError::Document`], [`crate::error::MismatchError::BlobSize`], [`crate::error::MismatchError::BlobDigest`], and what the storage reports.
    pub fn document(&self, digest: &Digest, size: u64, limit: u64) -> Result<Vec<u8>> {
        if size > limit {
            return Err(Error::Budget(BudgetError::Document {
                digest: digest.clone(),
                size,
                limit,
            }));
        }
        self.require_size(digest, size)?;
        let bytes = self.bytes(limit)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let actual = hasher.finish();
        require_digest(digest, actual)?;
        Ok(bytes)
    }

    /// All its bytes, at most `limit`.
    pub(crate) fn bytes(&self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut reader = self.reader().take(limit.saturating_add(1));
        reader.read_to_end(&mut bytes).map_err(Error::io("reading a document"))?;
        if bytes.len() as u64 > limit {
            return Err(Error::Budget(BudgetError::File { limit }));
        }
        Ok(bytes)
    }
}

impl ReadAt for Blob {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.len()
    }
}

/// Refuses another digest than the one that names a blob.
///
/// # Errors
/// [`MismatchError::BlobDigest`].
pub(crate) fn require_digest(expected: &Digest, actual: Digest) -> Result<()> {
    match actual == *expected {
        true => Ok(()),
        false => Err(MismatchError::BlobDigest { expected: expected.clone(), actual }.into()),
    }
}

/// Reads a [`Blob`] from front to back. Does not move the cursor of the file.
#[derive(Debug)]
pub struct BlobReader {
    blob: Blob,
    pos: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.blob.read_at(buf, self.pos)?;
        self.pos = self.pos.saturating_add(n as u64);
        Ok(n)
    }
}
