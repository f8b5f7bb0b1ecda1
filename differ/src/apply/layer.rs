//! One layer becomes the image in the directory of a snapshot.
//!
//! The image appears whole, checked and durable, or the directory is as it was. What the bytes of the layer were is
//! verified and returned; a digest of the image as a blob is not computed, because it is not needed here.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use erolith_mkfs::build::{self, Summary};
use erolith_mkfs::io::ReadAt as _;
use erolith_mkfs::protect::Protected;
use erolith_verity::dmverity::{DmVerityTree, Signature};
use erolith_verity::fsverity;

use super::finish::{CompleteImage, ImageName};
use super::isolation::{Isolation, StagedImage};
pub use super::job::LayerInput;
use super::job::{LayerJob, Task};
use super::parents::ParentImages;
use super::protect::Protect;
use super::verify::{explain, hash_all};
use super::{Times, share};
use crate::content::{Blob, LocalBlob, Staging as _, require_digest};
use crate::decode::{Budget, Cancel, Digests, OnBytes, Request, WatchedReader};
use crate::error::{LayerError, MismatchError, ProcessError};
use crate::processors::{self, Payloads, Processed, Processor, ProcessorInput, ProcessorStep};
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
    /// The signature of the root hash of that tree, as the descriptor has it.
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

/// Whether the bytes of a stored blob are known to be what its digest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// They are not: they are read and hashed.
    #[default]
    Nothing,
    /// The store verified them when it wrote them, and has kept them from other writers since. An image is then
    /// taken without being read whole, and an archive's blob is not hashed: what it decompresses to is, and the caller
    /// compares that with the diffID of the image. Structure and checksums are checked in any case.
    Store,
}

/// How a layer is applied.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How the image of an archive is built. `layer.base` says whether there is nothing below.
    pub build: build::Options,
    /// Whether an image may share its bytes with the blob.
    pub share: Share,
    /// Whether the store is trusted for a stored blob.
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
    /// Cancels the work.
    pub cancel: Cancel,
    /// Called with the number of bytes of the blob that were read.
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
    /// Whether the image depends on the layers below. Then it is the image of this layer over those only.
    pub inherits: bool,
    /// How the image came there.
    pub how: ApplyMethod,
    /// The hash tree of the image, which the sidecar beside it tells of.
    pub verity: Option<DmVerityTree>,
    /// What was built; `None` for a layer that was an image already.
    pub summary: Option<Summary>,
    /// How long it took.
    pub times: Times,
}

/// Applies `layer`, whose bytes `source` has, so that its image is the file `target`: `layer.erofs` in the directory
/// of a snapshot. A file that is there is replaced. An image with a hash tree has a sidecar beside it, which is durable
/// before the image has its name.
///
/// # Errors
/// [`crate::error::LayerError::UnsupportedMediaType`] for what is no layer; what is wrong with the blob, the archive or the image;
/// [`crate::error::LayerError::FsVerity`] and [`crate::Error::Verity`] for one that is not what its hash tree says;
/// [`crate::Error::Cancelled`]; [`crate::error::ProcessError::WorkerDied`]; and what the storage reports. Nothing is published then.
pub fn apply(
    source: LayerInput,
    layer: &LayerSpec,
    target: &Path,
    lowers: &dyn ParentImages,
    options: &Options,
) -> Result<Applied> {
    let (steps, media_type) = processors::plan(&options.processors, &layer.media_type)?;
    let layer_type = LayerType::parse(media_type)?;
    let media_type = layer_type.decoded_media_type(media_type);
    let application = Application { layer, layer_type, media_type, target, options };
    match source {
        LayerInput::Stored(blob) if steps.is_empty() && application.is_own_diff_id() => {
            application.take(&blob).map_err(|error| damage(&blob, layer, error, options))
        }
        source => application.convert(source, &steps, lowers),
    }
}

/// One layer on its way to its directory.
struct Application<'a> {
    layer: &'a LayerSpec,
    /// Of what the stream processors give.
    layer_type: LayerType,
    /// Of the decoded layer.
    media_type: String,
    target: &'a Path,
    options: &'a Options,
}

