//! One layer becomes the image in the directory of a snapshot.
//!
//! The image appears whole, checked and durable, or the directory is as it was. What the bytes of the layer were is
//! verified and returned; a digest of the image as a blob is not computed, because it is not needed here.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use erolith_mkfs::build::{self, Summary};
use erolith_mkfs::protect::Protected;
use erolith_verity::dmverity::{DmVerityTree, Signature};
use erolith_verity::fsverity;

pub use super::LayerInput;
use super::sidecar;
use super::{Built, Isolation, Order, ParentImages, Protect, Task, Times, explain, native};
use crate::content::Blob;
use crate::decode::{Budget, Cancel, Digests, OnBytes, Request, Watched};
use crate::processors::{self, Input, Payloads, Processed, Processor};
use crate::publish::{Durability, FileProtector, OutputFile};
use crate::{Compression, Digest, Error, LayerType, Result};

/// Permissions of the image: only root has to read it, and its files may belong to any user.
const MODE: u32 = 0o600;

/// Bytes of the smallest blob whose image the disk writes while it is made.
const WRITTEN_BACK: u64 = 256 << 10;

/// A layer as its descriptor describes it.
#[derive(Debug, Clone)]
pub struct LayerSpec {
    /// Media type.
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// The diffID, where it is known.
    pub diff_id: Option<Digest>,
    /// What the request carries for stream processors.
    pub payloads: Payloads,
    /// The hash tree that the descriptor promises. It says something of images only.
    pub verity: Option<DmVerityTree>,
    /// Who vouches for that tree, as the descriptor says.
    pub signature: Option<Signature>,
    /// The fs-verity digest that the descriptor promises. It says something of images only.
    pub fsverity: Option<fsverity::Digest>,
}

/// Whether an image may have its bytes in common with the blob it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Share {
    /// It is copied.
    Never,
    /// It is an inode of its own, over the same blocks where the filesystem can do that.
    #[default]
    Reflink,
    /// It may be another name of the same inode. Flags of that inode (immutable, fs-verity) and its permissions are
    /// then the store's business; else as `Reflink`.
    Link,
}

/// Who vouches that the bytes of a stored blob are what its digest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// Nobody: they are read and hashed.
    #[default]
    Nothing,
    /// The store, which verified them when they came in and has kept them from others since. An image is then
    /// taken without being read whole, and an archive's blob is not hashed: what it decompresses to is, and whoever
    /// asked compares that with the diffID of the image. Structure and checksums are checked in any case.
    Store,
}

/// How a layer is applied.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How the image of an archive is built. `layer.base` says whether there is nothing below.
    pub build: build::Options,
    /// Whether an image may share its bytes with the blob.
    pub share: Share,
    /// Who vouches for a stored blob.
    pub trust: Trust,
    /// Whether images get a dm-verity hash tree that have none.
    pub dm_verity: bool,
    /// Whether the result survives a power cut.
    pub durability: Durability,
    /// Seals the image before it gets its name; not one that is another name of the blob, which is the store's to seal.
    pub seal: Option<Arc<dyn FileProtector>>,
    /// The programs that understand what is not understood here.
    pub processors: Vec<Processor>,
    /// Which process looks into the layer.
    pub room: Isolation,
    /// What decoding may cost.
    pub budget: Budget,
    /// Calls it off.
    pub cancel: Cancel,
    /// Is told of the bytes of the blob that were read.
    pub progress: OnBytes,
}

/// How an image came to where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyMethod {
    /// It was built from an archive.
    Converted,
    /// It was decompressed.
    Unpacked,
    /// It is another name of the blob's inode.
    Linked,
    /// It is an inode of its own with the blob's blocks.
    Reflinked,
    /// It was copied.
    Copied,
}

/// A layer that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Media type of the decoded layer.
    pub media_type: String,
    /// Digest of the decoded layer: the diffID.
    pub digest: Digest,
    /// Bytes of the decoded layer.
    pub size: u64,
    /// Does the image depend on the layers below? Then it is the image of this layer over those only.
    pub inherits: bool,
    /// How the image came there.
    pub how: ApplyMethod,
    /// The hash tree of the image, which the sidecar beside it tells of.
    pub verity: Option<DmVerityTree>,
    /// What was built; `None` for a layer that was an image already.
    pub summary: Option<Summary>,
    /// How long it took. A stored image that is taken as it is has only been read.
    pub times: Times,
}

