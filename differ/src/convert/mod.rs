//! A whole image, or several in an index, with EROFS layers in place of tar layers.
//!
//! What is published in which order, so that a crash leaves the old state or the new one:
//! the layers, each durable before the next step looks at it; configs and manifests; the index of several images;
//! the destination's `index.json`, which makes all of it visible.

mod documents;
mod layers;
mod progress;
mod record;

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::{fmt, io};

use erolith_mkfs::build;
use erolith_mkfs::tree::DroppedXattrs;
use erolith_verity::dmverity::{DmVerityTree, RootHash, Signature};
use erolith_verity::fsverity;

pub(crate) use layers::{promised, request};
pub use progress::{Event, Progress};

use crate::apply::{Isolation, Output};
use crate::decode::{Budget, Cancel};
use crate::oci::{Destination, ImageSource};
use crate::{Digest, Result};

/// Annotation on a converted manifest: digest of the manifest it was made from (of the config, when `docker save`
/// stored no manifest).
pub const SOURCE_DIGEST: &str = "org.erolith.source.digest";
/// Annotation on a converted layer: digest of the blob it was made from.
pub const SOURCE_LAYER: &str = "org.erolith.source.layer.digest";
/// Annotation on a converted layer: diffID of the layer it was made from.
pub const SOURCE_DIFF_ID: &str = "org.erolith.source.layer.diff-id";

/// Annotation on a compressed EROFS layer: digest of the image (EROFS image specification draft).
pub(crate) const UNCOMPRESSED: &str = "org.erofs.uncompressed-digest";

/// What to do with layers that their owner does not allow to be pushed elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NonDistributable {
    /// Stop: the result would be a layer like any other.
    #[default]
    Refuse,
    /// Convert them when their bytes are there. Their URLs are never followed.
    Convert,
}

/// How images are converted.
#[derive(Debug, Clone)]
pub struct Options {
    /// How layers are stored.
    pub output: Output,
    /// How images are built. Whether a layer is the lowest is decided layer by layer.
    pub build: build::Options,
    /// Give images a dm-verity hash tree, which becomes part of their layers.
    pub dm_verity: bool,
    /// Who signs the root hashes of trees, for nodes that mount nothing else.
    pub signer: Option<Arc<dyn Sign>>,
    /// Say the fs-verity digests of layers in annotations. Each image is read once more.
    pub fs_verity: bool,
    /// Keep the original images too: the result is an index that lists them before the EROFS ones.
    pub keep_original: bool,
    /// What to do with non-distributable layers.
    pub nondistributable: NonDistributable,
    /// Layers converted at the same time.
    pub jobs: NonZeroUsize,
    /// Which process looks into the layers.
    pub room: Isolation,
    /// What one layer may cost.
    pub budget: Budget,
    /// Cancels the work.
    pub cancel: Cancel,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            output: Output::default(),
            build: build::Options::default(),
            dm_verity: false,
            signer: None,
            fs_verity: false,
            keep_original: false,
            nondistributable: NonDistributable::default(),
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            room: Isolation::default(),
            budget: Budget::default(),
            cancel: Cancel::default(),
        }
    }
}

/// Has a key, or knows who has.
pub trait Sign: fmt::Debug + Send + Sync {
    /// Signs the hexadecimal digits of a root hash.
    ///
    /// # Errors
    /// Why not.
    fn sign(&self, root: RootHash) -> io::Result<Signature>;
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Digest of the manifest, or of the index of several.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// The images.
    pub images: Vec<ImageReport>,
    /// What the source index lists that is not in the result: signatures and attestations of other bytes, other
    /// platforms.
    pub left_out: Vec<Digest>,
}

/// One converted image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReport {
    /// What it was made from.
    pub source: Digest,
    /// Its manifest.
    pub manifest: Digest,
    /// What it runs on, as containerd writes it.
    pub platform: String,
    /// Its layers, lowest first.
    pub layers: Vec<LayerReport>,
}

/// One converted layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerReport {
    /// DiffID of the source.
    pub source_diff_id: Digest,
    /// Bytes of the source blob.
    pub source_size: u64,
    /// The new blob.
    pub digest: Digest,
    /// Bytes of the new blob.
    pub size: u64,
    /// DiffID of the new layer.
    pub diff_id: Digest,
    /// The hash tree of its image, when it has one.
    pub verity: Option<DmVerityTree>,
    /// The fs-verity digest of its image, where that was wanted or promised.
    pub fsverity: Option<fsverity::Digest>,
    /// Whether it was there from an earlier conversion.
    pub reused: bool,
    /// Which extended attributes were dropped, when the image was made in this run.
    pub dropped_xattrs: DroppedXattrs,
}

/// Converts the images of `source` into `destination`.
///
/// # Errors
/// The first thing that went wrong; then `destination` shows what it showed before.
pub fn convert(
    source: &ImageSource,
    destination: Destination,
    options: &Options,
    progress: &Arc<dyn Progress>,
) -> Result<Report> {
    let layout = destination.layout();
    layout.sweep()?;
    let layers = layers::convert(source, layout, options, progress)?;
    let made = documents::write(source, layout, options, &layers)?;
    destination.publish(made.entry, &options.cancel)?;
    Ok(made.report)
}
