//! The daemon, asked over its socket.

use std::path::Path;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::proto::snapshots::snapshots_client::SnapshotsClient;
use crate::proto::snapshots::{
    Info, Kind, ListSnapshotsRequest, MountsRequest, StatSnapshotRequest, UsageRequest,
    UsageResponse,
};
use crate::proto::types::Mount;

/// A connection, and the runtime it lives in.
pub(in crate::cli) struct Client {
    runtime: Runtime,
    snapshots: SnapshotsClient<Channel>,
}

/// Everything about one snapshot.
pub(in crate::cli) struct Details {
    pub(in crate::cli) info: Info,
    pub(in crate::cli) usage: UsageResponse,
    /// Of one that is not committed.
    pub(in crate::cli) mounts: Vec<Mount>,
}

impl Client {
    /// # Errors
    /// When no daemon answers at `address`.
    pub(in crate::cli) fn connect(address: &Path) -> anyhow::Result<Self> {
        let silent =
            || format!("{}: no daemon answers; `erolith serve` starts one", address.display());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", address.display()))?;
        let channel = runtime.block_on(endpoint.connect()).with_context(silent)?;
        Ok(Self { runtime, snapshots: SnapshotsClient::new(channel) })
    }

    /// Those that one of `filters` matches, or all.
    pub(in crate::cli) fn list(&mut self, filters: &[String]) -> anyhow::Result<Vec<Info>> {
        let request = ListSnapshotsRequest { filters: filters.to_vec(), ..Default::default() };
        let Self { runtime, snapshots } = self;
        runtime.block_on(async {
            let mut stream = snapshots.list(request).await.map_err(plain)?.into_inner();
            let mut infos = Vec::new();
            while let Some(part) = stream.message().await.map_err(plain)? {
                infos.extend(part.info);
            }
            Ok(infos)
        })
    }

    /// What one takes on disk.
    pub(in crate::cli) fn usage(&mut self, key: &str) -> anyhow::Result<UsageResponse> {
        let request = UsageRequest { key: key.to_owned(), ..Default::default() };
        let answer = self.runtime.block_on(self.snapshots.usage(request));
        Ok(answer.map_err(plain)?.into_inner())
    }

    /// Everything about one.
    pub(in crate::cli) fn details(&mut self, key: &str) -> anyhow::Result<Details> {
        let request = StatSnapshotRequest { key: key.to_owned(), ..Default::default() };
        let answer = self.runtime.block_on(self.snapshots.stat(request)).map_err(plain)?;
        let info = answer.into_inner().info.context("the daemon answered nothing")?;
        let mut mounts = Vec::new();
        if info.kind() != Kind::Committed {
            let request = MountsRequest { key: key.to_owned(), ..Default::default() };
            let answer = self.runtime.block_on(self.snapshots.mounts(request)).map_err(plain)?;
            mounts = answer.into_inner().mounts;
        }
        Ok(Details { info, usage: self.usage(key)?, mounts })
    }
}

/// What the daemon said, without the words of gRPC around it.
fn plain(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
