//! A blob as a range of an open file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use erolith_mkfs::io::ReadAt;

use crate::error::{BudgetError, MismatchError};
use crate::{Digest, Error, Hasher, Result};

/// Bytes of a blob, wherever they are stored.
#[derive(Debug, Clone)]
pub struct Blob {
    file: Arc<File>,
    offset: u64,
    size: u64,
}

impl Blob {
    /// `size` bytes of `file` at `offset`.
    #[must_use]
    pub fn new(file: Arc<File>, offset: u64, size: u64) -> Self {
        Self { file, offset, size }
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.size
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// The file it is a part of, and where in it.
    #[must_use]
    pub fn file(&self) -> (&Arc<File>, u64) {
        (&self.file, self.offset)
    }

    /// Whether it is the very same storage as `other`.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        let id = |blob: &Self| blob.file.metadata().ok().map(|m| (m.dev(), m.ino(), blob.offset));
        id(self).is_some_and(|this| Some(this) == id(other))
    }

    /// Its bytes from the front.
    #[must_use]
    pub fn reader(&self) -> BlobReader {
        BlobReader { blob: self.clone(), pos: 0 }
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
        if self.size != size {
            let digest = digest.clone();
            return Err(Error::Mismatch(MismatchError::BlobSize {
                digest,
                expected: size,
                actual: self.size,
            }));
        }
        let bytes = self.bytes(limit)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual != *digest {
            return Err(Error::Mismatch(MismatchError::BlobDigest {
                expected: digest.clone(),
                actual,
            }));
        }
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
        let left = self.size.saturating_sub(offset);
        let want = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let at = self.offset.checked_add(offset).ok_or(io::ErrorKind::InvalidInput)?;
        FileExt::read_at(&*self.file, buf.get_mut(..want).unwrap_or_default(), at)
    }

    fn size(&self) -> u64 {
        self.size
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
