//! The only `unsafe` of the tests.
#![allow(unsafe_code)]

pub(crate) mod notify;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use erofs_rs::backend::MmapImage;

/// Maps an image that does not change while the test reads it.
///
/// # Errors
/// What `mmap` says.
pub(crate) fn map_image(file: &File) -> io::Result<MmapImage> {
    // SAFETY: images under test are private files of the test, written before they are mapped and never after.
    unsafe { MmapImage::new_from_file(file) }
}

/// Bytes of `file`, a file or a block device of `bytes` bytes, that are in memory. It has to be ours, or the kernel says
/// that all of it is.
///
/// # Errors
/// What `mmap` and `mincore` say.
pub(crate) fn resident(file: &File, bytes: u64) -> io::Result<u64> {
    // SAFETY: a call without pointers.
    let page =
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
    let len = usize::try_from(bytes).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(0);
    }
    // SAFETY: a new mapping that nothing reads or writes through.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut pages = vec![0u8; len.div_ceil(page)];
    // SAFETY: the mapping is `len` bytes long, and the vector has a byte for each of its pages.
    let asked = unsafe { libc::mincore(at, len, pages.as_mut_ptr()) };
    let failed = io::Error::last_os_error();
    // SAFETY: the mapping made above, which nothing refers to.
    unsafe { libc::munmap(at, len) };
    if asked != 0 {
        return Err(failed);
    }
    let there = pages.iter().filter(|page| **page & 1 == 1).count();
    Ok(u64::try_from(there * page).unwrap_or(u64::MAX))
}
