//! `erolith serve`: the daemon that containerd uses as a snapshotter and a differ. What snapshots, mounts and layers are
//! is in the libraries; here they meet gRPC, the configuration, the log and the service manager.

mod blocking;
pub(crate) mod calls;
pub(crate) mod config;
pub(crate) mod diff;
pub(crate) mod error;
pub(crate) mod log;
mod metrics;
mod notify;
pub(crate) mod registration;
mod release;
mod size;
pub(crate) mod snapshots;
pub(crate) mod socket;
#[cfg(test)]
mod tests;
pub(crate) mod word;

use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use erolith_differ::apply::Isolation;
use erolith_differ::sandbox::Worker;
use erolith_snapshotter::mounts::table;
use erolith_snapshotter::service::Snapshotter;
use erolith_snapshotter::store::{Filters, Kind};
use tokio::net::UnixListener;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tracing::{debug, info, warn};

use self::blocking::blocking;
use self::config::Config;
pub(crate) use self::error::Error;
use self::metrics::http::MetricsListener;
use self::metrics::{Counted, Metrics};
use self::notify::Signals;
use crate::causes::causes;
use crate::containerd::{self, Containerd};
use crate::proto;
use crate::proto::diff::diff_server::DiffServer;
use crate::proto::snapshots::snapshots_server::SnapshotsServer;

/// Threads that may block: as many requests can be worked on at the same time.
const MAX_BLOCKING: usize = 256;
/// Largest message, as containerd has it.
const MAX_MESSAGE: usize = 16 << 20;
/// How long requests may go on once we are asked to stop.
const GRACE: Duration = Duration::from_secs(6);
/// How long work that was cancelled may go on after that.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long short work without a waiting caller may go on at the end.
const END: Duration = Duration::from_secs(1);

/// How long between two counts of what is used of the disk.
const DISK_INTERVAL: Duration = Duration::from_secs(60);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the daemon cannot start, or its socket fails.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    log::start(&config.log)?;
    for (key, old, new) in config.retired() {
        warn!(key, "{old:?} is accepted in this release only: write {new:?}");
    }
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING)
        .thread_name("erolith")
        .build()
        .context("starting threads")?;
    let result = runtime.block_on(serve(config));
    // What does not end is left: everything is made to survive kill -9.
    runtime.shutdown_timeout(END);
    result
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let mut signals = Signals::catch().context("handling signals")?;
    // Holds the root first: of two daemons on one root the second touches no socket.
    let daemon = Daemon::open(config).await?;
    let socket = socket::listen(&config.address)?;
    let incoming = UnixListener::from_std(socket.listener.try_clone()?)?;
    let (health, health_service) = health_reporter();
    let router = daemon.router(&health).await.add_service(health_service);
    let metrics = MetricsListener::bind(&config.metrics.address).await?;
    let background = daemon.background(metrics);
    tokio::pin!(background);

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async {
        // Whichever end it is that goes.
        let _ = stopped.await;
    };
    let server = router.serve_with_incoming_shutdown(UnixListenerStream::new(incoming), stopped);
    tokio::pin!(server);
    notify::ready();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        root = %config.root.display(),
        address = %config.address.display(),
        profile = %config.snapshotter.profile,
        "serving"
    );
    let signal = tokio::select! {
        signal = signals.wait() => signal,
        never = &mut background => match never {},
        ended = &mut server => return ended.context("serving the socket"),
    };
    info!(signal, "stopping");
    notify::stopping();
    health.set_service_status("", ServingStatus::NotServing).await;
    let _ = stop.send(());
    let ended = tokio::time::timeout(GRACE, &mut server).await;
    if ended.is_err() {
        warn!("requests that still go on are called off");
    }
    daemon.diff.stop();
    let rest = async {
        // A connection that is silent keeps the server, too.
        if ended.is_err() {
            let _ = (&mut server).await;
        }
        daemon.diff.settled().await;
    };
    let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    ended.unwrap_or(Ok(())).context("serving the socket")
}

/// Where layers are read. Whether there can be a worker is found out now, and not by the first image.
async fn room(sandbox: bool) -> anyhow::Result<Isolation> {
    if !sandbox {
        return Ok(Isolation::Here);
    }
    let worker = Arc::new(Worker::this_program().with_spare());
    let probe = Arc::clone(&worker);
    let protection = blocking(move || Ok(probe.probe()?)).await;
    let context = "starting a worker; sandbox = false reads layers in this process";
    let protection = protection.context(context)?;
    debug!(%protection, "layers are read by workers");
    if !protection.is_complete() {
        info!(%protection, "the sandbox of workers is not all that it could be");
    }
    Ok(Isolation::Worker(worker))
}

