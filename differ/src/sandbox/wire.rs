//! What the two processes say to each other, as JSON. Both are the same program; the version guards against two that are
//! not.
//!
//! What the worker says is as untrusted as the layer that it reads: it is bounded, and every field is of a type.

mod options;
mod wire_error;

use std::collections::BTreeMap;
use std::io;

use erolith_mkfs::build::{self, Summary};
use erolith_mkfs::protect::{self, Protected};
use erolith_mkfs::tree::{DroppedXattrs, Note};
use erolith_verity::dmverity::{DmVerityTree, RootHash};
use erolith_verity::fsverity;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use options::{BuildOptions, Hashes};
pub(super) use wire_error::WireError;

use super::Protection;
use crate::apply::{LayerJobResult, Task, Times};
use crate::decode::{Budget, Cancel, Decoded, Digests, Request};
use crate::{Digest, LayerType};

/// Of these messages, and of the program.
const VERSION: &str = concat!("2 ", env!("CARGO_PKG_VERSION"));

/// The first message to a worker, and every message to a fork server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    version: String,
    pub(super) work: Work,
}

impl Order {
    pub(super) fn new(work: Work) -> Self {
        Self { version: VERSION.to_owned(), work }
    }

    pub(super) fn is_understood(&self) -> bool {
        self.version == VERSION
    }
}

/// What is to be done, and the descriptors that come with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Work {
    /// Nothing: say what protects. No descriptor.
    Probe,
    /// A layer becomes an image. Its bytes, the file of the image, an empty scratch file.
    Convert {
        task: WireTask,
        source: Origin,
        expected: Box<Expected>,
        #[serde(with = "Hashes")]
        wanted: protect::ProtectOptions,
    },
    /// An image is checked. Its file.
    Check(Range),
    /// A copy of this process takes the order that comes by another socket. That socket; [`WorkerMessage::Forked`] is the answer.
    Fork,
}

/// As [`Task`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireTask {
    Tar(Box<Wrapped>),
    Native,
}

/// As [`build::Options`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wrapped(#[serde(with = "BuildOptions")] pub(super) build::Options);

impl From<Task> for WireTask {
    fn from(task: Task) -> Self {
        match task {
            Task::Tar(options) => Self::Tar(Box::new(Wrapped(options))),
            Task::Native => Self::Native,
        }
    }
}

impl From<WireTask> for Task {
    fn from(wanted: WireTask) -> Self {
        match wanted {
            WireTask::Tar(options) => Self::Tar(options.0),
            WireTask::Native => Self::Native,
        }
    }
}

/// Where the bytes of a layer are in what comes with the order.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Origin {
    /// In a file. The worker says how much of it was read.
    Stored(Range),
    /// They come from a pipe.
    Stream,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// As [`Request`]; it is cancelled by killing the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Expected {
    layer_type: Option<LayerType>,
    blob: Option<(Digest, u64)>,
    is_vouched_for: bool,
    diff_id: Option<Digest>,
    digests: Digests,
    pub(super) budget: Budget,
}

impl From<Request> for Expected {
    fn from(request: Request) -> Self {
        let Request { layer_type, blob, is_vouched_for, diff_id, digests, budget, cancel: _ } =
            request;
        Self { layer_type, blob, is_vouched_for, diff_id, digests, budget }
    }
}

impl From<Expected> for Request {
    fn from(expected: Expected) -> Self {
        let Expected { layer_type, blob, is_vouched_for, diff_id, digests, budget } = expected;
        let cancel = Cancel::default();
        Self { layer_type, blob, is_vouched_for, diff_id, digests, budget, cancel }
    }
}

/// An answer to [`WorkerMessage::Lowers`]: so many images, one descriptor for each. Another answer follows while there are more.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct LowersReply {
    pub(super) images: Vec<Range>,
    pub(super) is_last: bool,
}

