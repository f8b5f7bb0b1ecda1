//! Snapshots as containerd's clients call them, and differences between them.

use std::time::Duration;

use erolith_differ::decode::Cancel;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Containerd, Error, Result, Scope};
use crate::proto::diff::DiffRequest;
use crate::proto::diff::diff_client::DiffClient;
use crate::proto::snapshots::snapshots_client::SnapshotsClient;
use crate::proto::snapshots::{
    Info, MountsRequest, RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use crate::proto::types::{Descriptor, Mount};

/// How often long work checks whether it is cancelled.
const GLANCE: Duration = Duration::from_millis(50);

/// The snapshots of one of containerd's snapshotters.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    containerd: Containerd,
    snapshotter: String,
}

impl Snapshots {
    /// What containerd's configuration calls the snapshotter.
    pub(crate) fn snapshotter(&self) -> &str {
        &self.snapshotter
    }
}

impl Containerd {
    /// The snapshots of the snapshotter that containerd's configuration calls so.
    pub(crate) fn snapshots(&self, snapshotter: &str) -> Snapshots {
        Snapshots { containerd: self.clone(), snapshotter: snapshotter.to_owned() }
    }

    /// Makes a layer of what the mounts on the right have and those on the left have not. Takes as long as it takes.
    ///
    /// # Errors
    /// When containerd cannot, with [`Code::Cancelled`] when it is cancelled.
    pub(crate) fn diff(
        &self,
        scope: &Scope,
        request: DiffRequest,
        cancel: &Cancel,
    ) -> Result<Descriptor> {
        let mut client = DiffClient::new(self.channel.clone());
        let called_off = async {
            while cancel.check().is_ok() {
                tokio::time::sleep(GLANCE).await;
            }
            Err(Status::cancelled("called off"))
        };
        let request = scope.request(request);
        let answer = self.runtime.block_on(async {
            tokio::select! {
                answer = client.diff(request) => answer,
                called_off = called_off => called_off,
            }
        });
        let failed = || Error::answer("making a layer of the changes");
        let nothing = || failed()(Status::internal("it describes none"));
        answer.map_err(failed())?.into_inner().diff.ok_or_else(nothing)
    }
}

impl Snapshots {
    fn client(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.containerd.channel.clone())
            .max_decoding_message_size(super::MAX_MESSAGE)
    }

    /// What is known of a snapshot, or `None` where there is none of that key.
    ///
    /// # Errors
    /// When containerd does not say.
    pub(crate) fn stat(&self, scope: &Scope, key: &str) -> Result<Option<Info>> {
        let snapshotter = self.snapshotter.clone();
        let request = StatSnapshotRequest { snapshotter, key: key.to_owned() };
        match self.containerd.wait(self.client().stat(scope.request(request))) {
            Ok(answer) => Ok(Some(answer.into_inner().info.unwrap_or_default())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(Error::answer(format!("finding snapshot {key:?}"))(status)),
        }
    }

    /// The mounts of an active snapshot.
    ///
    /// # Errors
    /// When containerd has none.
    pub(crate) fn mounts(&self, scope: &Scope, key: &str) -> Result<Vec<Mount>> {
        let snapshotter = self.snapshotter.clone();
        let request = MountsRequest { snapshotter, key: key.to_owned() };
        let answer = self.containerd.wait(self.client().mounts(scope.request(request)));
        let answer = answer.map_err(Error::answer(format!("asking for mounts of {key:?}")));
        Ok(answer?.into_inner().mounts)
    }

    /// Makes a view of the committed snapshot `parent`, or of nothing when that is empty. Returns its mounts.
    ///
    /// # Errors
    /// When containerd makes none.
    pub(crate) fn view(&self, scope: &Scope, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let request = ViewSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..ViewSnapshotRequest::default()
        };
        let answer = self.containerd.wait(self.client().view(scope.request(request)));
        let answer = answer.map_err(Error::answer(format!("making a view of {parent:?}")));
        Ok(answer?.into_inner().mounts)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// When containerd cannot.
    pub(crate) fn remove(&self, scope: &Scope, key: &str) -> Result<()> {
        let snapshotter = self.snapshotter.clone();
        let request = RemoveSnapshotRequest { snapshotter, key: key.to_owned() };
        let removed = self.containerd.wait(self.client().remove(scope.request(request)));
        removed.map(drop).map_err(Error::answer(format!("removing snapshot {key:?}")))
    }
}
