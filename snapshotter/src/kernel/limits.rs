//! Whether a directory can be kept to a size.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::thread::CapabilitySet;

use crate::Result;
use crate::mounts::FsContext;
use crate::mounts::table::block_device;
use crate::sys::loopdev::{self, Access};
use crate::sys::project::{self, Project};
use crate::sys::quota::{Amount, Quotas};
use crate::uppers::{MIN_LIMIT, mkfs};
use erolith_durable::scratch;

/// The limit that is tried, in bytes, and what is then written.
const LIMIT: u64 = 64 << 10;
const WRITTEN: usize = 1 << 20;
/// Numbers of projects that attempts have, below those of snapshots. Two processes that try at the same time have
/// different ones.
const FIRST: u32 = 0x64FF_0000;

/// Tries to limit a file without a name by a project quota of its filesystem. Says what was done.
///
/// # Errors
/// What the kernel answers: ESRCH or ENOSYS where quotas are not switched on or not there, EPERM without
/// CAP_SYS_ADMIN; and ERANGE where the limit was passed.
pub(crate) fn project_quota(dir: BorrowedFd<'_>) -> Result<String, Errno> {
    let quotas = Quotas::of(dir, block_device);
    if !quotas.are_enforced()? {
        return Err(Errno::SRCH);
    }
    let file = scratch(dir)?;
    let id = FIRST + (std::process::id() & 0xFFFF);
    project::set(file.as_fd(), Project { id, inherits: false })?;
    quotas.set_limit(id, Amount { bytes: LIMIT, inodes: 0 })?;
    let written = write_as_container(&file);
    drop(file);
    quotas.set_limit(id, Amount::default())?;
    match written {
        // XFS says the one, others the other.
        Err(Errno::NOSPC | Errno::DQUOT) => Ok("kept a file to its limit".to_owned()),
        Err(errno) => Err(errno),
        Ok(()) => Err(Errno::RANGE),
    }
}

/// Tries to make and mount a filesystem in `file`, which is empty. Says what was done.
///
/// # Errors
/// [`crate::LimitError::Program`] without `mkfs.ext4`, and what loop devices and mounts give.
pub(crate) fn sized_image(file: &File) -> Result<String> {
    mkfs::make(file, "a filesystem", MIN_LIMIT, None)?;
    let device = loopdev::attach(file.as_fd(), 4096, Access::ReadWrite)?;
    let context = FsContext::open("ext4")?;
    context.string("source", &device.path().to_string_lossy())?;
    context.mount(MountAttrFlags::empty())?;
    Ok("made and mounted an ext4 of 16 MiB".to_owned())
}

/// Writes more than the limit on a thread without CAP_SYS_RESOURCE, with which no limit counts. overlayfs writes
/// without it, whatever its users have.
fn write_as_container(file: &File) -> Result<(), Errno> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("without-privilege".to_owned());
        let handle = thread.spawn_scoped(scope, || {
            let mut sets = rustix::thread::capabilities(None)?;
            sets.effective.remove(CapabilitySet::SYS_RESOURCE);
            rustix::thread::set_capabilities(None, sets)?;
            file.write_all_at(&vec![1; WRITTEN], 0).and_then(|()| file.sync_all()).map_err(errno_of)
        });
        let joined = handle.map_err(errno_of)?.join();
        joined.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
