//! What the two processes say to each other, as JSON. Both are the same program; the version guards against two that are
//! not.
//!
//! The types are those that both processes work with. A message of a worker is as untrusted as the layer that it reads: its
//! size is bounded by the socket, its depth by the types, and what is no value of its type is refused.

mod wire_error;

use std::io;

use erolith_mkfs::protect::ProtectOptions;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(super) use wire_error::WireError;

use super::protection::Protection;
use crate::apply::{LayerJobResult, Task};
use crate::decode::Request;

/// Of these messages, and of the program.
const VERSION: &str = concat!("3 ", env!("CARGO_PKG_VERSION"));

/// The first message to a worker, and every message to a fork server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WorkerOrder {
    version: String,
    pub(super) job: WorkerJob,
}

impl WorkerOrder {
    pub(super) fn new(job: WorkerJob) -> Self {
        Self { version: VERSION.to_owned(), job }
    }

    pub(super) fn is_understood(&self) -> bool {
        self.version == VERSION
    }
}

/// What is to be done, and the descriptors that come with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WorkerJob {
    /// Nothing: say what protects. No descriptor.
    Probe,
    /// A layer becomes an image. Its bytes, the file of the image, an empty scratch file.
    Convert { task: Box<Task>, source: JobInput, request: Box<Request>, wanted: ProtectOptions },
    /// An image is checked. Its file.
    Check(FileRange),
    /// A copy of this process takes the order that comes by another socket. That socket; [`WorkerMessage::Forked`] is the answer.
    Fork,
}

/// Where the bytes of a layer are in what comes with the order.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum JobInput {
    /// In a file. The worker says how much of it was read.
    Stored(FileRange),
    /// They come from a pipe.
    Stream,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct FileRange {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// An answer to [`WorkerMessage::Lowers`]: so many images, one descriptor for each. Another answer follows while there are more.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct LowersReply {
    pub(super) images: Vec<FileRange>,
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
    Converted(Box<LayerJobResult>),
    /// An image is fit to be mounted.
    Checked,
    /// It did not work.
    Failed(WireError),
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decode::DecodedBlob;

    fn result() -> LayerJobResult {
        let source = DecodedBlob {
            blob: None,
            blob_size: 1,
            diff_id: Some(crate::Digest::of(b"")),
            size: 0,
            compression: crate::Compression::None,
        };
        let summary = erolith_mkfs::build::Summary::default();
        let (protected, times) = Default::default();
        LayerJobResult { source, summary: Some(summary), inherits: false, protected, times }
    }

    fn changed(pointer: &str, to: Value) -> io::Result<WorkerMessage> {
        let mut value = serde_json::to_value(WorkerMessage::Converted(Box::new(result()))).unwrap();
        *value.pointer_mut(pointer).unwrap() = to;
        from_bytes(value.to_string().as_bytes())
    }

    #[test]
    fn what_is_no_value_of_its_type_is_refused() {
        changed("/Converted/inherits", json!(true)).unwrap();
        let deep = (0..1000).fold(json!([]), |inner, _| json!([inner]));
        for (pointer, to) in [
            ("/Converted/inherits", json!("yes")),
            ("/Converted/source/diff_id", json!("sha256:00")),
            ("/Converted/source/size", json!(-1)),
            ("/Converted/summary/notes", json!({"no-such-note": 1})),
            ("/Converted/summary/dropped_xattrs", json!([1, [2], false])),
            ("/Converted/protected/digest", json!([1, 2, 3])),
            ("/Converted/summary", deep),
            ("", json!("Unknown")),
        ] {
            let error = changed(pointer, to).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{pointer}");
        }
    }

    #[test]
    fn names_of_attributes_are_bounded_anew() {
        let names: Vec<String> = (0..500).map(|n| format!("{n}\n{}", "x".repeat(200))).collect();
        let message = changed("/Converted/summary/dropped_xattrs", json!([500, names, false]));
        let WorkerMessage::Converted(result) = message.unwrap() else { panic!("another message") };
        let dropped = result.summary.unwrap().dropped_xattrs;
        assert_eq!((dropped.count, dropped.names().len()), (500, 8));
        assert!(dropped.has_more_names());
        assert!(dropped.names().iter().all(|name| name.len() <= 80 && !name.contains('\n')));
    }
}
