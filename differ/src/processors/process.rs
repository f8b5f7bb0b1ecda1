//! Runs the user's stream processors as processes: each reads what the one before it writes.

use std::fmt;
use std::io::{self, PipeWriter, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::{Payloads, Processor, ProcessorInput, ProcessorStep, feed};
use crate::decode::{Cancel, CancelWatch};
use crate::error::ProcessError;
use crate::sys::process::{self, Program};
use crate::{Error, Result};

/// How much of what a processor says on its standard error is kept: the end says what went wrong.
const SAID: usize = 4096;

/// The variable that names the media type of what a processor gets.
const MEDIA_TYPE: &str = "STREAM_PROCESSOR_MEDIATYPE";

/// What comes out of the last of several processors. Its end is an end only if the blob was what it had to be and every
/// processor succeeded; else it is an error. Dropping it kills them.
pub(crate) struct Processed {
    out: ChildStdout,
    running: Vec<RunningProcessor>,
    feeder: Option<JoinHandle<Result<()>>>,
    /// Calls off the feeder, and kills.
    cancel: Cancel,
    /// For those who do not read.
    _watch: CancelWatch,
}

impl fmt::Debug for Processed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processed").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

impl Processed {
    /// Starts the processors of `steps`, at least one, and gives them `input`.
    ///
    /// # Errors
    /// [`crate::error::ProcessError::Processor`] when one cannot be started.
    pub(crate) fn start(
        steps: &[ProcessorStep<'_>],
        payloads: &Payloads,
        input: ProcessorInput,
    ) -> Result<Self> {
        // A part, so that dropping this ends what belongs to it.
        let cancel = input.cancel.part();
        let mut running: Vec<RunningProcessor> = Vec::new();
        let mut out = None;
        let mut stdin = None;
        for step in steps {
            let payload = payloads.get(&step.processor.id);
            let from = out.take().map_or_else(Stdio::piped, Stdio::from);
            let mut child = start(*step, payload, from)?;
            stdin = stdin.or(child.stdin.take());
            out = child.stdout.take();
            let stderr = child.stderr.take();
            let mut one = RunningProcessor::new(*step, child)?;
            one.said = stderr.map(listen).transpose()?;
            running.push(one);
        }
        let (Some(out), Some(stdin)) = (out, stdin) else {
            return Err(Error::Process(ProcessError::ThreadDied { stage: "processor" }));
        };
        let groups: Vec<_> = running.iter().map(|one| Arc::clone(&one.group)).collect();
        let watch = cancel.on_cancel(move || groups.iter().for_each(|group| group.kill()));
        let input = ProcessorInput { cancel: cancel.clone(), ..input };
        let feeder = spawn("feed", move || feed::feed(input, stdin))?;
        Ok(Self { out, running, feeder: Some(feeder), cancel, _watch: watch })
    }

    /// What there is to say once nothing more comes out.
    fn finish(&mut self) -> Result<()> {
        let fed = self.feeder.take().map(|feeder| {
            feeder.join().map_err(|_| Error::Process(ProcessError::ThreadDied { stage: "feed" }))?
        });
        let ended: Vec<_> = self.running.drain(..).map(|mut one| one.end()).collect();
        // A cancelled apply has killed them, and a wrong blob makes them fail: neither is their fault.
        self.cancel.check()?;
        fed.unwrap_or(Ok(()))?;
        let mut failed: Vec<ProcessorEnd> =
            ended.into_iter().filter(|ended| !ended.succeeded()).collect();
        // One whose reader went away failed as a consequence.
        let at = failed.iter().position(|ended| !ended.is_consequence()).unwrap_or(0);
        if failed.is_empty() { Ok(()) } else { Err(failed.swap_remove(at).error) }
    }
}

impl Read for Processed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.out.read(buf)?;
        if n == 0 && !buf.is_empty() {
            self.finish().map_err(io::Error::other)?;
        }
        Ok(n)
    }
}

impl Drop for Processed {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let failed = Error::io(format!("starting a {name} thread"));
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed)
}

