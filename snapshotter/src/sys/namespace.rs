//! A mount table of one's own, for the length of one function.

use std::panic;

use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

/// Runs `work` on a new thread with a private copy of the mount table and a working directory of its own.
///
/// What `work` mounts is seen by this thread alone and vanishes with the thread, also when it panics or when the
/// process is killed. File descriptors are shared with the rest of the process, so a detached mount can be
/// handed back.
///
/// # Errors
/// The errno of unshare(2) (EPERM without CAP_SYS_ADMIN) or of making the copy private (EINVAL when `/` is no
/// mount point, as in a plain chroot), and EAGAIN when no thread can be made.
pub(crate) fn in_private_mount_namespace<T: Send>(
    work: impl FnOnce() -> T + Send,
) -> Result<T, Errno> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("private-mounts".to_owned());
        let handle = thread.spawn_scoped(scope, || enter().map(|()| work()));
        let joined = handle.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::AGAIN))?.join();
        joined.unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

fn enter() -> Result<(), Errno> {
    // SAFETY: the file descriptor table is not unshared, so no descriptor changes meaning; the mount table and
    // the working directory are per-thread state that the standard library does not cache.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    // The copy is still a peer of the original where that is shared; what we mount must not spread.
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
}