/// Applies `layer`, whose bytes `source` has, so that its image is the file `target`: `layer.erofs` in the directory
/// of a snapshot. A file that is there is replaced. An image with a hash tree has a sidecar beside it, which is durable
/// before the image has its name.
///
/// # Errors
/// [`crate::Error::UnsupportedMediaType`] for what is no layer; what is wrong with the blob, the archive or the image;
/// [`crate::Error::FsVerity`] and [`crate::Error::Verity`] for one that is not what its hash tree says;
/// [`crate::Error::Cancelled`]; [`crate::Error::Worker`]; and what the storage reports. Nothing is published then.
pub fn apply(
    source: LayerInput,
    layer: &LayerSpec,
    target: &Path,
    lowers: &dyn ParentImages,
    options: &Options,
) -> Result<Applied> {
    let (steps, media_type) = processors::plan(&options.processors, &layer.media_type)?;
    let layer_type = LayerType::parse(media_type)?;
    let decoded = layer_type.decoded_media_type(media_type);
    if let (true, LayerType::Erofs { compression: Compression::None }, LayerInput::Stored(blob)) =
        (steps.is_empty() && native::is_named_by_its_diff_id(layer), layer_type, &source)
    {
        let start = Instant::now();
        let (how, verity) = native::take(blob, layer, target, options)
            .map_err(|error| damage(blob, layer, error, options))?;
        let (digest, size) = (layer.digest.clone(), layer.size);
        let (media_type, summary) = (decoded, None);
        let times = Times { read: start.elapsed(), ..Times::default() };
        let inherits = false;
        return Ok(Applied { media_type, digest, size, inherits, how, verity, summary, times });
    }
    let mut request = Request {
        layer_type: Some(layer_type),
        blob: Some((layer.digest.clone(), layer.size)),
        is_vouched_for: options.trust == Trust::Store && matches!(source, LayerInput::Stored(_)),
        diff_id: layer.diff_id.clone(),
        digests: Digests::DiffId,
        budget: options.budget,
        cancel: options.cancel.clone(),
    };
    // A processor may neither read nor write any more when the layer has turned out to be wrong: it ends with this call.
    let processing = Ending(options.cancel.part());
    let (mut source, mut told) = (source, options.progress.clone());
    if !steps.is_empty() {
        // The blob is verified where it goes in; what comes out is something else.
        request.blob = None;
        let (digest, size) = (layer.digest.clone(), layer.size);
        let blob = Box::new(Watched { inner: source.into_reader(), told });
        let input = Input { source: blob, digest, size, cancel: processing.0.clone() };
        source = LayerInput::Stream(Box::new(Processed::start(&steps, &layer.payloads, input)?));
        told = OnBytes::default();
    }
    let staging = staging(target, options.durability, layer.size)?;
    let (task, how) = match layer_type {
        LayerType::Tar { .. } => (Task::Tar(options.build.clone()), ApplyMethod::Converted),
        LayerType::Erofs { compression: Compression::None } => (Task::Native, ApplyMethod::Copied),
        LayerType::Erofs { .. } => (Task::Native, ApplyMethod::Unpacked),
    };
    let protect = protect_of(layer, options, how);
    let wanted = protect.wanted(&task);
    let order = Order { task, source, told, request, wanted };
    let built = options.room.convert(staging, order, lowers)?;
    publish(built, target, &protect, layer, decoded, how, options)
}

/// That a stored blob is damaged, if that can be the reason of `error` and is so; else `error`.
fn damage(blob: &Blob, layer: &LayerSpec, error: Error, options: &Options) -> Error {
    let is_about_content = match &error {
        Error::Build(error) => error.is_about_content(),
        Error::Corrupt { .. }
        | Error::NotALayer { .. }
        | Error::UnsupportedCompression { .. }
        | Error::DiffId { .. }
        | Error::BadImage { .. }
        | Error::Told { .. } => true,
        _ => false,
    };
    if is_about_content { explain(blob, &layer.digest, error, &options.cancel) } else { error }
}

/// Work that is over when this is dropped.
struct Ending(Cancel);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The file that becomes the image of a layer whose blob has so many bytes.
pub(super) fn staging(target: &Path, durability: Durability, size: u64) -> Result<OutputFile> {
    let staging = OutputFile::create(target, MODE)?;
    // A small one is written before the disk could begin.
    let is_worth_it = durability == Durability::Synced && size >= WRITTEN_BACK;
    Ok(if is_worth_it { staging.written_back() } else { staging })
}

/// What the image of a layer has to be, and what it gets. What is said of an archive is about something else.
pub(super) fn protect_of(layer: &LayerSpec, options: &Options, how: ApplyMethod) -> Protect {
    let is_image = how != ApplyMethod::Converted;
    Protect {
        promised: layer.verity.filter(|_| is_image),
        is_wanted: options.dm_verity,
        digest: layer.fsverity.filter(|_| is_image),
        is_digest_wanted: options.seal.as_ref().is_some_and(|seal| seal.wants_digest()),
    }
}

fn publish(
    built: Built<OutputFile>,
    target: &Path,
    protect: &Protect,
    layer: &LayerSpec,
    media_type: String,
    how: ApplyMethod,
    options: &Options,
) -> Result<Applied> {
    let signature = layer.signature.as_ref().filter(|_| how != ApplyMethod::Converted);
    let start = Instant::now();
    let Protected { digest: sealed, verity } = built.protect(protect, &options.cancel)?;
    let Built { staging, source, summary, inherits, times, .. } = built;
    let digest = source.diff_id.ok_or(Error::WorkerDied { stage: "hasher" })?;
    options.cancel.check()?;
    sidecar::publish(target, verity.as_ref(), signature, options.durability)?;
    staging.publish_protected(options.durability, options.seal.as_deref(), sealed)?;
    let times = Times { publish: start.elapsed(), ..times };
    let size = source.size;
    Ok(Applied { media_type, digest, size, inherits, how, verity, summary, times })
}