/// What messages call it.
fn name(processor: &Processor) -> String {
    format!("{:?} ({})", processor.id, processor.path.display())
}

fn start(step: ProcessorStep<'_>, payload: Option<&Vec<u8>>, stdin: Stdio) -> Result<Child> {
    let Processor { path, args, env, .. } = step.processor;
    let no_pipe = || Error::io("making a pipe for a payload");
    let pipe = payload.map(|_| io::pipe()).transpose().map_err(no_pipe())?;
    let (read, write): (Option<OwnedFd>, Option<PipeWriter>) =
        pipe.map_or((None, None), |(read, write)| (Some(read.into()), Some(write)));
    let set = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    let mut env: Vec<_> = env.iter().map(set).collect();
    env.push((MEDIA_TYPE.to_owned(), step.takes.to_owned()));
    let child = process::start(&Program { path, args, env: &env }, stdin, read).map_err(|e| {
        Error::Process(ProcessError::Processor {
            processor: name(step.processor),
            media_type: step.takes.to_owned(),
            reason: format!("it cannot be started: {e}"),
        })
    })?;
    if let (Some(mut write), Some(payload)) = (write, payload.cloned()) {
        // It may end without having read it.
        spawn("payload", move || drop(write.write_all(&payload)))?;
    }
    Ok(child)
}

/// The end of what a processor says on its standard error, when it has said it.
fn listen(mut stderr: ChildStderr) -> Result<JoinHandle<String>> {
    spawn("stderr", move || {
        let (mut said, mut buf) = (Vec::new(), [0; SAID]);
        while let Ok(n @ 1..) = stderr.read(&mut buf) {
            said.extend_from_slice(buf.get(..n).unwrap_or_default());
            let surplus = said.len().saturating_sub(SAID);
            said.drain(..surplus);
        }
        String::from_utf8_lossy(&said).trim().to_owned()
    })
}

/// A processor at work.
struct RunningProcessor {
    group: Arc<Group>,
    said: Option<JoinHandle<String>>,
    /// For messages.
    name: String,
    /// The media type of what it gets.
    takes: String,
}

/// A processor that has ended.
struct ProcessorEnd {
    status: Option<ExitStatus>,
    error: Error,
}

impl RunningProcessor {
    fn new(step: ProcessorStep<'_>, child: Child) -> Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(Error::Process(ProcessError::ThreadDied { stage: "processor" }))?;
        let group = Arc::new(Group { pid, child: Mutex::new(Some(child)) });
        let (name, takes) = (name(step.processor), step.takes.to_owned());
        Ok(Self { group, said: None, name, takes })
    }

    /// Waits for its end.
    fn end(&mut self) -> ProcessorEnd {
        let status = self.group.reap();
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        let how = status.map_or_else(|| "it is gone".to_owned(), |status| status.to_string());
        let reason = if said.is_empty() { how } else { format!("{how}: {said}") };
        let (processor, media_type) = (self.name.clone(), self.takes.clone());
        ProcessorEnd {
            status,
            error: Error::Process(ProcessError::Processor { processor, media_type, reason }),
        }
    }
}

impl Drop for RunningProcessor {
    fn drop(&mut self) {
        self.group.kill();
        self.group.reap();
    }
}

impl ProcessorEnd {
    fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    fn is_consequence(&self) -> bool {
        let signal = self.status.and_then(|status| status.signal());
        signal == Some(Signal::PIPE.as_raw())
    }
}

/// A process and what it started. Its number stays its own until it is reaped, which is why both take the lock.
struct Group {
    pid: Pid,
    child: Mutex<Option<Child>>,
}

impl Group {
    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self) {
        if self.child().is_some() {
            // It may have ended.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Waits for the end of the process, and sees to it that nothing of it goes on.
    fn reap(&self) -> Option<ExitStatus> {
        if self.child().is_none() {
            return None;
        }
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(self.pid), ended), Err(Errno::INTR)) {}
        let mut child = self.child();
        let _ = kill_process_group(self.pid, Signal::KILL);
        child.take().and_then(|mut child| child.wait().ok())
    }
}
