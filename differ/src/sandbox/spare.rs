//! A worker that waits before there is a layer for it, so that an image of many small layers does not wait for each of
//! them to start.
//!
//! It has given up its rights already (`enter::leave`) and knows of no layer. It reads one and ends, as any other: what a
//! layer makes of its worker never meets the next layer.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::process::Process;

/// How long one waits. The layers of an image follow each other faster, and then there is none until the next image.
const IDLE: Duration = Duration::from_secs(10);

type Slot = Arc<Mutex<Option<Process>>>;

/// At most one worker that waits.
#[derive(Debug, Default)]
pub(super) struct Spare {
    slot: Slot,
    /// To the thread that starts workers. It lives as long as this does: a worker is tied to the thread that started it.
    starter: Mutex<Option<SyncSender<()>>>,
}

impl Spare {
    /// The worker that waits, if one does and it has not died; the next one is started while it works.
    pub(super) fn take(&self, program: &Path, args: &[OsString]) -> Option<Process> {
        let ready = lock(&self.slot).take();
        let mut starter = lock(&self.starter);
        if starter.is_none() {
            *starter = start(Arc::clone(&self.slot), program.to_owned(), args.to_vec());
        }
        if let Some(starter) = &*starter {
            // Full: it has been told already.
            let _ = starter.try_send(());
        }
        ready.and_then(|mut process| process.is_alive().then_some(process))
    }
}

/// Starts the thread. Without one there are no workers that wait, and nothing else is different.
fn start(slot: Slot, program: PathBuf, args: Vec<OsString>) -> Option<SyncSender<()>> {
    let (starter, asked) = sync_channel(1);
    let work = move || keep(&slot, &asked, &program, &args);
    let thread = thread::Builder::new().name("worker-starter".into()).spawn(work);
    thread.is_ok().then_some(starter)
}

/// Starts a worker each time that this is asked for. One for which no layer came in time ends.
fn keep(slot: &Slot, asked: &Receiver<()>, program: &Path, args: &[OsString]) {
    loop {
        match asked.recv_timeout(IDLE) {
            Ok(()) if lock(slot).is_some() => {}
            // The next layer starts one itself, and returns what goes wrong then.
            Ok(()) => {
                let started = Process::start(program, args).ok();
                *lock(slot) = started;
            }
            Err(RecvTimeoutError::Timeout) => drop(lock(slot).take()),
            Err(RecvTimeoutError::Disconnected) => return drop(lock(slot).take()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn waits_for(slot: &Slot) -> u32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(process) = &*lock(slot) {
                return process.id();
            }
            assert!(Instant::now() < deadline, "no worker was started");
            thread::yield_now();
        }
    }

    #[test]
    fn the_next_worker_waits_and_is_another_one() {
        // It waits for something to read, as a worker does.
        let (program, args) = (PathBuf::from("/bin/cat"), Vec::new());
        let spare = Spare::default();
        assert!(spare.take(&program, &args).is_none(), "none was asked for before");
        let first = waits_for(&spare.slot);
        let taken = spare.take(&program, &args).unwrap();
        assert_eq!(taken.id(), first);
        assert_ne!(waits_for(&spare.slot), first);
        drop(taken);
        assert!(!Path::new(&format!("/proc/{first}")).exists());
    }

    #[test]
    fn one_that_has_died_is_passed_over() {
        let (program, args) = (PathBuf::from("/bin/cat"), Vec::new());
        let spare = Spare::default();
        assert!(spare.take(&program, &args).is_none());
        let first = waits_for(&spare.slot);
        let pid = rustix::process::Pid::from_raw(first.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        // A zombie until it is reaped.
        let stat = format!("/proc/{first}/stat");
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            thread::yield_now();
        }
        assert!(spare.take(&program, &args).is_none());
    }

    #[test]
    fn none_is_left_when_its_owner_goes() {
        let (program, args) = (PathBuf::from("/bin/cat"), Vec::new());
        let spare = Spare::default();
        assert!(spare.take(&program, &args).is_none());
        let first = waits_for(&spare.slot);
        drop(spare);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Path::new(&format!("/proc/{first}")).exists() {
            assert!(Instant::now() < deadline, "it is still there");
            thread::yield_now();
        }
    }
}
