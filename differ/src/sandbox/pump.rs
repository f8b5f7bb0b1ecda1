//! The thread that gives a worker the bytes of a stream.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::error::ProcessError;
use crate::{Error, Result};

/// Bytes given at a time.
const PIECE: usize = 256 << 10;
/// Bytes of the pipe, where that is allowed.
const PIPE: usize = 1 << 20;

/// How a stream ended, known before the worker can see that it did.
#[derive(Debug, Clone, Default)]
pub(super) struct PumpEnd(Arc<Mutex<Option<Result<()>>>>);

impl PumpEnd {
    fn lock(&self) -> MutexGuard<'_, Option<Result<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why reading failed, if it did. What a worker says of the bytes is a consequence then.
    pub(super) fn failure(&self) -> Option<Error> {
        let mut ended = self.lock();
        match ended.take() {
            Some(Err(error)) => Some(error),
            other => {
                *ended = other;
                None
            }
        }
    }

    /// Whether the stream was read to its end.
    pub(super) fn is_complete(&self) -> bool {
        matches!(*self.lock(), Some(Ok(())))
    }
}

/// Starts reading `source`. Returns the end of the pipe to read from. The thread ends with the source, or when it has
/// bytes to write and the other end of the pipe is closed.
///
/// # Errors
/// What the system says.
pub(super) fn start(source: Box<dyn Read + Send>) -> Result<(OwnedFd, PumpEnd)> {
    let pipe = pipe_with(PipeFlags::CLOEXEC);
    let (reader, writer) = pipe.map_err(|e| Error::io("making a pipe")(e.into()))?;
    // A smaller one does as well.
    let _ = fcntl_setpipe_size(&writer, PIPE);
    let ended = PumpEnd::default();
    let told = ended.clone();
    // A worker that wants no more of it is no failure of reading.
    let work = move || {
        let writer = File::from(writer);
        let _told = EndNotifier(&told);
        drop(pump(source, &writer, &told));
    };
    let thread = thread::Builder::new().name("feed".into()).spawn(work);
    thread.map_err(Error::io("starting a feed thread"))?;
    Ok((reader, ended))
}

/// Says it when the thread dies, before the pipe is closed.
struct EndNotifier<'a>(&'a PumpEnd);

impl Drop for EndNotifier<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            *self.0.lock() = Some(Err(Error::Process(ProcessError::ThreadDied { stage: "feed" })));
        }
    }
}

/// Everything is said before the pipe is closed.
fn pump(mut source: Box<dyn Read + Send>, mut to: &File, told: &PumpEnd) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let n = match source.read(&mut piece) {
            Ok(0) => {
                *told.lock() = Some(Ok(()));
                return Ok(());
            }
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                *told.lock() = Some(Err(Error::reading("reading the blob", e)));
                return Ok(());
            }
        };
        to.write_all(piece.get(..n).unwrap_or_default())?;
    }
}
