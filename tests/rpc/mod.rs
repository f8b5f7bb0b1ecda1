//! A client of the daemon's services, and what a caller does with the mounts that it gets.
//!
//! Calls block. Those that concern many at the same time have an asynchronous client of their own: [`Client::channel`].
#![allow(dead_code, reason = "not every test calls everything")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use self::diff::diff_client::DiffClient;
use self::snapshots::snapshots_client::SnapshotsClient;
pub(crate) use self::types::{Descriptor, Mount};

#[allow(unreachable_pub, missing_docs, missing_debug_implementations, clippy::too_many_lines)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/containerd.rs"));
}

pub(crate) use generated::containerd::services::diff::v1 as diff;
pub(crate) use generated::containerd::services::snapshots::v1 as snapshots;
pub(crate) use generated::containerd::types;

/// The name that containerd's configuration gives the snapshotter.
const NAME: &str = "erolith";

/// Answer of a call.
pub(crate) type Answer<T> = Result<T, Status>;

/// A connection.
pub(crate) struct Client {
    runtime: Runtime,
    channel: Channel,
}

/// Labels from pairs.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        Self { runtime, channel }
    }

    pub(crate) fn channel(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    /// Waits for what callers do at the same time.
    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn prepare(&self, key: &str, parent: &str) -> Answer<Vec<Mount>> {
        self.prepare_with(key, parent, &[])
    }

    pub(crate) fn prepare_with(
        &self,
        key: &str,
        parent: &str,
        with: &[(&str, &str)],
    ) -> Answer<Vec<Mount>> {
        let request = snapshots::PrepareSnapshotRequest {
            snapshotter: NAME.into(),
            key: key.into(),
            parent: parent.into(),
            labels: labels(with),
        };
        let answer = self.wait(self.channel().prepare(request));
        answer.map(|answer| answer.into_inner().mounts)
    }

    pub(crate) fn view(&self, key: &str, parent: &str) -> Answer<Vec<Mount>> {
        let request = snapshots::ViewSnapshotRequest {
            snapshotter: NAME.into(),
            key: key.into(),
            parent: parent.into(),
            labels: BTreeMap::new(),
        };
        let answer = self.wait(self.channel().view(request));
        answer.map(|answer| answer.into_inner().mounts)
    }

    pub(crate) fn mounts(&self, key: &str) -> Answer<Vec<Mount>> {
        let request = snapshots::MountsRequest { snapshotter: NAME.into(), key: key.into() };
        let answer = self.wait(self.channel().mounts(request));
        answer.map(|answer| answer.into_inner().mounts)
    }

    pub(crate) fn commit(&self, name: &str, key: &str) -> Answer<()> {
        self.commit_onto(name, key, "")
    }

    /// Commits with a parent that Prepare did not know.
    pub(crate) fn commit_onto(&self, name: &str, key: &str, parent: &str) -> Answer<()> {
        let request = snapshots::CommitSnapshotRequest {
            snapshotter: NAME.into(),
            name: name.into(),
            key: key.into(),
            labels: BTreeMap::new(),
            parent: parent.into(),
        };
        self.wait(self.channel().commit(request)).map(|_| ())
    }

    pub(crate) fn remove(&self, key: &str) -> Answer<()> {
        let request =
            snapshots::RemoveSnapshotRequest { snapshotter: NAME.into(), key: key.into() };
        self.wait(self.channel().remove(request)).map(|_| ())
    }

    pub(crate) fn cleanup(&self) -> Answer<()> {
        let request = snapshots::CleanupRequest { snapshotter: NAME.into() };
        self.wait(self.channel().cleanup(request)).map(|_| ())
    }

    pub(crate) fn stat(&self, key: &str) -> Answer<snapshots::Info> {
        let request = snapshots::StatSnapshotRequest { snapshotter: NAME.into(), key: key.into() };
        let answer = self.wait(self.channel().stat(request))?;
        answer.into_inner().info.ok_or_else(|| Status::internal("no info"))
    }

    pub(crate) fn usage(&self, key: &str) -> Answer<(i64, i64)> {
        let request = snapshots::UsageRequest { snapshotter: NAME.into(), key: key.into() };
        let answer = self.wait(self.channel().usage(request))?.into_inner();
        Ok((answer.size, answer.inodes))
    }

    pub(crate) fn list(&self, filters: &[&str]) -> Answer<Vec<snapshots::Info>> {
        let request = snapshots::ListSnapshotsRequest {
            snapshotter: NAME.into(),
            filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        };
        self.wait(async {
            let mut stream = self.channel().list(request).await?.into_inner();
            let mut out = Vec::new();
            while let Some(batch) = stream.message().await? {
                out.extend(batch.info);
            }
            Ok(out)
        })
    }

    pub(crate) fn apply(&self, layer: &Descriptor, mounts: &[Mount]) -> Answer<Descriptor> {
        self.apply_with(layer, mounts, BTreeMap::default())
    }

    /// With what stream processors get.
    pub(crate) fn apply_with(
        &self,
        layer: &Descriptor,
        mounts: &[Mount],
        payloads: BTreeMap<String, prost_types::Any>,
    ) -> Answer<Descriptor> {
        let request = diff::ApplyRequest {
            diff: Some(layer.clone()),
            mounts: mounts.to_vec(),
            payloads,
            sync_fs: false,
        };
        let mut client = DiffClient::new(self.channel.clone());
        let answer = self.wait(client.apply(request))?;
        answer.into_inner().applied.ok_or_else(|| Status::internal("nothing applied"))
    }

    /// Removes every snapshot, leaves first, and what they leave.
    pub(crate) fn empty(&self) -> Answer<()> {
        loop {
            let all = self.list(&[])?;
            if all.is_empty() {
                return self.cleanup();
            }
            for info in &all {
                if !all.iter().any(|other| other.parent == info.name) {
                    self.remove(&info.name)?;
                }
            }
        }
    }
}

/// Whether an error has this code.
pub(crate) fn is<T>(answer: &Answer<T>, code: Code) -> bool {
    answer.as_ref().err().is_some_and(|status| status.code() == code)
}

/// Bytes of the options of a list of mounts.
pub(crate) fn option_bytes(mounts: &[Mount]) -> usize {
    mounts.iter().map(|mount| mount.options.join(",").len()).max().unwrap_or(0)
}

/// Mounts what a snapshotter gave at `target`, which is made when it is not there.
pub(crate) fn attach(mounts: &[Mount], target: &Path) -> Result<(), String> {
    fs::create_dir_all(target).map_err(|e| e.to_string())?;
    let [mount] = mounts else { return Err(format!("not one mount: {mounts:?}")) };
    let mut command = Command::new("mount");
    match mount.r#type.as_str() {
        "bind" => command.args(["-o", &mount.options.join(",")]),
        kind => command.args(["-t", kind, "-o", &mount.options.join(",")]),
    };
    let out = command.arg(&mount.source).arg(target).output().map_err(|e| e.to_string())?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{mount:?}: {}", String::from_utf8_lossy(&out.stderr).trim()))
}

/// Takes a mount away again.
pub(crate) fn detach(target: &Path) {
    let out = Command::new("umount").arg(target).output().unwrap();
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{message}");
}
