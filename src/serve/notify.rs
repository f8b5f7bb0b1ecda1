//! What the service manager is told (sd_notify(3)), and when it asks us to stop.

use std::future::Future;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, warn};

/// Requests are answered from now on.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// No more requests are taken.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager could not be told");
    }
}

/// Tells the watchdog of the service manager, where there is one, that we are well, each time that `is_well` says so
/// within a third of the time it gives us. A daemon that hangs is restarted then.
pub(crate) async fn watchdog<F: Future<Output = bool>>(is_well: impl Fn() -> F) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let period = (limit / 3).max(Duration::from_millis(1));
    let mut ticks = tokio::time::interval(period);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(period, is_well()).await {
            Ok(true) => tell(&[NotifyState::Watchdog]),
            _ => warn!("the database did not answer in time: the watchdog is not told"),
        }
    }
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    ///
    /// # Errors
    /// When no handler can be set.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them and names it.
    pub(crate) async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
