//! containerd's content store, as an image is committed to it.

use erolith_differ::content::{ContentStore, Reference};
use erolith_differ::oci::Descriptor;
use erolith_differ::{Digest, Error};

use super::labels::Labels;
use super::lease::Leased;
use super::snapshots::Snapshots;
use super::{Containerd, Scope};

/// Labels that keep from being collected what a document names (docs/garbage-collection.md of containerd).
const CONFIG_REF: &str = "containerd.io/gc.ref.content.config";
const LAYER_REF: &str = "containerd.io/gc.ref.content.l.";
const SNAPSHOT_REF: &str = "containerd.io/gc.ref.snapshot.";

/// The content store of a namespace. What is stored is under a lease until a document or an image names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeStore<'a> {
    /// The node.
    pub(crate) containerd: &'a Containerd,
    /// Namespace and lease.
    pub(crate) leased: &'a Leased,
    /// The snapshotter that has the layers unpacked.
    pub(crate) snapshots: &'a Snapshots,
}

impl NodeStore<'_> {
    /// Namespace and lease of calls.
    pub(crate) fn scope(&self) -> &Scope {
        self.leased.scope()
    }

    fn labels(&self, names: &[Reference<'_>]) -> super::Result<Labels> {
        let mut labels = Labels::new();
        let mut layers = 0..;
        for name in names {
            let (label, value) = match name {
                Reference::Config(digest) => (CONFIG_REF.to_owned(), digest),
                Reference::Layer(digest) => {
                    (format!("{LAYER_REF}{}", layers.next().unwrap_or(0)), digest)
                }
                Reference::Snapshot(chain) => {
                    if self.snapshots.stat(self.scope(), &chain.to_string())?.is_none() {
                        continue;
                    }
                    (format!("{SNAPSHOT_REF}{}", self.snapshots.snapshotter()), chain)
                }
            };
            labels.insert(label, value.to_string());
        }
        Ok(labels)
    }
}

impl ContentStore for NodeStore<'_> {
    type Error = anyhow::Error;

    fn document(&self, described: &Descriptor, limit: u64) -> anyhow::Result<Option<Vec<u8>>> {
        let bytes = self.containerd.bytes(self.scope(), &described.digest, limit);
        Ok(bytes.map_err(|error| Error::Io {
            action: format!("reading document {}", described.digest),
            source: std::io::Error::other(error),
        })?)
    }

    fn put_document(&self, bytes: &[u8], names: &[Reference<'_>]) -> anyhow::Result<Digest> {
        let labels = self.labels(names)?;
        Ok(self.containerd.put(self.leased, bytes.to_vec(), &labels)?)
    }
}
