//! The disk works while a layer is still being converted.
//!
//! The kernel keeps what is written in memory for seconds, and would write all of it when the file is synced, while
//! the caller waits.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::sys::writeback;

/// How often writeback is requested. Less often, and more is left for the end; more often, and pages that are not full
/// yet are written twice.
const INTERVAL: Duration = Duration::from_millis(100);

/// Has a growing file written to its disk as long as this lives.
#[derive(Debug)]
pub(crate) struct Flusher {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Begins. Where that cannot be, nothing is lost but time.
    pub(crate) fn start(file: &File) -> Self {
        let (stop, stopped) = channel::<()>();
        let thread = file.try_clone().and_then(|file| {
            let work = move || {
                while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    if writeback::start(file.as_fd()).is_err() {
                        break;
                    }
                }
            };
            thread::Builder::new().name("flusher".into()).spawn(work)
        });
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Flusher {
    /// Its descriptor is closed once this returns.
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does nothing that could panic, and no caller is left to return it to.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Dirty pages of the file are on their way soon, and the thread ends with its owner.
    #[test]
    fn a_file_is_written_back_meanwhile() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = File::create_new(dir.path().join("file")).unwrap();
        let flusher = Flusher::start(&file);
        file.write_all_at(&[7; 1 << 20], 0).unwrap();
        // Delayed allocation: a file has blocks once its pages were written back.
        let blocks = || std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while blocks() < 2048 && std::time::Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(blocks() >= 2048);
        drop(flusher);
        writeback::start(std::io::pipe().unwrap().1.as_fd()).unwrap_err();
    }
}
