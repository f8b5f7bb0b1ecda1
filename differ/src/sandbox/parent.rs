//! The side of the daemon.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use erolith_durable::scratch;
use erolith_mkfs::io::ReadAt as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::process::Process;
use super::protection::Protection;
use super::pump::{self, PumpEnd};
use super::wire::{self, FileRange, JobInput, LowersReply, WorkerJob, WorkerMessage, WorkerOrder};
use super::{Worker, socket};
use crate::apply::{LayerInput, LayerJob, LayerJobResult, ParentImages};
use crate::content::{LocalBlob, Staging};
use crate::decode::{Cancel, OnBytes, WatchedReader};
use crate::error::{BudgetError, ProcessError};
use crate::{Error, Result};

/// How much longer than it may take a worker is waited for: it looks at the clock itself.
const GRACE: Duration = Duration::from_secs(5);
/// How long a worker that has nothing to do may take.
const PROBE: Duration = Duration::from_secs(20);

impl Worker {
    /// Starts a worker that reads nothing. Returns what protects the system from workers.
    ///
    /// # Errors
    /// When there is no sandbox here: [`Error::Io`] with the step that failed, or [`crate::error::ProcessError::WorkerDied`].
    pub fn probe(&self) -> Result<Protection> {
        let cancel = Cancel::default();
        Talk::begin(self, &cancel, Some(PROBE), WorkerJob::Probe, &[])?.until_ready()
    }

    /// Has a layer converted into the file of `staging`.
    ///
    /// # Errors
    /// As the work itself, and [`crate::error::ProcessError::WorkerDied`].
    pub(crate) fn convert<S: Staging>(
        &self,
        staging: &S,
        job: LayerJob,
        lowers: &dyn ParentImages,
    ) -> Result<LayerJobResult> {
        let LayerJob { task, source, told, request, wanted } = job;
        let cancel = request.cancel.clone();
        cancel.check()?;
        let scratch = scratch(staging.scratch_dir()?).map_err(std::io::Error::from);
        let scratch = scratch.map_err(Error::io("creating a scratch file"))?;
        let limit = request.budget.max_time;
        let (task, request) = (Box::new(task), Box::new(request));
        let order = |source| WorkerJob::Convert { task, source, request, wanted };
        let rest = [staging.file().as_fd(), scratch.as_fd()];
        match &source {
            LayerInput::Stored(blob) if let Some(blob) = blob.local() => {
                let work = order(JobInput::Stored(range(blob)));
                let fds = [blob.file().as_fd(), rest[0], rest[1]];
                Talk::begin(self, &cancel, limit, work, &fds)?.converted(&told, lowers)
            }
            // What is no local file is read here.
            _ => {
                let inner = source.into_reader();
                let (pipe, ended) = pump::start(Box::new(WatchedReader { inner, told }))?;
                let fds = [pipe.as_fd(), rest[0], rest[1]];
                let talk = Talk::begin(self, &cancel, limit, order(JobInput::Stream), &fds)?;
                // The worker's shall be the only one, so that the thread sees when that is gone.
                drop(pipe);
                fed(talk.converted(&OnBytes::default(), lowers), &ended)
            }
        }
    }

