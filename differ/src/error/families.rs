//! The families of errors, a table for each.

use std::borrow::Cow;
use std::path::PathBuf;

use erolith_errors::error_table;
use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::decode::{CompressedFormat, Defect};

error_table! {
    /// A layer that is not taken: its kind, its form, its annotations, or the image that it is.
    pub enum LayerError {
        /// A layer of a kind that is not handled.
        UnsupportedMediaType {
            /// The type.
            media_type: String,
        } => {
            code: "media-type-unsupported",
            class: Input,
            status: Unimplemented,
            text: ("layers of media type {media_type:?} are not supported"),
        }
        /// Bytes in a compression that layers do not use.
        UnsupportedCompression {
            /// What its first bytes say.
            found: &'static str,
        } => {
            code: "compression-unsupported",
            class: Input,
            status: InvalidArgument,
            text: ("the blob is {found} data, which is not supported in layers"),
        }
        /// Bytes that are not what the media type allows.
        NotALayer {
            /// The declared format.
            declared: &'static str,
        } => {
            code: "layer-wrong-magic",
            class: Input,
            status: InvalidArgument,
            text: ("the blob is declared {declared} but its first bytes are neither that nor anything a layer may be"),
        }
        /// A compressed stream that is damaged.
        Corrupt {
            /// The compression.
            format: CompressedFormat,
            /// Where, in bytes of the compressed blob: the member, frame or trailer, or how far decoding came.
            offset: u64,
            /// What is wrong.
            defect: Defect,
        } => {
            code: { defect.code() },
            class: Input,
            status: InvalidArgument,
            text: ("{format} data are damaged at byte {offset} of the blob: {defect}"),
        }
        /// A layer that its owner does not allow to be distributed.
        NonDistributable {
            /// Its media type.
            media_type: String,
        } => {
            code: "layer-nondistributable",
            class: Input,
            status: InvalidArgument,
            text: ("the layer is not to be distributed ({media_type}); converting it has to be asked for"),
        }
        /// An annotation of a layer that cannot be understood.
        BadAnnotation {
            /// Its name.
            key: String,
            /// What is wrong with it.
            reason: &'static str,
        } => {
            code: "annotation-invalid",
            class: Input,
            status: InvalidArgument,
            text: ("annotation {key} of the layer: {reason}"),
        }
        /// An image that is not fit to be mounted.
        BadImage {
            /// The checker's code.
            code: Cow<'static, str>,
            /// What is wrong.
            reason: String,
            /// Where; empty for the image as a whole.
            path: String,
        } => {
            code: { code },
            class: Input,
            status: InvalidArgument,
            text: ("the EROFS image is damaged: {reason} (path {path:?})"),
        }
        /// An image that has another fs-verity digest than its layer promises.
        FsVerity {
            /// What the annotation says.
            expected: erolith_verity::fsverity::Digest,
            /// What the bytes have.
            actual: erolith_verity::fsverity::Digest,
        } => {
            code: "fsverity-digest",
            class: Input,
            status: InvalidArgument,
            text: ("the fs-verity digest of the image is {actual}, and the layer promises {expected}"),
        }
        /// A layer that can only be made over the layers below it.
        Inherits => {
            code: "layer-inherits",
            class: Input,
            status: InvalidArgument,
            text: ("the layer takes attributes of directories from the layers below it"),
        }
        /// A work directory whose index is that of another upper directory.
        ForeignIndex {
            /// The work directory.
            work: PathBuf,
        } => {
            code: "overlay-index-foreign",
            class: Input,
            status: FailedPrecondition,
            text: ("work directory {}: its index belongs to another upper directory; name the one that the overlay was mounted with", work.display()),
        }
    }
}

