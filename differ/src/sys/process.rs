//! Starting a program that gets a descriptor with a fixed number, and a copy of this process.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The number by which a program knows its payload.
const PAYLOAD: RawFd = 3;

/// What is started.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) path: &'a Path,
    pub(crate) args: &'a [String],
    /// Added to the environment of this process.
    pub(crate) env: &'a [(String, String)],
}

/// Starts a program in a process group of its own, with `payload` as its descriptor 3. Output and errors are pipes.
///
/// # Errors
/// What the system says.
pub(crate) fn start(
    program: &Program<'_>,
    stdin: Stdio,
    payload: Option<OwnedFd>,
) -> io::Result<Child> {
    let mut command = Command::new(program.path);
    command.args(program.args).envs(program.env.iter().map(|(k, v)| (k, v)));
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    if let Some(payload) = payload {
        let place = move || put(&payload);
        // SAFETY: between fork and exec only system calls are made, nothing is allocated and no lock is taken.
        unsafe { command.pre_exec(place) };
    }
    command.spawn()
}

/// Makes `payload` descriptor 3, open across exec. Should that be the pipe through which the standard library reports a
/// failed exec, a failed exec aborts, which is a failure as well.
fn put(payload: &OwnedFd) -> io::Result<()> {
    if payload.as_raw_fd() == PAYLOAD {
        return Ok(rustix::io::fcntl_setfd(payload, rustix::io::FdFlags::empty())?);
    }
    // SAFETY: it is replaced, and never closed through this value; whatever it was in this process, which is about to
    // become another program, is not used again.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(PAYLOAD) });
    Ok(rustix::io::dup2(payload, &mut target)?)
}

/// The two processes after [`fork_sibling`].
#[derive(Debug)]
pub(crate) enum Forked {
    /// The new one.
    Child,
    /// The one that called, with a pidfd of the new one.
    Parent(OwnedFd),
}

/// Copies this process. The copy is a child of this process' parent, which is so the one to wait for it (`CLONE_PARENT` of
/// clone(2)). To be called by a process with one thread: that thread alone is copied, and locks that others hold stay held.
///
/// # Errors
/// What the system says: `ENOSYS` or `EINVAL` before Linux 5.2, which has no `CLONE_PIDFD`.
pub(crate) fn fork_sibling() -> io::Result<Forked> {
    let flags = i64::from(libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD);
    let mut pidfd: RawFd = -1;
    let (none, at) = (std::ptr::null_mut::<libc::c_void>(), &raw mut pidfd);
    // SAFETY: without CLONE_VM the copy has memory and a stack of its own. The kernel writes one descriptor to `pidfd`. What the
    // C library does around fork(2) is for locks of other threads, and there are none; the last two arguments, whose order
    // depends on the architecture, are unused.
    match unsafe { libc::syscall(libc::SYS_clone, flags, none, at, none, none) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        // SAFETY: the descriptor is new, and this is its only owner.
        _ => Ok(Forked::Parent(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}
