//! What changed becomes a layer: an archive as image specifications define it, or an EROFS image.
//!
//! What changed is for [`erolith_overlay`] to say; here it is written, compressed and hashed. The same changes give
//! the same bytes, whatever machine compresses them: they are in the order of their names, and nothing comes from the
//! clock, the host or the number of threads. Times after `source_date_epoch` become that time.

mod layers;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::PathBuf;

use erolith_mkfs::build::{Builder, Finish, Options, Timestamp};
use erolith_mkfs::io::FileSink;
use erolith_mkfs::meta::Meta;
use erolith_overlay::changeset::{Changeset, Form, Member, MemberOutput};
use erolith_overlay::{
    Change, ChangeKind, DiffOptions, Marks, Owners, Stack, changes, fill_from_changes,
};

use crate::content::{ScratchFile, Staging as _};
use crate::decode::{Cancel, OnBytes};
use crate::encode::encode;
use crate::{Compression, Digest, EROFS_LAYER, EROFS_LAYER_ZSTD, Error, OCI_LAYER, Result};

pub use layers::{directory, opened_upper, upper};

/// Bytes of a file that are read at a time.
const PIECE: usize = 256 << 10;

/// What a layer is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerFormat {
    /// An archive.
    Tar(Compression),
    /// An EROFS image, which can be mounted in place.
    Erofs,
    /// An EROFS image in one zstd frame.
    ErofsZstd,
}

impl LayerFormat {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Tar(Compression::None),
        Self::Tar(Compression::Gzip),
        Self::Tar(Compression::Zstd),
        Self::Erofs,
        Self::ErofsZstd,
    ];

    /// The media type of such a layer.
    #[must_use]
    pub fn media_type(self) -> String {
        match self {
            Self::Tar(Compression::None) => OCI_LAYER.to_owned(),
            Self::Tar(compression) => format!("{OCI_LAYER}+{}", compression.name()),
            Self::Erofs => EROFS_LAYER.to_owned(),
            Self::ErofsZstd => EROFS_LAYER_ZSTD.to_owned(),
        }
    }

    fn compression(self) -> Compression {
        match self {
            Self::Tar(compression) => compression,
            Self::Erofs => Compression::None,
            Self::ErofsZstd => Compression::Zstd,
        }
    }
}

/// How a layer is made of what changed.
#[derive(Debug, Clone)]
pub struct Compare {
    /// What it is written as.
    pub format: LayerFormat,
    /// The latest time that the layer may hold, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// The maps of the container that wrote to the upper directory.
    pub owners: Owners,
    /// As [`DiffOptions::refuse_other_marks`].
    pub refuse_other_marks: bool,
    /// A directory in which an image can be made that has no name yet.
    pub scratch: PathBuf,
    /// Cancels the work.
    pub cancel: Cancel,
    /// Called with the number of bytes of files that were read.
    pub progress: OnBytes,
}

/// A layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Digest of the archive or the image in it.
    pub diff_id: Digest,
    /// Bytes of the archive or the image.
    pub raw_size: u64,
    /// Members of the archive, or files in the image but for its root.
    pub entries: u64,
}

impl Compare {
    /// A layer in this format, of a container that calls users and groups what the host calls them.
    #[must_use]
    pub fn new(format: LayerFormat) -> Self {
        Self {
            format,
            source_date_epoch: None,
            owners: Owners::default(),
            refuse_other_marks: false,
            scratch: PathBuf::from("/var/tmp"),
            cancel: Cancel::default(),
            progress: OnBytes::default(),
        }
    }

    /// Writes what `new` has and `old` has not to `out`. What was written before an error is of no use.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`erolith_overlay::Error::Changed`] for a file that changes while it is read; what a layer
    /// cannot say, such as a name that begins with `.wh.`; and what the storage and `out` report.
    pub fn write(
        &self,
        old: &Stack,
        new: &Stack,
        out: &mut (dyn Write + Send),
    ) -> Result<Compared> {
        let (owners, refuse_other_marks) = (self.owners.clone(), self.refuse_other_marks);
        let how = DiffOptions { owners, refuse_other_marks, ..DiffOptions::default() };
        let changes = changes(old, new, &how, || self.cancel.check())?;
        let (compression, cancel) = (self.format.compression(), &self.cancel);
        let (entries, totals) = match self.format {
            LayerFormat::Tar(_) => {
                encode(out, compression, cancel, |out| self.archive(&changes, out))?
            }
            LayerFormat::Erofs | LayerFormat::ErofsZstd => {
                let mut image = self.image(&changes)?;
                encode(out, compression, cancel, |out| {
                    self.copy_image(&mut image, out)?;
                    Ok(changes.iter().filter(|change| is_entry(change)).count() as u64)
                })?
            }
        };
        let (digest, diff_id) = (totals.digest, totals.diff_id);
        Ok(Compared { digest, size: totals.size, diff_id, raw_size: totals.raw_size, entries })
    }