error_table! {
    /// Something that is larger, or takes longer, than allowed.
    #[derive(Serialize, Deserialize)]
    pub enum BudgetError {
        /// More output than allowed.
        Output {
            /// The allowed size, in bytes.
            limit: u64,
        } => {
            code: "budget-output",
            class: Input,
            status: ResourceExhausted,
            text: ("the blob expands to more than {limit} bytes: for a layer that is trusted, raise --max-layer-bytes, or \
                 max_layer_bytes in the daemon's configuration"),
        }
        /// More output per byte of input than allowed.
        Ratio {
            /// Compressed bytes read so far.
            compressed: u64,
            /// What came out of them, in bytes, without long runs of zeros.
            expanded: u64,
            /// The allowed ratio.
            ratio: u64,
        } => {
            code: "budget-ratio",
            class: Input,
            status: ResourceExhausted,
            text: ("{compressed} bytes of the blob expand to {expanded} bytes, more than {ratio} to 1: for a layer that is trusted, \
                 raise --max-layer-ratio, or max_layer_ratio in the daemon's configuration"),
        }
        /// Decoding took too long.
        Time {
            /// The allowed time.
            seconds: u64,
        } => {
            code: "budget-time",
            class: Input,
            status: ResourceExhausted,
            text: ("the blob was not decoded within {seconds} seconds"),
        }
        /// A manifest, config or index that is larger than such things are.
        Document {
            /// The document.
            digest: Digest,
            /// Its size by its descriptor.
            size: u64,
            /// The allowed size.
            limit: u64,
        } => {
            code: "document-too-large",
            class: Input,
            status: InvalidArgument,
            text: ("document {digest} has {size} bytes, more than {limit}"),
        }
        /// A file that is larger than such files are.
        File {
            /// The allowed size.
            limit: u64,
        } => {
            code: "document-too-large",
            class: Input,
            status: InvalidArgument,
            text: ("a document has more than {limit} bytes"),
        }
    }
}

error_table! {
    /// Bytes that are not those that a descriptor or a config promises.
    #[derive(Serialize, Deserialize)]
    pub enum MismatchError {
        /// A blob with another length than its descriptor says.
        BlobSize {
            /// The blob.
            digest: Digest,
            /// By the descriptor.
            expected: u64,
            /// Bytes found; when longer than expected, reading stopped there.
            actual: u64,
        } => {
            code: "blob-size-mismatch",
            class: Input,
            status: DataLoss,
            text: ("blob {digest}: {actual} bytes where the descriptor says {expected}"),
        }
        /// A blob whose content is not what its name says.
        BlobDigest {
            /// By the descriptor.
            expected: Digest,
            /// Of the bytes.
            actual: Digest,
        } => {
            code: "blob-digest-mismatch",
            class: Input,
            status: DataLoss,
            text: ("blob {expected}: its bytes have digest {actual}"),
        }
        /// A layer that expands to something else than the image's config says.
        DiffId {
            /// By the config.
            expected: Digest,
            /// Of the decoded bytes.
            actual: Digest,
        } => {
            code: "diffid-mismatch",
            class: Input,
            status: DataLoss,
            text: ("the layer's diffID is {actual}, the config says {expected}"),
        }
    }
}

error_table! {
    /// Content that is not where it should be, or that cannot be named or written.
    pub enum ContentError {
        /// A digest that is not spelled as the image specification says.
        BadDigest {
            /// The text, shortened.
            text: String,
        } => {
            code: "digest-invalid",
            class: Input,
            status: InvalidArgument,
            text: ("{text:?} is not a sha256 or sha512 digest in lower case"),
        }
        /// A blob that is not in the store.
        BlobMissing {
            /// The blob.
            digest: Digest,
        } => {
            code: "blob-missing",
            class: Input,
            status: NotFound,
            text: ("blob {digest} is not there"),
        }
        /// A name in a layout that is a symbolic link or no plain file.
        NotPlain {
            /// The path.
            path: String,
        } => {
            code: "layout-not-plain",
            class: Input,
            status: InvalidArgument,
            text: ("{path} is a symbolic link, leads through one, or is no plain file"),
        }
        /// A directory that is no OCI image layout.
        NotALayout {
            /// The directory.
            path: String,
            /// Why not.
            reason: &'static str,
        } => {
            code: "layout-invalid",
            class: Input,
            status: InvalidArgument,
            text: ("{path} is no OCI image layout: {reason}"),
        }
        /// An archive that holds no image.
        BadArchive {
            /// Why not.
            reason: String,
        } => {
            code: "archive-invalid",
            class: Input,
            status: InvalidArgument,
            text: ("the archive cannot be used: {reason}"),
        }
        /// Another process writes the same thing.
        Busy {
            /// What is written.
            reference: String,
        } => {
            code: "ingest-busy",
            class: Environment,
            status: Unavailable,
            text: ("another process is writing {reference}"),
        }
    }
}

