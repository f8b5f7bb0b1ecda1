//! Starting a program that gets a descriptor with a fixed number.
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
