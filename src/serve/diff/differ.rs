//! What every call of the Diff service needs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use erolith_differ::apply::{Isolation, layer};
use erolith_differ::decode::{Budget, Cancel};
use erolith_differ::keyed_semaphore::KeyedSemaphore;
use erolith_differ::processors::Processor;
use erolith_snapshotter::api_mounts::MountParser;
use erolith_snapshotter::service::Snapshotter;
use tokio::sync::Semaphore;

use super::board::Board;
use super::content_cache::Keeper;
use crate::containerd::Containerd;
use crate::serve::metrics::Metrics;

/// What every call needs.
#[derive(Debug)]
pub(super) struct Differ {
    pub(super) snapshotter: Arc<Snapshotter>,
    pub(super) containerd: Containerd,
    /// containerd's root, empty when blobs are not to be read from there.
    pub(super) containerd_root: PathBuf,
    pub(super) metrics: Arc<Metrics>,
    pub(super) gate: KeyedSemaphore,
    pub(super) mounts: MountParser,
    pub(super) share: layer::Share,
    pub(super) trust: layer::Trust,
    /// Who looks into layers.
    pub(super) room: Isolation,
    pub(super) budget: Budget,
    pub(super) processors: Vec<Processor>,
    pub(super) sync: bool,
    /// Where an image is made that has no name yet.
    pub(super) scratch: PathBuf,
    /// Whether images get a dm-verity hash tree.
    pub(super) dm_verity: bool,
    /// Puts what was converted into the content store, if that is wanted.
    pub(super) keeper: Option<Keeper>,
    pub(super) turns: Semaphore,
    /// Layers that were applied: what they brought may rebuild damaged ones.
    pub(super) applied: AtomicU64,
    pub(super) board: Arc<Board>,
    /// Layers that may be read ahead of those below them. Each of them may keep a worker waiting.
    pub(super) ahead: Semaphore,
    /// Longest time without a sign of life from a layer that another waits for.
    pub(super) patience: Duration,
    /// Cancels all work.
    pub(super) stop: Cancel,
}