    /// Has an image checked.
    ///
    /// # Errors
    /// As the check itself, and [`crate::error::ProcessError::WorkerDied`].
    pub(crate) fn check(&self, image: &LocalBlob, cancel: &Cancel) -> Result<()> {
        cancel.check()?;
        let fds = [image.file().as_fd()];
        let mut talk = Talk::begin(self, cancel, None, WorkerJob::Check(range(image)), &fds)?;
        talk.until_ready()?;
        match talk.next()? {
            WorkerMessage::Checked => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

fn range(blob: &LocalBlob) -> FileRange {
    FileRange { offset: blob.offset(), size: blob.size() }
}

/// The result of a layer whose bytes came from a thread: that thread knows best why they ended.
fn fed(outcome: Result<LayerJobResult>, ended: &PumpEnd) -> Result<LayerJobResult> {
    if matches!(outcome, Err(Error::Cancelled)) {
        return outcome;
    }
    if let Some(error) = ended.failure() {
        return Err(error);
    }
    if outcome.is_ok() && !ended.is_complete() {
        let ended = "answered before it had read its layer".to_owned();
        return Err(Error::Process(ProcessError::WorkerDied { ended }));
    }
    outcome
}

/// A conversation with a worker.
struct Talk<'a> {
    process: Process,
    cancel: &'a Cancel,
    /// When its time is over, and how much it had.
    limit: Option<(Instant, Duration)>,
}

impl<'a> Talk<'a> {
    /// Starts a worker and gives it an order, with these files.
    fn begin(
        worker: &Worker,
        cancel: &'a Cancel,
        limit: Option<Duration>,
        job: WorkerJob,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Self> {
        let limit = limit.and_then(|limit| {
            let end = Instant::now().checked_add(limit)?.checked_add(GRACE)?;
            Some((end, limit))
        });
        let spare = worker.spare.as_ref().filter(|_| !matches!(job, WorkerJob::Probe));
        let waiting = spare.and_then(|spare| spare.take(&worker.program, &worker.args));
        let process = match waiting {
            Some(process) => process,
            None => Process::start(&worker.program, &worker.args)?,
        };
        let talk = Self { process, cancel, limit };
        let order =
            wire::to_bytes(&WorkerOrder::new(job)).map_err(Error::io("writing an order"))?;
        match socket::send(talk.process.socket(), &order, fds) {
            Ok(()) => Ok(talk),
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(talk.died()),
            Err(e) => Err(Error::io("giving a worker its order")(e)),
        }
    }

    /// What protects the system, said before anything was read.
    fn until_ready(&mut self) -> Result<Protection> {
        match self.next()? {
            WorkerMessage::Ready(protection) => Ok(protection),
            other => Err(unexpected(other)),
        }
    }

    fn converted(mut self, told: &OnBytes, lowers: &dyn ParentImages) -> Result<LayerJobResult> {
        self.until_ready()?;
        loop {
            match self.next()? {
                WorkerMessage::Read(bytes) => told.tell(bytes),
                WorkerMessage::Lowers => {
                    let asked = Instant::now();
                    let images = lowers.images()?;
                    // The layers below may be in the making: that is not the worker's time.
                    self.extend(asked.elapsed());
                    self.answer(&images)?;
                }
                // Before anything else happens to the file, the worker has ended: see `Process`.
                WorkerMessage::Converted(converted) => return Ok(*converted),
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Gives the worker more time.
    fn extend(&mut self, by: Duration) {
        if let Some((end, _)) = &mut self.limit {
            *end = end.checked_add(by).unwrap_or(*end);
        }
    }

    /// Sends the images of the layers below, as many at a time as a message can have.
    fn answer(&mut self, images: &[LocalBlob]) -> Result<()> {
        let mut rest = images;
        loop {
            let (now, later) = rest.split_at(rest.len().min(socket::MAX_FDS));
            rest = later;
            let (images, is_last) = (now.iter().map(range).collect(), rest.is_empty());
            let answer = wire::to_bytes(&LowersReply { images, is_last });
            let answer = answer.map_err(Error::io("writing an answer"))?;
            let fds: Vec<_> = now.iter().map(|blob| blob.file().as_fd()).collect();
            match socket::send(self.process.socket(), &answer, &fds) {
                Ok(()) if is_last => return Ok(()),
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Err(self.died()),
                Err(e) => return Err(Error::io("answering a worker")(e)),
            }
        }
    }

    /// The next message.
    fn next(&mut self) -> Result<WorkerMessage> {
        let watch = self.process.ends_with(self.cancel);
        self.wait()?;
        let message = socket::receive(self.process.socket());
        drop(watch);
        match message.map_err(Error::io("listening to a worker"))? {
            Some(message) => {
                let said = wire::from_bytes(&message.bytes);
                said.map_err(Error::io("understanding a worker"))
            }
            None => Err(self.died()),
        }
    }

    /// Waits until there is something to receive.
    fn wait(&self) -> Result<()> {
        loop {
            let left = match self.limit {
                None => None,
                Some((end, limit)) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::Budget(BudgetError::Time { seconds: limit.as_secs() }));
                    }
                    Timespec::try_from(left).ok()
                }
            };
            let mut fds = [PollFd::from_borrowed_fd(self.process.socket(), PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                Ok(1) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("waiting for a worker")(e.into())),
            }
        }
    }

    /// Why there is no answer.
    fn died(&self) -> Error {
        match self.cancel.check() {
            Err(cancelled) => cancelled,
            Ok(()) => {
                Error::Process(ProcessError::WorkerDied { ended: self.process.how_it_ended() })
            }
        }
    }
}

/// A failure, or what a worker does not say at this point.
fn unexpected(said: WorkerMessage) -> Error {
    match said {
        WorkerMessage::Failed(fault) => fault.into(),
        _ => Error::Process(ProcessError::WorkerDied {
            ended: "said what it should not have said".to_owned(),
        }),
    }
}
