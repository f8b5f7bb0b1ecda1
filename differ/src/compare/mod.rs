//! A writable layer becomes a layer: a tar changeset of what is in the upper directory of an overlayfs.
//!
//! Only the upper is read: what it holds is what changed, and what it hides it says itself. The same tree gives the same
//! bytes, whatever machine compresses them: members come in the order of their names, and nothing comes from the clock,
//! the host or the number of threads. Times after `source_date_epoch` become that time.
//!
//! A layer has an entry for everything that was written, and none for the root of an upper: its attributes are those that
//! the snapshot was given, and other implementations ignore such an entry.

mod attributes;
mod output;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use erolith_mkfs::build::Timestamp;
use erolith_mkfs::changeset::{Changeset, Form, Member, Written};
use erolith_mkfs::directory::{Found, walk};
use erolith_mkfs::format::FileType;
use rustix::io::Errno;

pub use erolith_mkfs::changeset::Marks;

use crate::decode::{Cancel, OnBytes};
use crate::{Compression, Digest, Error, Result};

/// Bytes of a file that are read at a time.
const PIECE: usize = 256 << 10;

/// Permissions, and owner and group, of a root directory that nobody described: what is assumed of it when the layer is
/// read.
const ROOT: (u16, u32, u32) = (0o755, 0, 0);

/// What the directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The upper directory of an overlayfs that has layers below.
    Upper,
    /// The lowest layer. There is nothing to hide; the root has an entry if it is not as it is by default.
    Base,
}

/// How a layer is made of a directory.
#[derive(Debug, Clone)]
pub struct Compare {
    /// What the directory is.
    pub kind: Kind,
    /// What overlayfs' marks are called in it.
    pub marks: Marks,
    /// How the layer is compressed.
    pub compression: Compression,
    /// The latest time that the layer may hold, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// Calls it off.
    pub cancel: Cancel,
    /// Is told of the bytes of files that were read.
    pub progress: OnBytes,
}

/// A layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Digest of the archive in it.
    pub diff_id: Digest,
    /// Bytes of the archive.
    pub archive_size: u64,
    /// Members of the archive.
    pub entries: u64,
}

impl Compare {
    /// A layer of `kind`, with the marks of an overlayfs that is mounted by root.
    #[must_use]
    pub fn new(kind: Kind, compression: Compression) -> Self {
        Self {
            kind,
            marks: Marks::default(),
            compression,
            source_date_epoch: None,
            cancel: Cancel::default(),
            progress: OnBytes::default(),
        }
    }

    /// Writes the layer of the directory `upper` to `out`. What was written before an error is of no use.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`erolith_mkfs::Error::Changed`] for a file that changes while it is read; what a layer
    /// cannot say, such as a name that begins with `.wh.` or a file whose content is in another layer; and what the
    /// storage and `out` report.
    pub fn write(&self, upper: BorrowedFd<'_>, out: &mut (dyn Write + Send)) -> Result<Compared> {
        let (entries, totals) =
            output::encode(out, self.compression, &self.cancel, |out| self.archive(upper, out))?;
        Ok(Compared {
            digest: totals.digest,
            size: totals.size,
            diff_id: totals.diff_id,
            archive_size: totals.archive_size,
            entries,
        })
    }

    fn archive(&self, upper: BorrowedFd<'_>, out: &mut dyn Write) -> Result<u64> {
        let form = match self.kind {
            Kind::Upper => Form::Layer(self.marks),
            Kind::Base => Form::Base(self.marks),
        };
        let mut archive = Changeset::new(out, form);
        let mut names = BTreeMap::new();
        walk(upper, |_: Option<&()>, found| {
            self.cancel.check()?;
            self.member(found, &mut archive, &mut names)?;
            Ok::<_, Error>((found.file_type() == FileType::Directory).then_some(()))
        })?;
        let entries = archive.members();
        archive.finish().map_err(erolith_mkfs::Error::Tar)?;
        Ok(entries)
    }

    /// Writes what was found. `names` are the first names of inodes that have several.
    fn member(
        &self,
        found: &Found<'_>,
        archive: &mut Changeset<&mut dyn Write>,
        names: &mut BTreeMap<(u64, u64), Vec<u8>>,
    ) -> Result<()> {
        let (file_type, mut meta) = (found.file_type(), found.meta());
        if let Some(latest) = self.source_date_epoch {
            meta.mtime = Timestamp::Clamp(latest).apply(meta.mtime);
        }
        let mut xattrs = found.xattrs()?;
        xattrs.retain(|xattr| attributes::belongs_to_layer(&xattr.name, self.marks));
        if found.path().is_empty() {
            let is_default = (meta.mode, meta.uid, meta.gid) == ROOT && xattrs.is_empty();
            if self.kind == Kind::Upper || is_default {
                return Ok(());
            }
        }
        let first = names.get(&found.id()).filter(|_| found.has_other_names()).cloned();
        let target = if file_type == FileType::Symlink { found.read_link()? } else { Vec::new() };
        let is_first = first.is_none() && found.has_other_names();
        let (path, size, rdev) = (found.path(), found.size(), found.rdev());
        let member = Member { path, meta, size, rdev, target, xattrs, first };
        let written = archive.member(file_type, member).map_err(erolith_mkfs::Error::Tar)?;
        if written == Written::Header {
            self.copy(found, archive)?;
        }
        if is_first {
            names.insert(found.id(), path.to_vec());
        }
        Ok(())
    }

    /// Writes the content of a file, which must not change meanwhile.
    fn copy(&self, found: &Found<'_>, archive: &mut Changeset<&mut dyn Write>) -> Result<()> {
        let (file, mut left) = (found.open()?, found.size());
        let mut buf = vec![0; usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))];
        while left > 0 {
            self.cancel.check()?;
            let want = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
            let n = match rustix::io::read(&file, buf.get_mut(..want).unwrap_or_default()) {
                Ok(0) => return Err(found.changed().into()),
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(found.failed(io::Error::from(e)).into()),
            };
            let part = buf.get(..n).unwrap_or_default();
            archive.write_all(part).map_err(Error::io("writing a layer"))?;
            self.progress.tell(n as u64);
            left = left.saturating_sub(n as u64);
        }
        Ok(found.verify_unchanged(&file)?)
    }
}
