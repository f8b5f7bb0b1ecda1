//! A worker as its parent has it: a process that is always ended and reaped.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal,
    waitid,
};

use super::socket;
use crate::decode::{Cancel, CancelWatch};
use crate::{Error, Result};

/// What a worker is called in lists of processes.
const NAME: &str = "erolith";

/// A worker that runs.
#[derive(Debug)]
pub(super) struct Process {
    /// Names the process and no later one with its number.
    pidfd: Arc<OwnedFd>,
    socket: OwnedFd,
}

impl Process {
    /// Starts one, with nothing but its end of a socket.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn start(program: &Path, args: &[OsString]) -> Result<Self> {
        let started = Self::try_start(program, args);
        started.map_err(Error::io(format!("starting {}", program.display())))
    }

    fn try_start(program: &Path, args: &[OsString]) -> io::Result<Self> {
        let (socket, theirs) = socket::pair()?;
        let mut command = Command::new(program);
        command.arg0(NAME).args(args).env_clear();
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid.ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match pidfd {
            Ok(pidfd) => Ok(Self::new(pidfd, socket)),
            Err(e) => {
                // What fails here has failed already.
                let _ = child.kill();
                let _ = child.wait();
                Err(e.into())
            }
        }
    }

    /// A child of this process that runs, and the socket whose other end it has.
    pub(super) fn new(pidfd: OwnedFd, socket: OwnedFd) -> Self {
        Self { pidfd: Arc::new(pidfd), socket }
    }

    /// Whether it has not ended yet.
    pub(super) fn is_alive(&self) -> bool {
        // A pidfd is readable when the process has ended.
        let mut ended = [PollFd::new(&*self.pidfd, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0))
    }

    /// Its number.
    #[cfg(test)]
    pub(super) fn id(&self) -> u32 {
        use std::os::fd::AsRawFd as _;

        let info = format!("/proc/self/fdinfo/{}", self.pidfd.as_raw_fd());
        let info = std::fs::read_to_string(info).unwrap();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap();
        pid.trim().parse().unwrap()
    }

    /// Its socket.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Kills it as soon as the work is cancelled, as long as the result lives.
    pub(super) fn ends_with(&self, cancel: &Cancel) -> CancelWatch {
        let pidfd = Arc::clone(&self.pidfd);
        cancel.on_cancel(move || kill(&pidfd))
    }

    /// Waits for the end of one that has closed its socket. Returns how it ended.
    pub(super) fn how_it_ended(&self) -> String {
        match self.wait() {
            Ok(Some(status)) => describe(&status),
            Ok(None) => "has been waited for already".to_owned(),
            Err(e) => format!("cannot be waited for: {e}"),
        }
    }

    fn wait(&self) -> rustix::io::Result<Option<WaitIdStatus>> {
        retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED))
    }
}

impl Drop for Process {
    /// The process writes to none of its files any more once this returns.
    fn drop(&mut self) {
        kill(&self.pidfd);
        // It is there until it is reaped. One that has been is no longer found.
        let _ = self.wait();
    }
}

fn kill(pidfd: &OwnedFd) {
    // One that has been reaped is no longer found.
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
}

/// How a process ended, for people.
fn describe(status: &WaitIdStatus) -> String {
    ending(status.exit_status(), status.terminating_signal())
}

/// How a process ended, by its exit code or its signal.
fn ending(code: Option<i32>, signal: Option<i32>) -> String {
    let Some(number) = signal else {
        let code = code.unwrap_or_default();
        return format!("ended without an answer, with exit code {code}");
    };
    let hint = match number {
        libc::SIGSYS => ": it made a system call that the sandbox does not allow",
        libc::SIGABRT => ": it failed, or its memory limit was reached",
        libc::SIGKILL => ": it was killed, perhaps by the kernel for want of memory",
        _ => "",
    };
    match name(number) {
        Some(name) => format!("was ended by {name}{hint}"),
        None => format!("was ended by signal {number}{hint}"),
    }
}

fn name(signal: i32) -> Option<&'static str> {
    let names = [
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGSYS, "SIGSYS"),
        (libc::SIGTERM, "SIGTERM"),
    ];
    names.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_with_the_name_of_its_signal() {
        for (code, signal, said) in [
            (Some(0), None, "ended without an answer, with exit code 0"),
            (Some(101), None, "ended without an answer, with exit code 101"),
            (
                None,
                Some(9),
                "was ended by SIGKILL: it was killed, perhaps by the kernel for want of memory",
            ),
            (
                None,
                Some(31),
                "was ended by SIGSYS: it made a system call that the sandbox does not allow",
            ),
            (None, Some(11), "was ended by SIGSEGV"),
            (None, Some(1), "was ended by signal 1"),
        ] {
            assert_eq!(ending(code, signal), said);
        }
    }
}
