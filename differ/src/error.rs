//! What can go wrong, where, and a stable code for each.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use crate::Digest;
use crate::decode::{Defect, Format};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A digest that is not spelled as the image specification says.
    #[error("{text:?} is not a sha256 or sha512 digest in lower case")]
    BadDigest {
        /// The text, shortened.
        text: String,
    },
    /// A layer that can only be made over the layers below it.
    #[error("the layer takes attributes of directories from the layers below it")]
    Inherits,
    /// A work directory whose index is that of another upper directory.
    #[error(
        "work directory {}: its index belongs to another upper directory; name the one that the overlay was mounted with",
        work.display()
    )]
    ForeignIndex {
        /// The work directory.
        work: PathBuf,
    },
    /// A layer of a kind that is not handled.
    #[error("layers of media type {media_type:?} are not supported")]
    UnsupportedMediaType {
        /// The type.
        media_type: String,
    },
    /// Bytes in a compression that layers do not use.
    #[error("the blob is {found} data, which is not supported in layers")]
    UnsupportedCompression {
        /// What its first bytes say.
        found: &'static str,
    },
    /// Bytes that are not what the media type allows.
    #[error(
        "the blob is declared {declared} but its first bytes are neither that nor anything a layer may be"
    )]
    NotALayer {
        /// The declared format.
        declared: &'static str,
    },
    /// A compressed stream that is damaged.
    #[error("{format} data are damaged at byte {offset} of the blob: {defect}")]
    Corrupt {
        /// The compression.
        format: Format,
        /// Where, in bytes of the compressed blob: the member, frame or trailer, or how far decoding came.
        offset: u64,
        /// What is wrong.
        defect: Defect,
    },
    /// More output than allowed.
    #[error(
        "the blob expands to more than {limit} bytes: for a layer that is trusted, raise --max-layer-bytes, or \
         max_layer_bytes in the daemon's configuration"
    )]
    OutputBudget {
        /// The allowed size, in bytes.
        limit: u64,
    },
    /// More output per byte of input than allowed.
    #[error(
        "{compressed} bytes of the blob expand to {expanded} bytes, more than {ratio} to 1: for a layer that is trusted, \
         raise --max-layer-ratio, or max_layer_ratio in the daemon's configuration"
    )]
    RatioBudget {
        /// Compressed bytes read so far.
        compressed: u64,
        /// What came out of them, in bytes, without long runs of zeros.
        expanded: u64,
        /// The allowed ratio.
        ratio: u64,
    },
    /// Decoding took too long.
    #[error("the blob was not decoded within {seconds} seconds")]
    TimeBudget {
        /// The allowed time.
        seconds: u64,
    },
    /// A blob with another length than its descriptor says.
    #[error("blob {digest}: {actual} bytes where the descriptor says {expected}")]
    BlobSize {
        /// The blob.
        digest: Digest,
        /// By the descriptor.
        expected: u64,
        /// Bytes found; when longer than expected, reading stopped there.
        actual: u64,
    },
    /// A blob whose content is not what its name says.
    #[error("blob {expected}: its bytes have digest {actual}")]
    BlobDigest {
        /// By the descriptor.
        expected: Digest,
        /// Of the bytes.
        actual: Digest,
    },
    /// A layer that expands to something else than the image's config says.
    #[error("the layer's diffID is {actual}, the config says {expected}")]
    DiffId {
        /// By the config.
        expected: Digest,
        /// Of the decoded bytes.
        actual: Digest,
    },
    /// A blob that is not in the store.
    #[error("blob {digest} is not there")]
    BlobMissing {
        /// The blob.
        digest: Digest,
    },
    /// A name in a layout that is a symbolic link or no plain file.
    #[error("{path} is a symbolic link, leads through one, or is no plain file")]
    NotPlain {
        /// The path.
        path: String,
    },
    /// A directory that is no OCI image layout.
    #[error("{path} is no OCI image layout: {reason}")]
    NotALayout {
        /// The directory.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// An archive that holds no image.
    #[error("the archive cannot be used: {reason}")]
    BadArchive {
        /// Why not.
        reason: String,
    },
    /// A source in which not exactly one image is meant.
    #[error("{}", which_image(*found, reference.as_deref(), names))]
    WhichImage {
        /// The form of the source.
        transport: &'static str,
        /// What was asked for.
        reference: Option<String>,
        /// Was there anything?
        found: bool,
        /// What there is.
        names: Vec<String>,
    },
    /// No image for the wanted platform.
    #[error("there is no image for {wanted}; there are: {there}")]
    NoPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// Content that is no image: a signature, an attestation, some other artifact.
    #[error("{digest} is no image: its config is {media_type:?}")]
    NotAnImage {
        /// The manifest.
        digest: Digest,
        /// Media type of its config.
        media_type: String,
    },
    /// A platform that is not spelled `os/architecture[/variant]`.
    #[error("{text:?} is no platform: os/architecture[/variant]")]
    BadPlatform {
        /// The text.
        text: String,
    },
    /// A source or destination that cannot be understood.
    #[error("{text:?} is no image location: {reason}")]
    BadLocation {
        /// The text.
        text: String,
        /// Why not.
        reason: String,
    },
    /// An instruction that does not change a config.
    #[error("{text:?} changes nothing: {reason}")]
    BadChange {
        /// The text.
        text: String,
        /// Why not.
        reason: String,
    },
    /// A manifest, index or config that is damaged or can be read in two ways.
    #[error("{what}: {reason}")]
    BadDocument {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest of the first schema, which names no config and whose digests are of something else.
    #[error(
        "{what} is a Docker schema 1 manifest; pull and push the image once with a newer tool to convert it"
    )]
    SchemaOne {
        /// Which document.
        what: String,
    },
    /// An image whose manifest and config do not agree about its layers.
    #[error("the manifest has {layers} layers, the config {diff_ids} diff_ids")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// A manifest, config or index that is larger than such things are.
    #[error("document {digest} has {size} bytes, more than {limit}")]
    DocumentTooLarge {
        /// The document.
        digest: Digest,
        /// Its size by its descriptor.
        size: u64,
        /// The allowed size.
        limit: u64,
    },
    /// A file that is larger than such files are.
    #[error("a document has more than {limit} bytes")]
    FileTooLarge {
        /// The allowed size.
        limit: u64,
    },
    /// Another process writes the same thing.
    #[error("another process is writing {reference}")]
    Busy {
        /// What is written.
        reference: String,
    },
    /// A layer that its owner does not allow to be distributed.
    #[error("the layer is not to be distributed ({media_type}); converting it has to be asked for")]
    NonDistributable {
        /// Its media type.
        media_type: String,
    },
    /// An image that is not fit to be mounted.
    #[error("the EROFS image is damaged: {reason} (path {path:?})")]
    BadImage {
        /// The checker's code.
        code: Cow<'static, str>,
        /// What is wrong.
        reason: String,
        /// Where; empty for the image as a whole.
        path: String,
    },
    /// An annotation of a layer that cannot be understood.
    #[error("annotation {key} of the layer: {reason}")]
    BadAnnotation {
        /// Its name.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An image whose dm-verity hash tree is not what it should be, or cannot be made.
    #[error("{0}")]
    Verity(#[from] erolith_verity::dmverity::Error),
    /// An image that has another fs-verity digest than its layer promises.
    #[error("the fs-verity digest of the image is {actual}, and the layer promises {expected}")]
    FsVerity {
        /// What the annotation says.
        expected: erolith_verity::fsverity::Digest,
        /// What the bytes have.
        actual: erolith_verity::fsverity::Digest,
    },
    /// A layer that cannot become an image.
    #[error("{0}")]
    Build(#[from] erolith_mkfs::Error),
    /// Layers that cannot be compared.
    #[error("{0}")]
    Overlay(#[source] erolith_overlay::Error),
    /// What went wrong with one layer.
    #[error("layer {index} ({name}): {source}")]
    Layer {
        /// Position in the image, the lowest is 0.
        index: usize,
        /// Digest of the blob, or diffID where there is no other.
        name: Digest,
        /// What went wrong.
        source: Box<Error>,
    },
    /// A stream processor that failed.
    #[error("processor {processor} for {media_type}: {reason}")]
    Processor {
        /// Its name and program.
        processor: String,
        /// Media type of what it got.
        media_type: String,
        /// How it ended, and what it said.
        reason: String,
    },
    /// Stream processors that lead back to where they began.
    #[error("the stream processors for {media_type:?} lead back to it")]
    ProcessorLoop {
        /// The media type.
        media_type: String,
    },
    /// A file that could not be sealed.
    #[error("sealing {path}: {source}")]
    Seal {
        /// What it would have been called.
        path: String,
        /// Why not, by whoever seals.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A thread of a pipeline ended without a result.
    #[error("a {stage} thread died")]
    WorkerDied {
        /// Which.
        stage: &'static str,
    },
    /// What a worker process found wrong with a layer, where the kind of error is known by its code only.
    #[error("{text}")]
    Told {
        /// The code that the error has there.
        code: Cow<'static, str>,
        /// What it says.
        text: String,
    },
    /// A worker process that ended without an answer.
    #[error("the worker process that reads the layer {ended}")]
    Worker {
        /// How it ended.
        ended: String,
    },
    /// Reading or writing failed.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl From<erolith_overlay::Error> for Error {
    fn from(error: erolith_overlay::Error) -> Self {
        match error {
            erolith_overlay::Error::Image(error) => Self::Build(error),
            error => Self::Overlay(error),
        }
    }
}

impl Error {
    /// A stable name of the kind of error, for logs, tests and machines.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::BadDigest { .. } => "digest-invalid",
            Self::Inherits => "layer-inherits",
            Self::ForeignIndex { .. } => "overlay-index-foreign",
            Self::UnsupportedMediaType { .. } => "media-type-unsupported",
            Self::UnsupportedCompression { .. } => "compression-unsupported",
            Self::NotALayer { .. } => "layer-wrong-magic",
            Self::Corrupt { defect, .. } => defect.code(),
            Self::OutputBudget { .. } => "budget-output",
            Self::RatioBudget { .. } => "budget-ratio",
            Self::TimeBudget { .. } => "budget-time",
            Self::BlobSize { .. } => "blob-size-mismatch",
            Self::BlobDigest { .. } => "blob-digest-mismatch",
            Self::DiffId { .. } => "diffid-mismatch",
            Self::BlobMissing { .. } => "blob-missing",
            Self::NotPlain { .. } => "layout-not-plain",
            Self::NotALayout { .. } => "layout-invalid",
            Self::BadArchive { .. } => "archive-invalid",
            Self::WhichImage { found: false, .. } => "image-not-found",
            Self::WhichImage { .. } => "image-ambiguous",
            Self::NoPlatform { .. } => "platform-not-found",
            Self::NotAnImage { .. } => "not-an-image",
            Self::BadPlatform { .. } => "platform-invalid",
            Self::BadLocation { .. } => "location-invalid",
            Self::BadChange { .. } => "change-invalid",
            Self::BadDocument { .. } => "document-invalid",
            Self::SchemaOne { .. } => "document-schema-1",
            Self::LayerCount { .. } => "layer-count-mismatch",
            Self::DocumentTooLarge { .. } | Self::FileTooLarge { .. } => "document-too-large",
            Self::Busy { .. } => "ingest-busy",
            Self::NonDistributable { .. } => "layer-nondistributable",
            Self::BadImage { code, .. } => code,
            Self::BadAnnotation { .. } => "annotation-invalid",
            Self::Verity(source) => source.code(),
            Self::FsVerity { .. } => "fsverity-digest",
            Self::Build(source) => source.code(),
            Self::Overlay(source) => source.code(),
            Self::Layer { source, .. } => source.code(),
            Self::Processor { .. } => "processor-failed",
            Self::ProcessorLoop { .. } => "processor-loop",
            Self::Seal { .. } => "seal",
            Self::Cancelled => "cancelled",
            Self::WorkerDied { .. } => "worker-died",
            Self::Told { code, .. } => code,
            Self::Worker { .. } => "worker-process-died",
            Self::Io { .. } => "io",
        }
    }

    /// What reading failed of: an error of this crate that went through a reader, or the system's.
    pub(crate) fn reading(action: &str, error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::io(action))
    }

    /// Names what was being done when `source` happened.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

fn which_image(found: bool, reference: Option<&str>, names: &[String]) -> String {
    let there = if names.is_empty() { "none with a name".to_owned() } else { names.join(", ") };
    match (found, reference) {
        (false, Some(wanted)) => format!("there is no image {wanted:?}; there are: {there}"),
        (false, None) => "there is no image".to_owned(),
        (true, _) => format!("there are several images, name one of them: {there}"),
    }
}