/// A message of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WorkerMessage {
    /// The copy runs. Its pidfd comes with this.
    Forked,
    /// The first one: the sandbox is closed, and nothing was read yet.
    Ready(Protection),
    /// So many more bytes of a stored blob were read.
    Read(u64),
    /// The images of the layers below are wanted.
    Lowers,
    /// A layer is converted.
    Converted(Box<Converted>),
    /// An image is fit to be mounted.
    Checked,
    /// It did not work.
    Failed(WireError),
}

/// As [`LayerJobResult`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Converted {
    source: Decoded,
    summary: Option<Built>,
    inherits: bool,
    /// As [`fsverity::Digest`].
    digest: Option<[u8; 32]>,
    tree: Option<WireDmVerity>,
    times: Times,
}

/// As [`DmVerityTree`].
#[derive(Debug, Serialize, Deserialize)]
struct WireDmVerity {
    root: [u8; 32],
    hash_offset: u64,
    block_size: u32,
}

/// As [`Summary`].
#[derive(Debug, Serialize, Deserialize)]
struct Built {
    inodes: u64,
    image_bytes: u64,
    metadata_bytes: u64,
    inline_bytes: u64,
    feature_incompat: u32,
    notes: BTreeMap<String, u64>,
    dropped_xattrs: Dropped,
}

/// As [`DroppedXattrs`].
#[derive(Debug, Serialize, Deserialize)]
struct Dropped {
    count: u64,
    names: Vec<String>,
    more: bool,
}

impl From<LayerJobResult> for Converted {
    fn from(outcome: LayerJobResult) -> Self {
        let LayerJobResult {
            source,
            summary,
            inherits,
            protected: Protected { digest, verity },
            times,
        } = outcome;
        let summary = summary.map(|summary| Built {
            inodes: summary.inodes,
            image_bytes: summary.image_bytes,
            metadata_bytes: summary.metadata_bytes,
            inline_bytes: summary.inline_bytes,
            feature_incompat: summary.feature_incompat,
            notes: summary.notes.iter().map(|(note, n)| (note.code().to_owned(), *n)).collect(),
            dropped_xattrs: Dropped {
                count: summary.dropped_xattrs.count,
                names: summary.dropped_xattrs.names().to_vec(),
                more: summary.dropped_xattrs.has_more_names(),
            },
        });
        let digest = digest.map(fsverity::Digest::bytes);
        let tree = verity.map(|DmVerityTree { root, hash_offset, block_size }| WireDmVerity {
            root: root.0,
            hash_offset,
            block_size,
        });
        Self { source, summary, inherits, digest, tree, times }
    }
}

impl From<Converted> for LayerJobResult {
    fn from(converted: Converted) -> Self {
        let Converted { source, summary, inherits, digest, tree, times } = converted;
        let known = |(code, n): (String, u64)| {
            Note::ALL.into_iter().find(|note| note.code() == code).map(|note| (note, n))
        };
        let summary = summary.map(|summary| Summary {
            inodes: summary.inodes,
            image_bytes: summary.image_bytes,
            metadata_bytes: summary.metadata_bytes,
            inline_bytes: summary.inline_bytes,
            feature_incompat: summary.feature_incompat,
            notes: summary.notes.into_iter().filter_map(known).collect(),
            // Bounded anew: these words are the worker's.
            dropped_xattrs: DroppedXattrs::new(
                summary.dropped_xattrs.count,
                summary.dropped_xattrs.names,
                summary.dropped_xattrs.more,
            ),
        });
        let verity = tree.map(|WireDmVerity { root, hash_offset, block_size }| DmVerityTree {
            root: RootHash(root),
            hash_offset,
            block_size,
        });
        let protected = Protected { digest: digest.map(fsverity::Digest::from_bytes), verity };
        Self { source, summary, inherits, protected, times }
    }
}

/// The message as bytes.
///
/// # Errors
/// None that these types have.
pub(super) fn to_bytes(message: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(message)?)
}

/// The bytes as a message.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when they are none.
pub(super) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let message = serde_json::from_slice(bytes);
    message.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
