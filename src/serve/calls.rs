//! What every call has: it is measured and logged, its error gets a code, and its mounts are converted.

use std::future::Future;

use erolith_snapshotter::api_mounts::Mount;
use tonic::{Code, Status};
use tracing::{debug, info};

use super::error::{Error, Result};
use super::metrics::Metrics;
use crate::proto::types;

/// Waits for `work`, measures and logs it, and puts its error into gRPC's words.
pub(crate) async fn timed<T>(
    metrics: &Metrics,
    service: &'static str,
    method: &'static str,
    key: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T, Status> {
    let call = metrics.call(service, method);
    let result = work.await;
    let code = result.as_ref().map_or_else(Error::code, |_| Code::Ok);
    let took = call.answered(code);
    match result {
        Ok(value) => {
            debug!(service, method, key, ?took, "done");
            Ok(value)
        }
        Err(error) => {
            let status = Status::from(error);
            let error = status.message();
            match code {
                Code::Internal | Code::DataLoss | Code::ResourceExhausted => {
                    tracing::error!(service, method, key, ?code, error, "failed");
                }
                // The ordinary course of things: who asks wants to know just that.
                Code::NotFound | Code::AlreadyExists => {
                    debug!(service, method, key, ?code, error, "refused");
                }
                _ => info!(service, method, key, ?code, error, "refused"),
            }
            Err(status)
        }
    }
}

/// Mounts as containerd reads them.
pub(crate) fn to_mounts(mounts: Vec<Mount>) -> Vec<types::Mount> {
    let mounts = mounts.into_iter().map(|mount| types::Mount {
        r#type: mount.fs_type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    });
    mounts.collect()
}

/// Mounts as containerd sends them.
pub(crate) fn from_mounts(mounts: Vec<types::Mount>) -> Vec<Mount> {
    let mounts = mounts.into_iter().map(|mount| Mount {
        fs_type: mount.r#type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    });
    mounts.collect()
}
