//! Writing behind the caller's back: a thread of its own writes one buffer while the next is filled.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use erolith_verity::background_hash::Followed;

/// Buffers on their way besides the one being filled.
const IN_FLIGHT: usize = 2;

type Job = (Vec<u8>, u64);

/// A file with a thread that writes it. Regions may arrive in any order and must not overlap.
#[derive(Debug)]
pub(crate) struct WriteBehind {
    file: Followed,
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    jobs: SyncSender<Job>,
    done: Receiver<io::Result<Vec<u8>>>,
    /// Jobs whose outcome is not known yet.
    pending: usize,
    thread: JoinHandle<()>,
}

impl WriteBehind {
    /// Takes the file. Where no thread can be had, writes are done by the caller.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub(crate) fn new(file: impl Into<Followed>) -> io::Result<Self> {
        let file = file.into();
        let written = file.try_clone()?;
        let (jobs, todo) = sync_channel::<Job>(IN_FLIGHT);
        let (report, done) = sync_channel(IN_FLIGHT);
        let work = move || {
            for (mut data, offset) in todo {
                let outcome = written.write(&data, offset);
                data.clear();
                if report.send(outcome.map(|()| data)).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("write-behind".into()).spawn(work);
        let worker = thread.ok().map(|thread| Worker { jobs, done, pending: 0, thread });
        Ok(Self { file, worker })
    }

    /// The file, of which nothing is certain until [`WriteBehind::settle`].
    pub(crate) fn file(&self) -> &File {
        self.file.file()
    }

    /// Writes all of `data` at `offset`, now or soon. Returns an empty buffer.
    ///
    /// # Errors
    /// What the storage reports, of this write or of one before it.
    pub(crate) fn write(&mut self, mut data: Vec<u8>, offset: u64) -> io::Result<Vec<u8>> {
        let Some(worker) = &mut self.worker else {
            self.file.write(&data, offset)?;
            data.clear();
            return Ok(data);
        };
        let size = data.capacity();
        let free = if worker.pending == IN_FLIGHT { Some(worker.wait()?) } else { None };
        worker.pending += 1;
        worker.jobs.send((data, offset)).map_err(|_| gone())?;
        Ok(free.unwrap_or_else(|| Vec::with_capacity(size)))
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// What the storage reports.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        while let Some(worker) = self.worker.as_mut().filter(|worker| worker.pending > 0) {
            worker.wait()?;
        }
        Ok(())
    }
}

impl Worker {
    fn wait(&mut self) -> io::Result<Vec<u8>> {
        self.pending -= 1;
        self.done.recv().map_err(|_| gone())?
    }
}

impl Drop for WriteBehind {
    /// Nothing is written any more once this returns.
    fn drop(&mut self) {
        if let Some(Worker { jobs, done, thread, .. }) = self.worker.take() {
            drop((jobs, done));
            // It does nothing that could panic, and no caller is left to return it to.
            let _ = thread.join();
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the writing thread is gone")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_written_behind_is_there_once_settled() {
        let mut behind = WriteBehind::new(tempfile::tempfile().unwrap()).unwrap();
        let mut buf = Vec::new();
        for i in 0..40_u8 {
            buf.extend_from_slice(&[i; 1000]);
            buf = behind.write(buf, u64::from(39 - i) * 1000).unwrap();
            assert!(buf.is_empty());
        }
        behind.settle().unwrap();
        for i in 0..40_u8 {
            let mut got = [0; 1000];
            behind.file().read_exact_at(&mut got, u64::from(39 - i) * 1000).unwrap();
            assert_eq!(got, [i; 1000]);
        }
    }

    #[test]
    fn an_error_is_told_by_a_later_call_and_by_nothing_after_it() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut behind = WriteBehind::new(full).unwrap();
        let told = behind.write(vec![1], 0).and_then(|_| behind.settle()).unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::StorageFull);
        behind.settle().unwrap();
    }
}
