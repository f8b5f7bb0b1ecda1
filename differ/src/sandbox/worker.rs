//! The side of the worker.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use erolith_mkfs::io::FileSink;
use erolith_mkfs::protect::ProtectOptions;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::enter::{confine, leave};
use super::limits::WorkerLimits;
use super::protection::Protection;
use super::socket;
use super::wire::{self, FileRange, JobInput, WireError, WorkerJob, WorkerMessage};
use crate::apply::{ParentImages, Task, check_image, convert};
use crate::content::{Blob, LocalBlob};
use crate::decode::{OnBytes, Request, WatchedReader};
use crate::sys::process::{Forked, fork_sibling};
use crate::sys::sandbox as sys;
use crate::{Error, Result};

/// Bytes between two messages about how far reading came.
const STEP: u64 = 4 << 20;

/// Is a worker: takes one order from the socket that is its standard input, and answers it. Before that it is a fork server
/// for as long as the daemon wants: it copies itself, and each copy is a worker. To be called before there are other threads,
/// by a program that has nothing else open.
///
/// # Errors
/// When the daemon cannot be heard or answered. What is wrong with a layer is part of the answer.
pub fn run() -> Result<()> {
    sys::close_from(3).map_err(Error::io("closing descriptors"))?;
    // Before there is a layer: it may wait for one like this.
    let left = leave();
    loop {
        let socket = rustix::stdio::stdin();
        let order = socket::receive(socket).map_err(Error::io("listening to the daemon"))?;
        let Some(message) = order else { return Ok(()) };
        let order: wire::WorkerOrder =
            wire::from_bytes(&message.bytes).map_err(Error::io("understanding the daemon"))?;
        if !order.is_understood() {
            let ended = "is of another version".to_owned();
            return say(socket, &WorkerMessage::Failed(WireError::Ended(ended)));
        }
        match order.job {
            // One that kept rights answers with the reason and ends; another one may do better.
            WorkerJob::Fork if left.is_ok() => fork(socket, message.fds)?,
            job => return answer(socket, left, job, message.fds),
        }
    }
}

/// Copies this process. The copy returns with its own socket as standard input, and does not have this one's any more.
fn fork(socket: BorrowedFd<'_>, fds: Vec<OwnedFd>) -> Result<()> {
    let theirs = fds.into_iter().next().ok_or(io::ErrorKind::InvalidInput);
    let forked = theirs.map_err(io::Error::from).and_then(|theirs| match fork_sibling()? {
        Forked::Child => {
            rustix::stdio::dup2_stdin(&theirs)?;
            // A copy does not inherit it.
            Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
        }
        Forked::Parent(pidfd) => {
            socket::send(socket, &wire::to_bytes(&WorkerMessage::Forked)?, &[pidfd.as_fd()])
        }
    });
    forked.map_err(Error::io("copying the process"))
}

/// Answers an order, inside the sandbox.
fn answer(
    socket: BorrowedFd<'_>,
    left: Result<Protection>,
    job: WorkerJob,
    fds: Vec<OwnedFd>,
) -> Result<()> {
    let answered = left.and_then(|protection| {
        confine(WorkerLimits::of(&job))?;
        say(socket, &WorkerMessage::Ready(protection))?;
        work(socket, job, fds)
    });
    match answered {
        Ok(None) => Ok(()),
        Ok(Some(said)) => say(socket, &said),
        Err(error) => say(socket, &WorkerMessage::Failed(error.into())),
    }
}

/// Does what is to be done, from inside the sandbox.
fn work(
    socket: BorrowedFd<'_>,
    job: WorkerJob,
    fds: Vec<OwnedFd>,
) -> Result<Option<WorkerMessage>> {
    let mut files = fds.into_iter().map(File::from);
    let mut file = || files.next().ok_or(io::ErrorKind::InvalidInput.into());
    let mut file = || file().map_err(Error::io("taking what the daemon sent"));
    match job {
        WorkerJob::Probe | WorkerJob::Fork => Ok(None),
        WorkerJob::Check(range) => {
            check_image(&blob(file()?, range))?;
            Ok(Some(WorkerMessage::Checked))
        }
        WorkerJob::Convert { task, source, request, wanted } => {
            let (from, image, scratch) = (file()?, file()?, file()?);
            let sink = FileSink::with_scratch(image, scratch);
            converted(socket, sink, *task, source, from, *request, wanted).map(Some)
        }
    }
}

fn converted(
    socket: BorrowedFd<'_>,
    sink: FileSink,
    task: Task,
    source: JobInput,
    from: File,
    request: Request,
    wanted: ProtectOptions,
) -> Result<WorkerMessage> {
    let read = Arc::new(AtomicU64::new(0));
    let (inner, told): (Box<dyn Read + Send>, OnBytes) = match source {
        JobInput::Stream => (Box::new(from), OnBytes::default()),
        JobInput::Stored(range) => {
            (Box::new(Blob::from(blob(from, range)).reader()), progress(Arc::clone(&read)))
        }
    };
    let blob = WatchedReader { inner, told };
    let outcome = convert(sink, blob, request, task, wanted, &RequestedParents(socket));
    let rest = read.swap(0, Ordering::Relaxed);
    if rest > 0 {
        say(socket, &WorkerMessage::Read(rest))?;
    }
    Ok(WorkerMessage::Converted(Box::new(outcome?)))
}

fn blob(file: File, range: FileRange) -> LocalBlob {
    LocalBlob::new(Arc::new(file), range.offset, range.size)
}

/// Tells the daemon now and then how much was read; `read` is what it was not told yet.
fn progress(read: Arc<AtomicU64>) -> OnBytes {
    OnBytes::new(move |bytes| {
        if read.fetch_add(bytes, Ordering::Relaxed) + bytes >= STEP {
            let bytes = read.swap(0, Ordering::Relaxed);
            // Who is not there any more does not want to know; the work ends for another reason.
            let _ = say(rustix::stdio::stdin(), &WorkerMessage::Read(bytes));
        }
    })
}

/// The layers below, asked for when they are needed.
struct RequestedParents<'a>(BorrowedFd<'a>);

impl ParentImages for RequestedParents<'_> {
    fn images(&self) -> Result<Vec<LocalBlob>> {
        say(self.0, &WorkerMessage::Lowers)?;
        let mut images = Vec::new();
        loop {
            let message = socket::receive(self.0).and_then(|message| {
                let message = message.ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok((wire::from_bytes::<wire::LowersReply>(&message.bytes)?, message.fds))
            });
            let (answer, fds) = message.map_err(Error::io("asking for the layers below"))?;
            let files = fds.into_iter().map(File::from);
            images.extend(files.zip(answer.images).map(|(file, range)| blob(file, range)));
            if answer.is_last {
                return Ok(images);
            }
        }
    }
}

/// Says something. One call, so that messages of several threads stay whole.
fn say(socket: BorrowedFd<'_>, said: &WorkerMessage) -> Result<()> {
    let bytes = wire::to_bytes(said).and_then(|bytes| match bytes.len() {
        0..=socket::MAX_BYTES => Ok(bytes),
        _ => Err(io::ErrorKind::InvalidData.into()),
    });
    let sent = bytes.and_then(|bytes| Ok(rustix::io::write(socket, &bytes)?));
    sent.map(drop).map_err(Error::io("answering the daemon"))
}
