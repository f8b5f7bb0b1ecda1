//! containerd's Snapshots service over [`Snapshotter`].
//!
//! The name of the snapshotter in each request is whatever containerd's configuration calls this plugin; it is not
//! looked at.

use std::collections::BTreeSet;
use std::sync::Arc;

use erolith_differ::Digest;
use erolith_snapshotter::IntegrityError;
use erolith_snapshotter::api_mounts::Mount;
use erolith_snapshotter::service::{
    DIFF_ID_LABEL, PARENT_CHAIN_LABEL, REF_LABEL, Snapshotter, Staging,
};
use erolith_snapshotter::store::{Filters, Info, Kind, Labels, Timestamp, UpdateMask};
use tokio::sync::Notify;
use tokio_stream::Iter;
use tonic::{Request, Response, Status};
use tracing::debug;

use super::blocking::blocking;
use super::calls::{timed, to_mounts};
use super::diff;
use super::diff::board::Board;
use super::error::{Error, Result};
use super::metrics::Metrics;
use crate::containerd::Version;
use crate::containerd::labels::UNCOMPRESSED;
use crate::containerd::{Containerd, Scope};
use crate::proto::snapshots::snapshots_server::Snapshots;
use crate::proto::snapshots::{self as api};

/// The first containerd that takes a snapshot with read-only mounts for one that has its layer (`isStaged` in core/unpack).
/// 2.3 sends the same labels, and fetches and applies all the same.
const STAGED: Version = Version { major: 2, minor: 4 };
/// The first containerd whose unpacker says which chain is below a layer.
const CHAINED: Version = Version { major: 2, minor: 3 };
/// Infos in one message of a list, as containerd sends them.
const BATCH: usize = 100;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    snapshotter: Arc<Snapshotter>,
    metrics: Arc<Metrics>,
    containerd: Containerd,
    board: Arc<Board>,
    /// Mounts were handed out.
    handed_out: Arc<Notify>,
    /// Rebuilds damaged layers.
    diff: diff::Service,
}

impl Service {
    /// The service over `snapshotter`, whose damaged layers `diff` rebuilds, and which notifies `handed_out` when a caller
    /// has got mounts.
    pub(crate) fn new(
        snapshotter: Arc<Snapshotter>,
        metrics: Arc<Metrics>,
        containerd: Containerd,
        board: Arc<Board>,
        handed_out: Arc<Notify>,
        diff: diff::Service,
    ) -> Self {
        Self { snapshotter, metrics, containerd, board, handed_out, diff }
    }

    /// As [`Self::call`], for what others may wait for.
    async fn change<T: Send + 'static>(
        &self,
        method: &'static str,
        key: &str,
        work: impl FnOnce(&Snapshotter) -> erolith_snapshotter::Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let changed = self.call(method, key, work).await;
        self.board.changed();
        changed
    }

    /// Answers a call of `method` about `key` with what `work` gives.
    async fn call<T: Send + 'static>(
        &self,
        method: &'static str,
        key: &str,
        work: impl FnOnce(&Snapshotter) -> erolith_snapshotter::Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let snapshotter = Arc::clone(&self.snapshotter);
        let work = blocking(move || Ok(work(&snapshotter)?));
        timed(&self.metrics, "Snapshots", method, key, work).await
    }

    /// As [`Self::call`], for calls that need layers: those that turn out to be damaged are rebuilt, each at most once.
    async fn call_on_layers<T: Send + 'static>(
        &self,
        method: &'static str,
        key: &str,
        work: impl Fn(&Snapshotter) -> erolith_snapshotter::Result<T>
        + Send
        + std::marker::Sync
        + 'static,
    ) -> Result<T, Status> {
        timed(&self.metrics, "Snapshots", method, key, self.on_layers(work)).await
    }

    /// Does `work`, and does it again once a damaged layer is rebuilt that it failed at.
    async fn on_layers<T: Send + 'static>(
        &self,
        work: impl Fn(&Snapshotter) -> erolith_snapshotter::Result<T>
        + Send
        + std::marker::Sync
        + 'static,
    ) -> Result<T> {
        let work = Arc::new(work);
        let mut rebuilt = BTreeSet::new();
        loop {
            let (snapshotter, work) = (Arc::clone(&self.snapshotter), Arc::clone(&work));
            let error = match blocking(move || Ok(work(&snapshotter)?)).await {
                Err(Error::Snapshotter(error)) => error,
                other => return other,
            };
            let erolith_snapshotter::Error::Integrity(IntegrityError::Damaged { id, .. }) = error
            else {
                return Err(error.into());
            };
            if !rebuilt.insert(id) || self.diff.heal(id).await != diff::Outcome::Whole {
                return Err(error.into());
            }
        }
    }

    /// What is known of `key`. A damaged layer is rebuilt first: containerd asks this before it gives up a pull.
    async fn find(&self, key: String) -> Result<Info> {
        // One row, read without waiting: on this thread.
        let error = match self.snapshotter.stat(&key) {
            Ok(info) => return Ok(info),
            Err(error) => error,
        };
        let damaged = self.snapshotter.store().damaged_below(&key)?;
        let Some(&topmost) = damaged.last() else { return Err(error.into()) };
        match self.diff.heal(topmost).await {
            diff::Outcome::Whole => Ok(self.snapshotter.stat(&key)?),
            _ => Err(error.into()),
        }
    }

    /// The mounts of `key`. Waking a thread that may block would take longer than finding that all is mounted.
    async fn find_mounts(&self, key: String) -> Result<Vec<Mount>> {
        // An error comes again, from where a damaged layer is rebuilt.
        if let Ok(Some(mounts)) = self.snapshotter.standing_mounts(&key) {
            return Ok(mounts);
        }
        let mounts = self.on_layers(move |snapshotter| snapshotter.mounts(&key)).await;
        self.handed_out.notify_one();
        mounts
    }
}