error_table! {
    /// An image, its documents or its location cannot be understood, or are not what was asked for.
    pub enum OciImageError {
        /// A source in which not exactly one image is meant.
        WhichImage {
            /// The form of the source.
            transport: &'static str,
            /// What was asked for.
            reference: Option<String>,
            /// Whether there was anything.
            found: bool,
            /// What there is.
            names: Vec<String>,
        } => {
            code: { if *found { "image-ambiguous" } else { "image-not-found" } },
            class: Usage,
            status: InvalidArgument,
            text: ("{}", which_image(*found, reference.as_deref(), names)),
        }
        /// No image for the wanted platform.
        NoPlatform {
            /// What was asked for.
            wanted: String,
            /// What there is.
            there: String,
        } => {
            code: "platform-not-found",
            class: Input,
            status: InvalidArgument,
            text: ("there is no image for {wanted}; there are: {there}"),
        }
        /// Content that is no image: a signature, an attestation, some other artifact.
        NotAnImage {
            /// The manifest.
            digest: Digest,
            /// Media type of its config.
            media_type: String,
        } => {
            code: "not-an-image",
            class: Input,
            status: InvalidArgument,
            text: ("{digest} is no image: its config is {media_type:?}"),
        }
        /// A platform that is not spelled `os/architecture[/variant]`.
        BadPlatform {
            /// The text.
            text: String,
        } => {
            code: "platform-invalid",
            class: Usage,
            status: InvalidArgument,
            text: ("{text:?} is no platform: os/architecture[/variant]"),
        }
        /// A source or destination that cannot be understood.
        BadLocation {
            /// The text.
            text: String,
            /// Why not.
            reason: String,
        } => {
            code: "location-invalid",
            class: Usage,
            status: InvalidArgument,
            text: ("{text:?} is no image location: {reason}"),
        }
        /// An instruction that does not change a config.
        BadChange {
            /// The text.
            text: String,
            /// Why not.
            reason: String,
        } => {
            code: "change-invalid",
            class: Usage,
            status: InvalidArgument,
            text: ("{text:?} changes nothing: {reason}"),
        }
        /// A manifest, index or config that is damaged or can be read in two ways.
        BadDocument {
            /// Which document.
            what: String,
            /// What is wrong with it.
            reason: String,
        } => {
            code: "document-invalid",
            class: Input,
            status: InvalidArgument,
            text: ("{what}: {reason}"),
        }
        /// A manifest of the first schema, which names no config and whose digests are of something else.
        SchemaOne {
            /// Which document.
            what: String,
        } => {
            code: "document-schema-1",
            class: Input,
            status: InvalidArgument,
            text: ("{what} is a Docker schema 1 manifest; pull and push the image once with a newer tool to convert it"),
        }
        /// An image whose manifest and config do not agree about its layers.
        LayerCount {
            /// In the manifest.
            layers: usize,
            /// In the config.
            diff_ids: usize,
        } => {
            code: "layer-count-mismatch",
            class: Input,
            status: InvalidArgument,
            text: ("the manifest has {layers} layers, the config {diff_ids} diff_ids"),
        }
    }
}

error_table! {
    /// A thread, a worker or a program of the user that works on a layer failed.
    pub enum ProcessError {
        /// A stream processor that failed.
        Processor {
            /// Its name and program.
            processor: String,
            /// Media type of what it got.
            media_type: String,
            /// How it ended, and what it said.
            reason: String,
        } => {
            code: "processor-failed",
            class: Input,
            status: FailedPrecondition,
            text: ("processor {processor} for {media_type}: {reason}"),
        }
        /// Stream processors that lead back to where they began.
        ProcessorLoop {
            /// The media type.
            media_type: String,
        } => {
            code: "processor-loop",
            class: Input,
            status: FailedPrecondition,
            text: ("the stream processors for {media_type:?} lead back to it"),
        }
        /// A thread of a pipeline ended without a result.
        ThreadDied {
            /// Which.
            stage: &'static str,
        } => {
            code: "worker-died",
            class: Io,
            status: Internal,
            text: ("a {stage} thread died"),
        }
        /// A worker process that ended without an answer.
        WorkerDied {
            /// How it ended.
            ended: String,
        } => {
            code: "worker-process-died",
            class: Io,
            status: Internal,
            text: ("the worker process that reads the layer {ended}"),
        }
        /// What a worker process found wrong with a layer, where the kind of error is known by its code only.
        Reported {
            /// The code that the error has there.
            code: Cow<'static, str>,
            /// What it says.
            text: String,
        } => {
            code: { code },
            class: Input,
            status: InvalidArgument,
            text: ("{text}"),
        }
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
