//! Layers with mapped owners are unmounted once the overlays over them are there, without a request that asks for it.

use std::sync::Arc;
use std::time::Duration;

use erolith_snapshotter::service::Snapshotter;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::blocking::blocking;
use crate::causes::causes;

/// How long a caller has, from the answer to its mount, before another overlay over the same snapshot counts as its own.
const IDLE: Duration = Duration::from_secs(3);
/// The first pause while mounts are waited for, and the longest: each is twice the one before it.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);

/// Releases what an earlier daemon handed out, and then what is handed out. It does not end.
pub(super) async fn run(snapshotter: Arc<Snapshotter>, handed_out: Arc<Notify>) {
    let mut pause = FIRST;
    loop {
        let service = Arc::clone(&snapshotter);
        let left = blocking(move || Ok(service.release_mapped(IDLE)?)).await;
        let left = left.unwrap_or_else(|error| {
            warn!(error = causes(&error), "mapped layers stay mounted for now");
            1
        });
        if left == 0 {
            handed_out.notified().await;
        } else if timeout(pause, handed_out.notified()).await.is_err() {
            pause = (pause * 2).min(LAST);
            continue;
        }
        // Whatever was handed out since: there is nothing to release yet.
        pause = FIRST;
        sleep(FIRST).await;
    }
}