/// What containerd says of the namespace of a call. It is asked only where it decides.
struct Namespace {
    containerd: Containerd,
    scope: Scope,
}

impl Staging for Namespace {
    fn is_known(&self) -> bool {
        self.containerd.version().is_some_and(|version| version >= STAGED)
    }

    fn has_blob(&self, blob: &str, diff_id: &str) -> bool {
        let Ok(digest) = blob.parse() else { return false };
        match self.containerd.info(&self.scope, &digest) {
            Ok(info) => info.is_some_and(|info| {
                info.labels.get(UNCOMPRESSED).is_some_and(|label| label == diff_id)
            }),
            Err(error) => {
                debug!(%error, blob, "containerd does not say whether it has a blob");
                false
            }
        }
    }
}

/// The labels without a chain below that is not the one below. From 2.3 on containerd's unpacker says chain, diffID and the
/// chain below (core/unpack); before, the last can only be an annotation of the image.
fn without_false_chain(mut labels: Labels, version: impl Fn() -> Option<Version>) -> Labels {
    let get = |label: &str| labels.get(label).map(String::as_str);
    let (Some(chain), Some(below)) = (get(REF_LABEL), get(PARENT_CHAIN_LABEL)) else {
        return labels;
    };
    let is_below = match get(DIFF_ID_LABEL) {
        // `identity.ChainID` of the image specification.
        Some(diff_id) => Digest::of(format!("{below} {diff_id}").as_bytes()).to_string() == chain,
        None => version().is_none_or(|version| version >= CHAINED),
    };
    if !is_below {
        debug!(chain, below, "a label names a chain below that is none");
        labels.remove(PARENT_CHAIN_LABEL);
    }
    labels
}

fn to_kind(kind: Kind) -> api::Kind {
    match kind {
        Kind::View => api::Kind::View,
        Kind::Active => api::Kind::Active,
        Kind::Committed => api::Kind::Committed,
    }
}

fn to_timestamp(time: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.nanos).unwrap_or_default();
    prost_types::Timestamp { seconds: time.seconds, nanos }
}

fn to_info(info: Info) -> api::Info {
    api::Info {
        name: info.name,
        parent: info.parent,
        kind: to_kind(info.kind).into(),
        created_at: Some(to_timestamp(info.created)),
        updated_at: Some(to_timestamp(info.updated)),
        labels: info.labels,
    }
}

fn to_mask(mask: Option<prost_types::FieldMask>) -> UpdateMask {
    mask.map_or(UpdateMask::All, |mask| UpdateMask::Paths(mask.paths))
}

