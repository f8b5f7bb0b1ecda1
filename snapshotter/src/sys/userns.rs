//! A user namespace, held open by a child that does nothing else.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

/// A map for those to whom any will do.
const ANY: &str = "0 100000 65536";

/// A user namespace with maps of its own.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    fd: OwnedFd,
}

impl UserNamespace {
    /// Makes one that maps ids `0..65536` to `100000..165536`.
    ///
    /// # Errors
    /// As [`UserNamespace::with_maps`].
    pub(crate) fn new() -> Result<Self, Errno> {
        Self::with_maps([ANY, ANY])
    }

    /// Makes one with these `uid_map` and `gid_map`. unshare(2) of a user namespace needs a process with one thread,
    /// hence the child, which is gone when this returns.
    ///
    /// # Errors
    /// ENOSYS or EINVAL when the kernel has none, EPERM or ENOSPC when they are switched off
    /// (`user.max_user_namespaces`), EINVAL for maps that are none, and what fork, pipe and /proc give.
    pub(crate) fn with_maps(maps: [&str; 2]) -> Result<Self, Errno> {
        let (report_out, report_in) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (hold_out, hold_in) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: `child` only makes system calls and ends in _exit, so it needs no lock that another thread
        // held at the moment of the fork.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(hold_in);
            child(report_in.as_raw_fd(), hold_out.as_raw_fd());
        }
        let forked = Pid::from_raw(pid).filter(|_| pid > 0).map(Child).ok_or(Errno::AGAIN)?;
        drop((report_in, hold_out));
        let opened = forked.namespace(&report_out, maps);
        drop(hold_in);
        opened
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.fd)
    }
}

/// The child: enters a namespace, reports the errno as one byte, and waits until the parent closes its pipe.
fn child(report: i32, hold: i32) -> ! {
    // SAFETY: a system call without pointers.
    let ret = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    let code =
        if ret == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(1) };
    let byte = u8::try_from(code).unwrap_or(u8::MAX);
    // A child that another thread forks at the same time may hold our pipe open, so its end is not the only signal.
    // SAFETY: a system call without pointers; it comes after unshare, which may reset it.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: writes one byte from a live local.
    unsafe { libc::write(report, (&raw const byte).cast(), 1) };
    let mut end = 0u8;
    // SAFETY: reads at most one byte into a live local; returns 0 when the parent closes its end or dies.
    unsafe { libc::read(hold, (&raw mut end).cast(), 1) };
    // SAFETY: ends the child without running destructors that belong to the parent.
    unsafe { libc::_exit(0) }
}

/// A child that is killed and reaped when this is dropped.
struct Child(Pid);

impl Child {
    fn namespace(&self, report: &OwnedFd, maps: [&str; 2]) -> Result<UserNamespace, Errno> {
        let mut byte = [0u8; 1];
        if rustix::io::retry_on_intr(|| rustix::io::read(report, &mut byte))? != 1 {
            return Err(Errno::AGAIN);
        }
        if byte != [0] {
            return Err(Errno::from_raw_os_error(i32::from(byte[0])));
        }
        let proc = format!("/proc/{}", self.0.as_raw_nonzero());
        for (file, map) in ["uid_map", "gid_map"].into_iter().zip(maps) {
            write_once(&format!("{proc}/{file}"), map)?;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(format!("{proc}/ns/user"), flags, Mode::empty())?;
        Ok(UserNamespace { fd })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when the child is already gone.
        rustix::process::kill_process(self.0, Signal::KILL).ok();
        rustix::process::waitpid(Some(self.0), WaitOptions::empty()).ok();
    }
}

/// Id maps take one write(2), and only one.
fn write_once(path: &str, text: &str) -> Result<(), Errno> {
    let opened = File::options().write(true).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_made_and_its_child_is_gone() {
        match UserNamespace::new() {
            Ok(namespace) => {
                let own = std::fs::read_link("/proc/self/ns/user").unwrap();
                let link = format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd());
                assert_ne!(std::fs::read_link(link).unwrap(), own);
            }
            Err(errno) => {
                assert!(std::env::var_os("CI").is_none(), "no user namespaces: {errno}");
                println!("skipped: no user namespaces: {errno}");
            }
        }
    }
}