/// What the services share.
#[derive(Debug, Clone)]
struct Daemon {
    snapshotter: Arc<Snapshotter>,
    metrics: Arc<Metrics>,
    diff: diff::Service,
    containerd: Containerd,
    board: Arc<diff::board::Board>,
    state: Arc<Path>,
    /// A caller has got mounts.
    handed_out: Arc<Notify>,
}

impl Daemon {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        let wanted = config.snapshotter();
        let open = blocking(move || Ok(Snapshotter::open(wanted)?));
        let context = || format!("opening {}", config.root.display());
        let snapshotter = Arc::new(open.await.with_context(context)?);
        let metrics = Arc::new(Metrics::new());
        let containerd = Containerd::at(&config.containerd.address)?;
        let room = room(config.differ.sandbox).await?;
        let (images, counted) = (Arc::clone(&snapshotter), Arc::clone(&metrics));
        let board = Arc::<diff::board::Board>::default();
        let (client, waited) = (containerd.clone(), Arc::clone(&board));
        let diff = diff::Service::new(config, images, client, counted, room, waited);
        Ok(Self {
            snapshotter,
            metrics,
            diff,
            containerd,
            board,
            state: config.state.as_path().into(),
            handed_out: Arc::default(),
        })
    }

    /// The services of containerd, healthy.
    async fn router(&self, health: &HealthReporter) -> Router {
        let snapshots = snapshots::Service::new(
            Arc::clone(&self.snapshotter),
            Arc::clone(&self.metrics),
            self.containerd.clone(),
            Arc::clone(&self.board),
            Arc::clone(&self.handed_out),
            self.diff.clone(),
        );
        let snapshots = SnapshotsServer::new(snapshots)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let diff = DiffServer::new(self.diff.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        health.set_serving::<SnapshotsServer<snapshots::Service>>().await;
        health.set_serving::<DiffServer<diff::Service>>().await;
        Server::builder().add_service(snapshots).add_service(diff)
    }

    /// What goes on beside the services; it does not end.
    fn background(
        &self,
        metrics: Option<MetricsListener>,
    ) -> impl Future<Output = Infallible> + use<> {
        let (well, measured, counted) = (self.clone(), self.clone(), self.clone());
        let whole = self.diff.clone().keep_whole();
        let is_measured = metrics.is_some();
        let release = release::run(Arc::clone(&self.snapshotter), Arc::clone(&self.handed_out));
        async move {
            let disk = async {
                if is_measured {
                    counted.count_disk().await;
                }
            };
            let watchdog = notify::watchdog(move || well.clone().answers());
            let metrics = async {
                if let Some(listener) = metrics {
                    listener.serve(move || measured.clone().text()).await;
                }
            };
            let (_, _, _, _, never) = tokio::join!(watchdog, metrics, disk, release, whole);
            match never {}
        }
    }

    /// Counts again and again what is used of the disk. Scrapes answer with the last count.
    async fn count_disk(self) {
        loop {
            let snapshotter = Arc::clone(&self.snapshotter);
            match blocking(move || Ok(snapshotter.disk_use()?)).await {
                Ok(used) => self.metrics.disk_used(used),
                Err(error) => {
                    warn!(error = causes(&error), "what is used of the disk cannot be counted")
                }
            }
            tokio::time::sleep(DISK_INTERVAL).await;
        }
    }

    /// Whether the database answers.
    async fn answers(self) -> bool {
        blocking(move || Ok(self.snapshotter.store().diff_id_of("")?)).await.is_ok()
    }

    /// The metrics, or nothing when something cannot be counted.
    async fn text(self) -> Option<String> {
        let text = blocking(move || {
            let counted = self.count()?;
            Ok(self.metrics.text(counted))
        });
        text.await
            .inspect_err(|error| warn!(error = causes(error), "metrics cannot be counted"))
            .ok()
    }

    fn count(&self) -> error::Result<Counted> {
        let mut counted = Counted::default();
        for info in self.snapshotter.list(&Filters::parse(&[])?)? {
            match info.kind {
                Kind::Active => counted.active += 1,
                Kind::View => counted.view += 1,
                Kind::Committed => counted.committed += 1,
            }
        }
        let mounts = table::below(&table::read()?, &self.state).count();
        let damaged = self.snapshotter.store().damaged()?.len();
        counted.quarantined = i64::try_from(damaged).unwrap_or(i64::MAX);
        counted.mounts = i64::try_from(mounts).unwrap_or(i64::MAX);
        Ok(counted)
    }
}