    fn meta(&self, meta: Meta) -> Meta {
        let clamp = self.source_date_epoch.map_or(Timestamp::Keep, Timestamp::Clamp);
        Meta { mtime: clamp.apply(meta.mtime), ..meta }
    }

    fn archive(&self, changes: &[Change], out: &mut dyn Write) -> Result<u64> {
        let mut archive = Changeset::new(out, Form::Layer(Marks::Trusted));
        for change in changes.iter().filter(|change| is_entry(change)) {
            self.cancel.check()?;
            self.member(change, &mut archive)?;
        }
        let entries = archive.members();
        archive.finish().map_err(erolith_mkfs::Error::Tar)?;
        Ok(entries)
    }

    fn member(&self, change: &Change, archive: &mut Changeset<&mut dyn Write>) -> Result<()> {
        let (path, meta) = (change.path.as_slice(), self.meta(change.meta));
        if change.what == ChangeKind::Removed {
            return Ok(archive.whiteout(path, meta).map_err(erolith_mkfs::Error::Tar)?);
        }
        let member = Member {
            path,
            meta,
            size: change.size(),
            rdev: change.rdev(),
            target: change.read_link()?,
            xattrs: change.xattrs.clone(),
            first: change.first.clone(),
        };
        let written = archive.member(change.file_type(), member);
        if written.map_err(erolith_mkfs::Error::Tar)? == MemberOutput::Header {
            self.copy(change, archive)?;
        }
        if change.hides {
            archive.opaque(path, meta).map_err(erolith_mkfs::Error::Tar)?;
        }
        Ok(())
    }

    /// Writes the content of a file, which must not change while it is read.
    fn copy(&self, change: &Change, archive: &mut Changeset<&mut dyn Write>) -> Result<()> {
        let mut content = change.content()?;
        let mut buf = vec![0; usize::try_from(change.size()).map_or(PIECE, |n| n.clamp(1, PIECE))];
        loop {
            self.cancel.check()?;
            let n = content.read(&mut buf)?;
            if n == 0 {
                return Ok(());
            }
            let part = buf.get(..n).unwrap_or_default();
            archive.write_all(part).map_err(Error::io("writing a layer"))?;
            self.progress.tell(n as u64);
        }
    }

    /// Makes the image, in a file without a name.
    fn image(&self, changes: &[Change]) -> Result<File> {
        let image = ScratchFile::new(&self.scratch)?;
        let file = image.file().try_clone().map_err(Error::io("duplicating a descriptor"))?;
        let timestamp = self.source_date_epoch.map_or(Timestamp::Keep, Timestamp::Clamp);
        let options = Options { timestamp, ..Options::default() };
        let mut builder = Builder::new(FileSink::new(file, image.scratch_dir()?), options)?;
        fill_from_changes(&mut builder, changes, |change| {
            self.progress.tell(change.size());
            self.cancel.check()
        })?;
        builder.finish(&Finish::default())?;
        Ok(image.into_file())
    }

    fn copy_image(&self, image: &mut File, out: &mut dyn Write) -> Result<()> {
        let reading = || Error::io("reading a new image");
        io::Seek::rewind(image).map_err(reading())?;
        let mut buf = vec![0; PIECE];
        loop {
            self.cancel.check()?;
            let n = match image.read(&mut buf) {
                Ok(0) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                n => n.map_err(reading())?,
            };
            let part = buf.get(..n).unwrap_or_default();
            out.write_all(part).map_err(Error::io("writing a layer"))?;
        }
    }
}

/// Whether it is part of an archive. The root is not, if it is as the layers below have it.
fn is_entry(change: &Change) -> bool {
    !(change.path.is_empty() && change.what == ChangeKind::Kept)
}
