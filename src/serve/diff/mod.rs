//! containerd's Diff service: applies layers, and writes layers of differences.

mod apply;
mod beside;
pub(crate) mod board;
pub(crate) mod compare;
mod content_cache;
mod differ;
mod heal;
mod layer_spec;
mod missing;
mod target;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use erolith_differ::apply::{Isolation, layer};
use erolith_differ::decode::Cancel;
use erolith_differ::keyed_semaphore::KeyedSemaphore;
use erolith_snapshotter::api_mounts::MountParser;
use erolith_snapshotter::service::Snapshotter;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};

use super::blocking::cancellable;
use super::calls::{from_mounts, timed};
use super::config::Config;
use super::containerd::{Containerd, Scope};
use super::error::{Error, Result};
use super::metrics::Metrics;
use super::proto::diff as api;
use super::proto::diff::diff_server::Diff;
use super::proto::types::Descriptor;

use self::beside::Waiting;
use self::board::{Apply, Board};
use self::content_cache::Keeper;
use self::differ::Differ;
pub(crate) use self::heal::Outcome;
pub(crate) use self::missing::Missing;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(Arc<Differ>);

/// Calls of `Apply` and `Diff` at the same time, those that wait for their turn included. Each has a thread; the
/// others are for short work.
const MAX_CALLS: usize = super::MAX_BLOCKING / 2;

/// Layers that are read ahead of those below them, for each that is converted at the same time. Never so many that a layer
/// that is waited for finds no thread.
const AHEAD: usize = 2;

impl Service {
    /// The service over the layers of `snapshotter` and the blobs of `containerd`. Layers are read in `room`.
    pub(crate) fn new(
        config: &Config,
        snapshotter: Arc<Snapshotter>,
        containerd: Containerd,
        metrics: Arc<Metrics>,
        room: Isolation,
        board: Arc<Board>,
    ) -> Self {
        let stop = Cancel::default();
        let keeper = config.differ.keep_images.then(|| {
            let (snapshotter, metrics) = (Arc::clone(&snapshotter), Arc::clone(&metrics));
            Keeper::new(containerd.clone(), snapshotter, metrics, stop.clone())
        });
        Self(Arc::new(Differ {
            snapshotter,
            containerd,
            containerd_root: config.containerd.root.clone(),
            metrics,
            gate: KeyedSemaphore::new(config.differ.parallel()),
            mounts: MountParser::new(&config.root, &config.state),
            share: config.differ.share.value,
            trust: match config.containerd.trusted {
                true => layer::Trust::Store,
                false => layer::Trust::Nothing,
            },
            room,
            budget: config.differ.budget(),
            processors: config.processors(),
            sync: config.snapshotter.sync,
            scratch: config.root.clone(),
            dm_verity: config.differ.dm_verity.value,
            keeper,
            turns: Semaphore::new(MAX_CALLS),
            applied: AtomicU64::new(0),
            board,
            ahead: Semaphore::new((AHEAD * config.differ.parallel().get()).min(MAX_CALLS / 2)),
            patience: Duration::from_secs(config.differ.below_seconds.max(1)),
            stop,
        }))
    }

    /// Cancels what is going on.
    pub(crate) fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Waits for what goes on behind the answers.
    pub(crate) async fn settled(&self) {
        if let Some(keeper) = &self.0.keeper {
            keeper.settled().await;
        }
    }

    /// Applies a layer once it may be read, and remembers how that ended for those that wait for it.
    async fn apply_in_turn(&self, request: api::ApplyRequest, scope: Scope) -> Result<Descriptor> {
        let differ = &self.0;
        let mounts = from_mounts(request.mounts.clone());
        let running = differ.snapshotter.unpacked_into(&mounts).map(|id| differ.board.begin(id));
        let beside = differ.snapshotter.unpacked_beside(&mounts)?;
        let mut waiting = beside.map(Waiting::new);
        let _ahead = match &mut waiting {
            Some(waiting) => differ.admit(waiting).await?,
            None => None,
        };
        self.work(move |differ, cancel| {
            let applied = differ.apply(request, &scope, cancel, waiting);
            if let Some(running) = running {
                running.ended(applied.as_ref().err().map(|error| match error.code() {
                    Code::Unimplemented => Apply::Declined,
                    _ => Apply::Failed(crate::causes::causes(error)),
                }));
            }
            applied
        })
        .await
    }

    /// Does `work` on a thread of its own, once there is room.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Differ, &Cancel) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _turn = self.0.turns.acquire().await.map_err(|_| Error::WorkerDied)?;
        let differ = Arc::clone(&self.0);
        cancellable(&self.0.stop, move |cancel| work(&differ, cancel)).await
    }
}

#[tonic::async_trait]
impl Diff for Service {
    async fn apply(
        &self,
        request: Request<api::ApplyRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let scope = Scope::of(request.metadata());
        let request = request.into_inner();
        let blob = request.diff.as_ref().map(|diff| diff.digest.clone()).unwrap_or_default();
        let work = self.apply_in_turn(request, scope);
        let applied = timed(&self.0.metrics, "Diff", "Apply", &blob, work).await?;
        Ok(Response::new(api::ApplyResponse { applied: Some(applied) }))
    }

    async fn diff(
        &self,
        request: Request<api::DiffRequest>,
    ) -> Result<Response<api::DiffResponse>, Status> {
        let start = Instant::now();
        let scope = Scope::of(request.metadata());
        let request = request.into_inner();
        let reference = request.r#ref.clone();
        let work = self.work(move |differ, cancel| differ.compare(request, &scope, start, cancel));
        let diff = timed(&self.0.metrics, "Diff", "Diff", &reference, work).await?;
        Ok(Response::new(api::DiffResponse { diff: Some(diff) }))
    }
}
