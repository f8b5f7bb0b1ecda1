//! The services over a socket, in this process, with a containerd that is played.

mod beside;
mod diff;
mod fake;
mod keep;
mod metrics;
mod snapshots;
mod staging;
mod verity;

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use self::fake::{Fake, Known};
use super::config::Config;
use super::*;
use crate::proto::content::content_server::ContentServer;
use crate::proto::diff::diff_client::DiffClient;
use crate::proto::leases::leases_server::LeasesServer;
use crate::proto::snapshots as api;
use crate::proto::snapshots::snapshots_client::SnapshotsClient;
use crate::proto::types::Mount;
use crate::proto::version::version_server::VersionServer;

/// A daemon, and the containerd that it talks to.
struct Node {
    dir: tempfile::TempDir,
    channel: Channel,
    containerd: Arc<Fake>,
    daemon: Daemon,
    servers: Vec<JoinHandle<()>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

async fn connect(path: &Path) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
    endpoint.connect().await.unwrap()
}

impl Node {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// One whose configuration is changed.
    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in("/var/tmp")
            .unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut config = Config {
            root: at("root"),
            state: at("state"),
            address: at("erolith.sock"),
            ..Config::default()
        };
        config.containerd.address = at("containerd.sock");
        config.containerd.root = at("containerd");
        // This program is no worker.
        config.differ.sandbox = false;
        change(&mut config);
        let containerd = Arc::new(Fake::default());
        let mut servers = vec![serve_fake(&config.containerd.address, &containerd)];
        let daemon = Daemon::open(&config).await.unwrap();
        let (health, health_service) = health_reporter();
        let router = daemon.router(&health).await.add_service(health_service);
        let socket = socket::listen(&config.address).unwrap();
        let incoming = UnixListener::from_std(socket.listener.try_clone().unwrap()).unwrap();
        servers.push(tokio::spawn(async move {
            let _socket = socket;
            router.serve_with_incoming(UnixListenerStream::new(incoming)).await.unwrap();
        }));
        let channel = connect(&config.address).await;
        Self { dir, channel, containerd, daemon, servers }
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    fn diff(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }

    /// A new active snapshot without a parent.
    async fn prepare(&self, key: &str) -> Vec<Mount> {
        let request = api::PrepareSnapshotRequest { key: key.into(), ..Default::default() };
        self.snapshots().prepare(request).await.unwrap().into_inner().mounts
    }

    async fn stat(&self, key: &str) -> Result<api::Info, tonic::Status> {
        let request = api::StatSnapshotRequest { key: key.into(), ..Default::default() };
        let answer = self.snapshots().stat(request).await?;
        Ok(answer.into_inner().info.unwrap())
    }
}

fn serve_fake(address: &Path, fake: &Arc<Fake>) -> JoinHandle<()> {
    let listener = UnixListener::bind(address).unwrap();
    let server = Server::builder()
        .add_service(ContentServer::from_arc(Arc::clone(fake)))
        .add_service(LeasesServer::from_arc(Arc::clone(fake)))
        .add_service(VersionServer::from_arc(Arc::clone(fake)))
        .add_service(SnapshotsServer::new(Known(Arc::clone(fake))));
    tokio::spawn(async move {
        server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
    })
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The directory of the snapshot whose one mount this is.
fn layer_dir(mounts: &[Mount]) -> PathBuf {
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    assert_eq!(mounts[0].r#type, "bind");
    Path::new(&mounts[0].source).parent().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_are_healthy() {
    let node = Node::start().await;
    let mut client = HealthClient::new(node.channel.clone());
    for service in
        ["", "containerd.services.snapshots.v1.Snapshots", "containerd.services.diff.v1.Diff"]
    {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(status.as_str_name(), "SERVING", "{service}");
    }
}
