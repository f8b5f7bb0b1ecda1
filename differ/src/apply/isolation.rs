//! Which process does a job, and the image that comes of it.

use std::sync::Arc;

use erolith_mkfs::build::Summary;
use erolith_mkfs::io::FileSink;
use erolith_mkfs::protect::Protected;

use super::Times;
use super::job::{LayerJob, LayerJobResult, check_image, convert};
use super::parents::ParentImages;
use crate::content::{LocalBlob, Staging};
use crate::decode::{Cancel, DecodedBlob, WatchedReader};
use crate::sandbox::Worker;
use crate::{Error, Result};

/// An image that is written and not yet published.
#[derive(Debug)]
pub(crate) struct StagedImage<S> {
    /// The file it is in.
    pub(crate) staging: S,
    /// What the layer's blob was.
    pub(crate) source: DecodedBlob,
    /// What was built; `None` for a layer that was an image already.
    pub(crate) summary: Option<Summary>,
    /// Whether the image depends on the layers below: it takes attributes of directories from them that it does not
    /// describe itself.
    pub(crate) inherits: bool,
    /// What protects the image, as far as that was seen to while it was written.
    pub(crate) protected: Protected,
    /// How long it took.
    pub(crate) times: Times,
}

/// The process that reads untrusted bytes.
#[derive(Debug, Clone, Default)]
pub enum Isolation {
    /// This one.
    #[default]
    Here,
    /// One that can do nothing else, started for each layer.
    Worker(Arc<Worker>),
}

impl Isolation {
    /// Writes the image of a layer to `staging`, which must be empty.
    ///
    /// # Errors
    /// Everything that can be wrong with the blob, the archive or the image; what the storage reports; and
    /// [`crate::error::ProcessError::WorkerDied`]. Nothing is published.
    pub(crate) fn convert<S: Staging>(
        &self,
        staging: S,
        job: LayerJob,
        lowers: &dyn ParentImages,
    ) -> Result<StagedImage<S>> {
        let outcome = match self {
            Self::Here => {
                let LayerJob { task, source, told, request, wanted } = job;
                let file = staging.file().try_clone();
                let file = file.map_err(Error::io("duplicating a descriptor"))?;
                let sink = FileSink::new(file, staging.scratch_dir()?);
                let blob = WatchedReader { inner: source.into_reader(), told };
                convert(sink, blob, request, task, wanted, lowers)?
            }
            Self::Worker(worker) => worker.convert(&staging, job, lowers)?,
        };
        let LayerJobResult { source, summary, inherits, protected, times } = outcome;
        Ok(StagedImage { staging, source, summary, inherits, protected, times })
    }

    /// Refuses an image that no kernel should see.
    ///
    /// # Errors
    /// [`crate::error::LayerError::BadImage`], what the storage reports, and [`crate::error::ProcessError::WorkerDied`].
    pub(crate) fn check(&self, image: &LocalBlob, cancel: &Cancel) -> Result<()> {
        match self {
            Self::Here => check_image(image),
            Self::Worker(worker) => worker.check(image, cancel),
        }
    }
}
