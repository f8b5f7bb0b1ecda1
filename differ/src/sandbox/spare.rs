//! Workers for layers that follow each other, so that an image of many small layers does not wait for each of them to
//! start: a fork server, and one copy of it that waits for the next layer.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::fork_server::ForkServer;
use super::process::Process;

/// How long both wait. The layers of an image follow each other faster, and then there is neither until the next image.
const IDLE: Duration = Duration::from_secs(10);

/// What waits.
#[derive(Debug, Default)]
struct SpareWorkers {
    server: Option<ForkServer>,
    next: Option<Process>,
}

impl SpareWorkers {
    /// A copy of the server. One that does not answer is given up.
    fn fork(&mut self) -> Option<Process> {
        let process = self.server.as_ref()?.fork().ok();
        if process.is_none() {
            self.server = None;
        }
        process
    }
}

type SpareSlot = Arc<Mutex<SpareWorkers>>;

/// At most one server, and at most one worker that waits.
#[derive(Debug, Default)]
pub(super) struct Spare {
    slot: SpareSlot,
    /// To the thread that starts them. It lives as long as this does: they are tied to the thread that started them.
    starter: Mutex<Option<SyncSender<()>>>,
}

impl Spare {
    /// The worker that waits, or a new copy; none before the server is there. The next one is made while it works.
    pub(super) fn take(&self, program: &Path, args: &[OsString]) -> Option<Process> {
        let process = {
            let mut waiting = lock(&self.slot);
            let next = waiting.next.take().filter(Process::is_alive);
            next.or_else(|| waiting.fork())
        };
        let mut starter = lock(&self.starter);
        if starter.is_none() {
            *starter = start(Arc::clone(&self.slot), program.to_owned(), args.to_vec());
        }
        if let Some(starter) = &*starter {
            // Full: it has been asked already.
            let _ = starter.try_send(());
        }
        process
    }
}

/// Starts the thread. Without one there are no workers that wait, and nothing else is different.
fn start(slot: SpareSlot, program: PathBuf, args: Vec<OsString>) -> Option<SyncSender<()>> {
    let (starter, asked) = sync_channel(1);
    let work = move || keep(&slot, &asked, &program, &args);
    let thread = thread::Builder::new().name("worker-starter".into()).spawn(work);
    thread.is_ok().then_some(starter)
}

/// Makes a worker each time that this is asked for. A worker that gets no layer in time ends, and the server with it.
fn keep(slot: &SpareSlot, asked: &Receiver<()>, program: &Path, args: &[OsString]) {
    loop {
        match asked.recv_timeout(IDLE) {
            Ok(()) => refill(slot, program, args),
            Err(RecvTimeoutError::Timeout) => empty(slot),
            Err(RecvTimeoutError::Disconnected) => return empty(slot),
        }
    }
}

fn refill(slot: &SpareSlot, program: &Path, args: &[OsString]) {
    if lock(slot).server.is_none() {
        // Not under the lock, which layers take. The next layer starts a worker itself, and returns what goes wrong then.
        let server = ForkServer::start(program, args).ok();
        lock(slot).server = server;
    }
    let mut waiting = lock(slot);
    if waiting.next.is_none() {
        waiting.next = waiting.fork();
    }
}

fn empty(slot: &SpareSlot) {
    let waiting = std::mem::take(&mut *lock(slot));
    drop(waiting);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sandbox::Worker;
    use crate::sandbox::tests::worker;

    /// Waits until there is a spare worker; returns its number.
    fn waits_for(spare: &Spare) -> u32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(process) = &lock(&spare.slot).next {
                return process.id();
            }
            assert!(Instant::now() < deadline, "no worker was started");
            thread::yield_now();
        }
    }

    fn begin(mark: &str) -> (Spare, Worker, u32) {
        let (spare, worker) = (Spare::default(), worker(mark));
        assert!(take(&spare, &worker).is_none(), "none was asked for before");
        let first = waits_for(&spare);
        (spare, worker, first)
    }

    fn take(spare: &Spare, worker: &Worker) -> Option<Process> {
        spare.take(&worker.program, &worker.args)
    }

    fn wait_for_end(id: u32) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Path::new(&format!("/proc/{id}")).exists() {
            assert!(Instant::now() < deadline, "it is still there");
            thread::yield_now();
        }
    }

    #[test]
    fn the_next_worker_waits_and_is_another_one() {
        let (spare, worker, first) = begin("the_next_worker_waits");
        let taken = take(&spare, &worker).unwrap();
        assert_eq!(taken.id(), first);
        assert_ne!(waits_for(&spare), first);
        drop(taken);
        assert!(!Path::new(&format!("/proc/{first}")).exists());
    }

    #[test]
    fn several_at_a_time_are_copies() {
        let (spare, worker, first) = begin("several_at_a_time");
        let taken = [(); 4].map(|()| take(&spare, &worker).unwrap().id());
        assert_eq!(taken[0], first);
    }

    #[test]
    fn one_that_has_died_is_passed_over() {
        let (spare, worker, first) = begin("one_that_has_died");
        let pid = rustix::process::Pid::from_raw(first.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        // A zombie until it is reaped.
        let stat = format!("/proc/{first}/stat");
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            thread::yield_now();
        }
        assert_ne!(take(&spare, &worker).unwrap().id(), first);
    }

    #[test]
    fn a_server_that_has_died_is_started_again() {
        let (spare, worker, first) = begin("a_server_that_has_died");
        *lock(&spare.slot) = SpareWorkers {
            server: Some(ForkServer::start(Path::new("/bin/true"), &[]).unwrap()),
            next: None,
        };
        wait_for_end(first);
        assert!(take(&spare, &worker).is_none(), "by a server that has ended");
        waits_for(&spare);
    }

    #[test]
    fn none_is_left_when_its_owner_goes() {
        let (spare, _, first) = begin("none_is_left");
        drop(spare);
        wait_for_end(first);
    }
}