/// What is known of an image that is written, before it has its name.
struct WrittenImage<'a> {
    image: CompleteImage<'a>,
    how: ApplyMethod,
    /// diffID.
    digest: Digest,
    /// Bytes of the decoded layer.
    size: u64,
    inherits: bool,
    summary: Option<Summary>,
    protected: Protected,
    times: Times,
}

impl Application<'_> {
    /// Whether the blob is its own decoded form, and its digest in the algorithm of the diffID. Then nothing but that digest
    /// has to be computed.
    fn is_own_diff_id(&self) -> bool {
        let algorithm = self.layer.digest.algorithm();
        let is_plain = self.layer_type == LayerType::Erofs { compression: Compression::None };
        is_plain && self.layer.diff_id.as_ref().is_none_or(|id| id.algorithm() == algorithm)
    }

    /// Takes a stored image, without a copy where that can be.
    fn take(&self, blob: &Blob) -> Result<Applied> {
        let start = Instant::now();
        self.require_expected(blob)?;
        // Nothing can be appended to an inode that is the store's.
        if self.options.share == Share::Link
            && !self.protect(ApplyMethod::Linked).may_grow()
            && let Some(local) = share::whole_file(blob)?
            && let Some(place) = share::place_beside(local.file(), self.target)?
        {
            self.verify(local)?;
            let image = CompleteImage::Shared(local.file(), place);
            match self.publish(self.stored(image, ApplyMethod::Linked, start)) {
                Err(error) if share::cannot_link(&error) => {}
                published => return published,
            }
        }
        let staging = self.staging()?;
        let how = self.fill(blob, staging.file())?;
        let file = staging.file().try_clone().map_err(Error::io("duplicating a descriptor"))?;
        let size = file.metadata().map_err(Error::io("examining an image"))?.len();
        // What is verified is what is published: no other process can change it any more.
        self.verify(&LocalBlob::new(Arc::new(file), 0, size))?;
        self.publish(self.stored(CompleteImage::Staged(staging), how, start))
    }

    /// Decodes the layer into an image.
    fn convert(
        &self,
        source: LayerInput,
        steps: &[ProcessorStep<'_>],
        lowers: &dyn ParentImages,
    ) -> Result<Applied> {
        let Self { layer, options, .. } = self;
        let mut request = Request {
            layer_type: Some(self.layer_type),
            blob: Some((layer.digest.clone(), layer.size)),
            is_vouched_for: options.trust == Trust::Store
                && matches!(source, LayerInput::Stored(_)),
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
            let blob = Box::new(WatchedReader { inner: source.into_reader(), told });
            let input = ProcessorInput { source: blob, digest, size, cancel: processing.0.clone() };
            let processed = Processed::start(steps, &layer.payloads, input)?;
            source = LayerInput::Stream(Box::new(processed));
            told = OnBytes::default();
        }
        let staging = self.staging()?;
        let (task, how) = match self.layer_type {
            LayerType::Tar { .. } => (Task::Tar(options.build.clone()), ApplyMethod::Converted),
            LayerType::Erofs { compression: Compression::None } => {
                (Task::Native, ApplyMethod::Copied)
            }
            LayerType::Erofs { .. } => (Task::Native, ApplyMethod::Unpacked),
        };
        let wanted = self.protect(how).wanted(&task);
        let job = LayerJob { task, source, told, request, wanted };
        let StagedImage { staging, source, summary, inherits, protected, times } =
            options.room.convert(staging, job, lowers)?;
        let digest =
            source.diff_id.ok_or(Error::Process(ProcessError::ThreadDied { stage: "hasher" }))?;
        let (image, size) = (CompleteImage::Staged(staging), source.size);
        self.publish(WrittenImage { image, how, digest, size, inherits, summary, protected, times })
    }

    /// The last steps, which are the same for every layer.
    fn publish(&self, written: WrittenImage<'_>) -> Result<Applied> {
        let WrittenImage { image, how, digest, size, inherits, summary, protected, times } =
            written;
        let start = Instant::now();
        let Options { durability, seal, cancel, .. } = self.options;
        let signature = self.layer.signature.as_ref().filter(|_| how != ApplyMethod::Converted);
        let name = ImageName {
            path: self.target,
            signature,
            durability: *durability,
            seal: seal.as_deref(),
        };
        let verity = name.finish(image, &self.protect(how), protected, cancel)?.verity;
        let times = Times { publish: start.elapsed(), ..times };
        let media_type = self.media_type.clone();
        Ok(Applied { media_type, digest, size, inherits, how, verity, summary, times })
    }

    /// What is known of a stored image that was taken as it is.
    fn stored<'b>(
        &self,
        image: CompleteImage<'b>,
        how: ApplyMethod,
        start: Instant,
    ) -> WrittenImage<'b> {
        let (digest, size) = (self.layer.digest.clone(), self.layer.size);
        let times = Times { read: start.elapsed(), ..Times::default() };
        let (inherits, summary, protected) = (false, None, Protected::default());
        WrittenImage { image, how, digest, size, inherits, summary, protected, times }
    }

    /// Refuses a blob whose size or digest are not those that the layer must have.
    fn require_expected(&self, blob: &Blob) -> Result<()> {
        let LayerSpec { digest, size, diff_id, .. } = self.layer;
        blob.require_size(digest, *size)?;
        match diff_id.clone().filter(|expected| expected != digest) {
            Some(expected) => {
                Err(Error::Mismatch(MismatchError::DiffId { expected, actual: digest.clone() }))
            }
            None => Ok(()),
        }
    }

    /// Gives the empty file `to` the bytes of `blob`.
    fn fill(&self, blob: &Blob, to: &File) -> Result<ApplyMethod> {
        if self.options.share != Share::Never
            && let Some(local) = share::whole_file(blob)?
            && share::reflink(local.file(), to)?
        {
            return Ok(ApplyMethod::Reflinked);
        }
        share::copy(blob, to, &self.options.cancel)?;
        Ok(ApplyMethod::Copied)
    }

    /// Verifies the digest of a stored image, unless the store verified it, and its structure.
    fn verify(&self, blob: &LocalBlob) -> Result<()> {
        let Options { trust, progress, room, cancel, .. } = self.options;
        match trust {
            Trust::Store => progress.tell(blob.size()),
            Trust::Nothing => {
                let expected = &self.layer.digest;
                let actual = hash_all(blob, expected.algorithm(), cancel, &mut |part| {
                    progress.tell(part.len() as u64);
                    Ok(())
                })?;
                require_digest(expected, actual)?;
            }
        }
        room.check(blob, cancel)
    }

    /// The file that becomes the image.
    fn staging(&self) -> Result<OutputFile> {
        let staging = OutputFile::create(self.target, MODE)?;
        // A small one is written before the disk could begin.
        let is_worth_it =
            self.options.durability == Durability::Synced && self.layer.size >= WRITTEN_BACK;
        Ok(if is_worth_it { staging.written_back() } else { staging })
    }

    /// What the image has to be, and what it gets. The annotations of an archive apply to another image.
    fn protect(&self, how: ApplyMethod) -> Protect {
        let Self { layer, options, .. } = self;
        let is_image = how != ApplyMethod::Converted;
        Protect {
            promised: layer.verity.filter(|_| is_image),
            is_wanted: options.dm_verity,
            digest: layer.fsverity.filter(|_| is_image),
            is_digest_wanted: options.seal.as_ref().is_some_and(|seal| seal.wants_digest()),
        }
    }
}

/// That a stored blob is damaged, if that can be the reason of `error` and is so; else `error`.
fn damage(blob: &Blob, layer: &LayerSpec, error: Error, options: &Options) -> Error {
    let is_about_content = match &error {
        Error::Build(error) => error.is_about_content(),
        Error::Layer(LayerError::Corrupt { .. })
        | Error::Layer(LayerError::NotALayer { .. })
        | Error::Layer(LayerError::UnsupportedCompression { .. })
        | Error::Mismatch(MismatchError::DiffId { .. })
        | Error::Layer(LayerError::BadImage { .. })
        | Error::Process(ProcessError::Reported { .. }) => true,
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
