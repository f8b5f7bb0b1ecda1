//! Progress events of a conversion.

use std::fmt::Debug;

use crate::Digest;

/// Something that happened. Layers are numbered in the order of their first event.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// What there is to do, before anything else.
    Planned {
        /// Layers to convert.
        layers: usize,
        /// Bytes of their blobs.
        bytes: u64,
    },
    /// A layer's turn has come.
    Started {
        /// Which.
        layer: usize,
        /// Its diffID.
        diff_id: &'a Digest,
        /// Bytes of its blob.
        bytes: u64,
    },
    /// More of a layer's blob was read.
    Read {
        /// Which layer.
        layer: usize,
        /// Bytes since the last such event.
        bytes: u64,
    },
    /// All of a layer was read; it is being hashed, compressed and synced.
    Sealing {
        /// Which layer.
        layer: usize,
    },
    /// A layer is published.
    Done {
        /// Which layer.
        layer: usize,
        /// Bytes of the new blob.
        bytes: u64,
        /// Whether it was there from an earlier conversion.
        reused: bool,
    },
}

/// Watches a conversion. Called from several threads.
pub trait Progress: Send + Sync + Debug {
    /// Called with each event.
    fn event(&self, event: Event<'_>);
}

/// Discards all events.
impl Progress for () {
    fn event(&self, _: Event<'_>) {}
}
