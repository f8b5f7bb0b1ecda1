//! containerd's Diff service: layers come in, differences go out.

mod apply;
mod compare;
mod stack;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use erolith_differ::apply::layer;
use erolith_differ::decode::Budget;
use erolith_differ::gate::Gate;
use erolith_differ::processors::Processor;
use erolith_snapshotter::service::Snapshotter;
use tonic::{Request, Response, Status};

use super::blocking::blocking;
use super::config::{Config, Share};
use super::containerd::{Containerd, Scope};
use super::metrics::Metrics;
use super::proto::diff as api;
use super::proto::diff::diff_server::Diff;
use super::snapshots::timed;

use self::stack::Places;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(Arc<Differ>);

/// What every call needs.
#[derive(Debug)]
struct Differ {
    snapshotter: Arc<Snapshotter>,
    containerd: Containerd,
    /// containerd's root, empty when blobs are not to be read from there.
    containerd_root: PathBuf,
    metrics: Arc<Metrics>,
    gate: Gate,
    places: Places,
    share: layer::Share,
    trust: layer::Trust,
    budget: Budget,
    processors: Vec<Processor>,
    sync: bool,
}

impl Service {
    /// The service over the layers of `snapshotter` and the blobs of `containerd`.
    pub(crate) fn new(
        config: &Config,
        snapshotter: Arc<Snapshotter>,
        containerd: Containerd,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(Differ {
            snapshotter,
            containerd,
            containerd_root: config.containerd.root.clone(),
            metrics,
            gate: Gate::new(config.differ.parallel()),
            places: Places::new(&config.root, &config.state),
            share: match config.differ.share {
                Share::Never => layer::Share::Never,
                Share::Reflink => layer::Share::Reflink,
                Share::Link => layer::Share::Link,
            },
            trust: match config.containerd.trusted {
                true => layer::Trust::Store,
                false => layer::Trust::Nothing,
            },
            budget: config.differ.budget(),
            processors: config.processors(),
            sync: config.snapshotter.sync,
        }))
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
        let differ = Arc::clone(&self.0);
        let work = blocking(move |cancel| differ.apply(request, &scope, cancel));
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
        let differ = Arc::clone(&self.0);
        let work = blocking(move |cancel| differ.compare(request, &scope, start, cancel));
        let diff = timed(&self.0.metrics, "Diff", "Diff", &reference, work).await?;
        Ok(Response::new(api::DiffResponse { diff: Some(diff) }))
    }
}
