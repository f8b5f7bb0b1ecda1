//! The status of errors that others report.

use std::io;

use erolith_errors::ErrorStatus;
use rustix::io::Errno;

/// The status of an error of storage.
pub(super) fn of_io(error: &io::Error) -> ErrorStatus {
    Errno::from_io_error(error).map_or(ErrorStatus::Internal, of_errno)
}

/// What is used up when a system call fails like this, if anything is.
pub(super) fn of_errno(errno: Errno) -> ErrorStatus {
    match errno {
        Errno::NOSPC
        | Errno::DQUOT
        | Errno::NOMEM
        | Errno::MFILE
        | Errno::NFILE
        | Errno::USERS
        | Errno::FBIG => ErrorStatus::ResourceExhausted,
        Errno::AGAIN | Errno::TXTBSY => ErrorStatus::Unavailable,
        _ => ErrorStatus::Internal,
    }
}

/// The status of a conversion that failed.
pub(super) fn of_conversion(error: &erolith_overlay::Error) -> ErrorStatus {
    use erolith_mkfs::Error as Build;
    use erolith_overlay::Error as Overlay;
    match error {
        Overlay::Input { source, .. }
        | Overlay::Image(Build::Output(source) | Build::Input { source, .. }) => of_io(source),
        Overlay::Image(Build::TooLarge { .. }) => ErrorStatus::ResourceExhausted,
        // The container left something that no layer can hold.
        _ => ErrorStatus::FailedPrecondition,
    }
}
