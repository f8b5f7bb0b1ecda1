//! Opens a layer as an image for reading, whatever it is stored as. The image has no name and ends with its last descriptor.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use erolith_mkfs::build::Options;
use erolith_mkfs::protect::ProtectOptions;

use super::isolation::Isolation;
use super::job::{LayerInput, LayerJob, Task, check_image};
use super::parents::ParentImages;
use super::verify::explain;
use crate::content::{Blob, LocalBlob, ScratchFile};
use crate::decode::{Cancel, OnBytes, Request};
use crate::{BlobKind, Compression, Error, LayerType, Result};

/// Opens layers as images.
#[derive(Debug)]
pub struct LayerOpener {
    /// A directory with room for them.
    pub scratch: PathBuf,
    /// Cancels the work.
    pub cancel: Cancel,
    /// Called with the number of bytes of blobs that were read.
    pub progress: OnBytes,
}

/// Images that are open, the nearest first. Those that are not local are copied when they are asked for.
struct OpenParents<'a> {
    images: &'a [Blob],
    scratch: &'a Path,
}

impl ParentImages for OpenParents<'_> {
    fn images(&self) -> Result<Vec<LocalBlob>> {
        self.images.iter().map(|blob| blob.to_local(self.scratch)).collect()
    }
}

impl LayerOpener {
    /// The image of the layer in `blob`, which `request` says more of; `below` are the images below it, the nearest first.
    /// Without a layer type it is what its bytes say.
    ///
    /// # Errors
    /// What is wrong with the layer, [`Error::Cancelled`], and what the storage reports.
    pub fn image(&self, blob: Blob, request: Request, below: &[Blob]) -> Result<Blob> {
        let task = match request.layer_type {
            Some(LayerType::Erofs { compression: Compression::None }) => {
                return self.checked(blob, &request);
            }
            None if BlobKind::read(&blob).is_ok_and(|kind| kind == BlobKind::Erofs) => {
                return self.checked(blob, &request);
            }
            Some(LayerType::Erofs { .. }) => Task::Native,
            _ => {
                let mut options = Options::default();
                options.layer.base = below.is_empty();
                Task::Tar(options)
            }
        };
        let request = Request { cancel: self.cancel.clone(), ..request };
        let (source, told) = (LayerInput::Stored(blob), self.progress.clone());
        let wanted = ProtectOptions::default();
        let job = LayerJob { task, source, told, request, wanted };
        let parents = OpenParents { images: below, scratch: &self.scratch };
        let built = Isolation::Here.convert(ScratchFile::new(&self.scratch)?, job, &parents)?;
        let file = built.staging.into_file();
        let size = file.metadata().map_err(Error::io("examining an image"))?.len();
        Ok(Blob::new(Arc::new(file), 0, size))
    }

    /// An image where it is. What is wrong with it is damage if its digest is not the one it is known by.
    fn checked(&self, blob: Blob, request: &Request) -> Result<Blob> {
        let expected = request.blob.as_ref();
        if let Some((digest, size)) = expected {
            blob.require_size(digest, *size)?;
        }
        match (check_image(&blob), expected) {
            (Ok(()), _) => Ok(blob),
            (Err(error), Some((digest, _))) => Err(explain(&blob, digest, error, &self.cancel)),
            (Err(error), None) => Err(error),
        }
    }
}
