//! Work that blocks, away from the threads that serve connections.

use erolith_differ::decode::Cancel;
use tracing::Span;

use super::error::{Error, Result};

/// Runs `work`, which is short, on a thread that may block. It completes, also when the caller goes away.
///
/// # Errors
/// Those of `work`, and [`Error::WorkerDied`] when it panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    cancellable(&Cancel::default(), |_| work()).await
}

/// Runs `work`, which may be long, on a thread that may block. When the caller goes away, the future is dropped and the
/// flag that `work` got is set; so it is with `whole`. `work` then ends as soon as it looks at the flag.
///
/// # Errors
/// Those of `work`, and [`Error::WorkerDied`] when it panicked.
pub(crate) async fn cancellable<T: Send + 'static>(
    whole: &Cancel,
    work: impl FnOnce(&Cancel) -> Result<T> + Send + 'static,
) -> Result<T> {
    let cancel = whole.part();
    let _guard = CancelOnDrop(cancel.clone());
    let span = Span::current();
    let worker = tokio::task::spawn_blocking(move || span.in_scope(|| work(&cancel)));
    worker.await.unwrap_or(Err(Error::WorkerDied))
}

/// Sets the flag in any case: after the work is done it is not read.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Work that ends when it is cancelled, and a receiver that gets a message when it has.
    fn endless() -> (impl FnOnce(&Cancel) -> Result<()> + Send + 'static, mpsc::Receiver<()>) {
        let (told, was_told) = mpsc::channel();
        let work = move |cancel: &Cancel| {
            while cancel.check().is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
            told.send(()).unwrap();
            Ok(cancel.check()?)
        };
        (work, was_told)
    }

    #[tokio::test]
    async fn work_is_told_when_nobody_waits_for_it() {
        let (work, was_told) = endless();
        let whole = Cancel::default();
        let work = cancellable(&whole, work);
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        let told =
            tokio::task::spawn_blocking(move || was_told.recv_timeout(Duration::from_secs(9)));
        told.await.unwrap().unwrap();
        assert!(whole.check().is_ok());
    }

    #[tokio::test]
    async fn all_work_can_be_called_off() {
        let (work, _was_told) = endless();
        let whole = Cancel::default();
        let (ended, ()) = tokio::join!(cancellable(&whole, work), async { whole.cancel() });
        assert_eq!(ended.unwrap_err().code(), tonic::Code::Cancelled);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_this_request_alone() {
        let result: Result<()> = blocking(|| panic!("on purpose")).await;
        assert!(matches!(result, Err(Error::WorkerDied)));
        assert_eq!(blocking(|| Ok(7)).await.unwrap(), 7);
    }
}
