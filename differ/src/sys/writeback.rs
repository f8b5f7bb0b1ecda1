//! sync_file_range(2).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Starts writing to the disk what the page cache has of a file, and does not wait for it. It promises nothing: that
/// is what fsync is for, which then has less to do.
///
/// # Errors
/// What the system says, as on filesystems that cannot do it.
pub(crate) fn start(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: it takes numbers only, and the descriptor is open while it is borrowed.
    let ret = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
