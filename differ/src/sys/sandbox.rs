//! What a process does to itself before it reads untrusted bytes.
#![allow(unsafe_code)]

use std::io;

use rustix::thread::UnshareFlags;

/// Closes every descriptor from `first` on. For a process that is about to get all it needs, on lower ones.
///
/// # Errors
/// What the system says: `ENOSYS` before Linux 5.9.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the caller has no value that owns one of them.
    let closed = unsafe { libc::close_range(first, u32::MAX, 0) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has a write beyond `RLIMIT_FSIZE` fail instead of ending the process.
pub(crate) fn ignore_file_size_signal() {
    // SAFETY: no handler is installed; the signal is ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Gives this thread namespaces of its own.
///
/// # Errors
/// What the system says: `EPERM` without `CAP_SYS_ADMIN`.
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    // SAFETY: the table of descriptors is not among what the caller names.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces - UnshareFlags::FILES) }?)
}

/// A system call with plain numbers, for tests that try what must not be.
///
/// # Errors
/// What the system says.
#[cfg(test)]
pub(crate) fn call(number: i64, args: [usize; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the calls of the tests get no pointers, or null ones.
    let returned = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}
