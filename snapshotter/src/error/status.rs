//! The status of errors that others report.

use std::io;

use rustix::io::Errno;

use super::Status;

/// The status of an error of storage.
pub(super) fn of_io(error: &io::Error) -> Status {
    Errno::from_io_error(error).map_or(Status::Internal, of_errno)
}

/// What is used up when a system call fails like this, if anything is.
pub(super) fn of_errno(errno: Errno) -> Status {
    match errno {
        Errno::NOSPC
        | Errno::DQUOT
        | Errno::NOMEM
        | Errno::MFILE
        | Errno::NFILE
        | Errno::USERS
        | Errno::FBIG => Status::ResourceExhausted,
        Errno::AGAIN | Errno::TXTBSY => Status::Unavailable,
        _ => Status::Internal,
    }
}

/// The status of a conversion that failed.
pub(super) fn of_conversion(error: &erolith_overlay::Error) -> Status {
    use erolith_mkfs::Error as Build;
    use erolith_overlay::Error as Overlay;
    match error {
        Overlay::Input { source, .. }
        | Overlay::Image(Build::Output(source) | Build::Input { source, .. }) => of_io(source),
        Overlay::Image(Build::TooLarge { .. }) => Status::ResourceExhausted,
        // The container left something that no layer can hold.
        _ => Status::FailedPrecondition,
    }
}
