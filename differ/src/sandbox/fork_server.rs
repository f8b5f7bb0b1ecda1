//! A worker that copies itself instead of reading a layer: a copy costs a fraction of a new process, which has to be loaded,
//! linked and stripped of its rights first.
//!
//! The server has given up its rights already (`enter::leave`), reads orders of the daemon and nothing else, and has one thread.
//! Each copy reads one layer and ends. It has no way to the server or to other copies, so that what a layer makes of its
//! worker never meets the next layer. What copies share is the layout of their memory, as all children of fork(2).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use super::process::Process;
use super::socket;
use super::wire::{self, WorkerJob, WorkerMessage, WorkerOrder};
use crate::{Error, Result};

/// How long a copy may take, which is made in less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

/// The server as the daemon has it.
#[derive(Debug)]
pub(super) struct ForkServer(Process);

impl ForkServer {
    /// Starts one. Its copies end with the thread that this is called by.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub(super) fn start(program: &Path, args: &[OsString]) -> Result<Self> {
        Process::start(program, args).map(Self)
    }

    /// A new worker, which is a child of this process.
    ///
    /// # Errors
    /// [`Error::Io`]. The server is of no use after that.
    pub(super) fn fork(&self) -> Result<Process> {
        self.try_fork().map_err(Error::io("copying a worker"))
    }

    fn try_fork(&self) -> io::Result<Process> {
        let (ours, theirs) = socket::pair()?;
        let order = wire::to_bytes(&WorkerOrder::new(WorkerJob::Fork))?;
        socket::send(self.0.socket(), &order, &[theirs.as_fd()])?;
        drop(theirs);
        Ok(Process::new(self.pidfd()?, ours))
    }

    /// What comes with the server's answer.
    fn pidfd(&self) -> io::Result<OwnedFd> {
        let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
        let mut answered = [PollFd::from_borrowed_fd(self.0.socket(), PollFlags::IN)];
        if retry_on_intr(|| poll(&mut answered, Some(&patience)))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let message = socket::receive(self.0.socket())?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let pidfd = message.fds.into_iter().next();
        match wire::from_bytes(&message.bytes)? {
            WorkerMessage::Forked => pidfd.ok_or_else(|| io::ErrorKind::InvalidData.into()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::sandbox::tests::worker;

    fn is_there(id: u32) -> bool {
        PathBuf::from(format!("/proc/{id}")).exists()
    }

    #[test]
    fn copies_are_children_of_the_daemon_and_outlive_the_server() {
        let program = worker("copies_are_children");
        let server = ForkServer::start(&program.program, &program.args).unwrap();
        let [one, two] = [(); 2].map(|()| server.fork().unwrap());
        let (ids, server_id) = ([one.id(), two.id()], server.0.id());
        for id in ids {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
            let parent = format!("PPid:\t{}\n", std::process::id());
            assert!(status.contains(&parent), "{status}");
        }
        drop(server);
        assert!(!is_there(server_id));
        assert!(one.is_alive() && two.is_alive());
        drop(one);
        assert!(!is_there(ids[0]) && is_there(ids[1]));
        drop(two);
        assert!(!is_there(ids[1]));
    }

    /// Else the server would answer who has its socket, and a copy could have more copies made.
    #[test]
    fn a_copy_has_its_own_socket_and_nothing_else() {
        let program = worker("a_copy_has_its_own_socket");
        let server = ForkServer::start(&program.program, &program.args).unwrap();
        let [one, two] = [(); 2].map(|()| server.fork().unwrap());
        let sockets = |process: &Process| {
            let dir = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
            // A descriptor may be closed before it is looked at.
            let names = dir.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
            let mut sockets: Vec<_> =
                names.filter(|name| name.to_string_lossy().starts_with("socket:")).collect();
            sockets.sort();
            sockets.dedup();
            sockets
        };
        // A copy answers before it has taken its socket.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while sockets(&one).len() != 1 || sockets(&one) == sockets(&server.0) {
            assert!(std::time::Instant::now() < deadline, "{:?}", sockets(&one));
            std::thread::yield_now();
        }
        assert_ne!(sockets(&one), sockets(&two));
    }

    #[test]
    fn a_server_that_has_ended_is_an_error() {
        let server = ForkServer::start(Path::new("/bin/true"), &[]).unwrap();
        assert!(matches!(server.fork(), Err(Error::Io { .. })));
    }
}