/// A list in messages of at most [`BATCH`]; an empty one has none.
fn batches(infos: Vec<Info>) -> Vec<Result<api::ListSnapshotsResponse, Status>> {
    let mut rest = infos.into_iter().map(to_info).peekable();
    let mut out = Vec::new();
    while rest.peek().is_some() {
        let info = rest.by_ref().take(BATCH).collect();
        out.push(Ok(api::ListSnapshotsResponse { info }));
    }
    out
}

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        let staging =
            Namespace { containerd: self.containerd.clone(), scope: Scope::of(request.metadata()) };
        let api::PrepareSnapshotRequest { snapshotter, key, parent, labels } = request.into_inner();
        self.board.called(&snapshotter);
        let name = key.clone();
        let prepare = move |s: &Snapshotter| {
            let version = || staging.containerd.version();
            let labels = without_false_chain(labels.clone(), version);
            s.prepare_staged(&key, &parent, &labels, &staging)
        };
        let mounts = self.call_on_layers("Prepare", &name, prepare).await;
        self.board.changed();
        let mounts = mounts?;
        self.handed_out.notify_one();
        Ok(Response::new(api::PrepareSnapshotResponse { mounts: to_mounts(mounts) }))
    }

    async fn view(
        &self,
        request: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        let api::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let name = key.clone();
        let view = move |s: &Snapshotter| s.view(&key, &parent, &labels);
        let mounts = self.call_on_layers("View", &name, view).await?;
        self.handed_out.notify_one();
        Ok(Response::new(api::ViewSnapshotResponse { mounts: to_mounts(mounts) }))
    }

    async fn mounts(
        &self,
        request: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        let key = request.into_inner().key;
        let name = key.clone();
        let mounts = self.find_mounts(key);
        let mounts = timed(&self.metrics, "Snapshots", "Mounts", &name, mounts).await?;
        Ok(Response::new(api::MountsResponse { mounts: to_mounts(mounts) }))
    }

    async fn commit(
        &self,
        request: Request<api::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let api::CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        let shown = key.clone();
        let commit = move |s: &Snapshotter| s.commit(&name, &key, &parent, &labels);
        self.change("Commit", &shown, commit).await.map(Response::new)
    }

    async fn remove(
        &self,
        request: Request<api::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        let name = key.clone();
        self.change("Remove", &name, move |s| s.remove(&key)).await.map(Response::new)
    }

    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let name = key.clone();
        let info = timed(&self.metrics, "Snapshots", "Stat", &name, self.find(key)).await?;
        Ok(Response::new(api::StatSnapshotResponse { info: Some(to_info(info)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        let api::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let missing = || Status::invalid_argument("an update without a snapshot");
        let api::Info { name, labels, .. } = info.ok_or_else(missing)?;
        let (mask, shown) = (to_mask(update_mask), name.clone());
        let update = move |s: &Snapshotter| s.update(&name, &labels, &mask);
        let info = self.call("Update", &shown, update).await?;
        Ok(Response::new(api::UpdateSnapshotResponse { info: Some(to_info(info)) }))
    }

    type ListStream = Iter<std::vec::IntoIter<Result<api::ListSnapshotsResponse, Status>>>;

    /// The list is taken before the first message is sent, so the reader may make other calls while it reads.
    async fn list(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let list = move |s: &Snapshotter| s.list(&Filters::parse(&filters)?).map(batches);
        let batches = self.call("List", "", list).await?;
        Ok(Response::new(tokio_stream::iter(batches)))
    }

    async fn usage(
        &self,
        request: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        let key = request.into_inner().key;
        let name = key.clone();
        let usage = self.call("Usage", &name, move |s| s.usage(&key)).await?;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let (size, inodes) = (number(usage.size), number(usage.inodes));
        Ok(Response::new(api::UsageResponse { size, inodes }))
    }

    async fn cleanup(
        &self,
        _request: Request<api::CleanupRequest>,
    ) -> Result<Response<()>, Status> {
        self.call("Cleanup", "", Snapshotter::cleanup).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str) -> Info {
        let time = Timestamp { seconds: 7, nanos: 999_999_999 };
        Info {
            name: name.into(),
            parent: "p".into(),
            kind: Kind::Committed,
            created: time,
            updated: time,
            labels: [("a".to_owned(), "b".to_owned())].into(),
        }
    }

    #[test]
    fn a_chain_below_must_be_the_one_below() {
        let version = |minor| move || Some(Version { major: 2, minor });
        let chain = Digest::of(b"p d").to_string();
        let of = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let (end, below) = ((REF_LABEL, chain.as_str()), (PARENT_CHAIN_LABEL, "p"));
        for (pairs, minor, stays) in [
            (&[end, (DIFF_ID_LABEL, "d"), below][..], 3, true),
            (&[end, (DIFF_ID_LABEL, "x"), below], 3, false),
            (&[end, (DIFF_ID_LABEL, chain.as_str()), below], 3, false),
            (&[end, below], 3, true),
            (&[end, below], 2, false),
            (&[below], 2, true),
        ] {
            let left = without_false_chain(of(pairs), version(minor));
            assert_eq!(left.contains_key(PARENT_CHAIN_LABEL), stays, "{pairs:?}");
        }
    }

    #[test]
    fn mounts_keep_every_field_both_ways() {
        let mount = Mount {
            fs_type: "overlay".into(),
            source: "overlay".into(),
            target: "t".into(),
            options: vec!["ro".into(), "lowerdir=/a:/b".into()],
        };
        let there = to_mounts(vec![mount.clone()]);
        assert_eq!((there[0].r#type.as_str(), there[0].target.as_str()), ("overlay", "t"));
        let back = crate::serve::calls::from_mounts(there);
        assert_eq!(format!("{back:?}"), format!("{:?}", vec![mount]));
    }

    #[test]
    fn infos_keep_nanoseconds_and_labels() {
        let info = to_info(info("n"));
        assert_eq!(info.kind(), api::Kind::Committed);
        let time = info.created_at.unwrap();
        assert_eq!((time.seconds, time.nanos), (7, 999_999_999));
        assert_eq!(info.labels["a"], "b");
    }

    #[test]
    fn lists_go_out_in_batches() {
        for (count, want) in [(0, vec![]), (1, vec![1]), (100, vec![100]), (201, vec![100, 100, 1])]
        {
            let infos = (0..count).map(|n| info(&n.to_string())).collect();
            let sizes: Vec<_> =
                batches(infos).into_iter().map(|batch| batch.unwrap().info.len()).collect();
            assert_eq!(sizes, want);
        }
    }
}
