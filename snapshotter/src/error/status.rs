//! What a caller of the service has to know of an error.

use std::io;

use rustix::io::Errno;

use super::Error;
use crate::protect::FsVerityMismatch;

/// What a caller of the service has to know of an error: the codes of containerd's errdefs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The request can never be fulfilled as it is.
    InvalidArgument,
    /// What the request names is not there.
    NotFound,
    /// What the request would make is already there.
    AlreadyExists,
    /// The request could be fulfilled in another state.
    FailedPrecondition,
    /// Another plugin may know how; containerd then asks its next one.
    Unimplemented,
    /// The same request may succeed in a moment.
    Unavailable,
    /// Space, memory, descriptors or another limited thing is used up.
    ResourceExhausted,
    /// Stored data is damaged or gone.
    DataLoss,
    /// Anything else.
    Internal,
}

impl Error {
    /// The status to answer with.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Store(error) => error.status(),
            Self::Verity { source: erolith_verity::dmverity::Error::Io { source, .. }, .. } => {
                of_io(source)
            }
            Self::NoLayers
            | Self::ValueTooLong { .. }
            | Self::Option { .. }
            | Self::IdMap { .. }
            | Self::Limit { .. }
            | Self::Config { .. } => Status::InvalidArgument,
            Self::TooManyLayers { .. }
            | Self::OptionsTooLong { .. }
            | Self::NotMounted { .. }
            | Self::NotOurs { .. }
            | Self::Committed { .. }
            | Self::Finished { .. }
            | Self::InUse { .. }
            | Self::Unlimited { .. }
            | Self::Unprotected { .. }
            | Self::Untrusted { .. }
            | Self::Program { .. }
            | Self::Unsealed { fault: FsVerityMismatch::Missing, .. }
            | Self::NoVerity { .. }
            | Self::DatabaseMissing { .. }
            | Self::DatabaseSound { .. } => Status::FailedPrecondition,
            Self::NotErofs { .. }
            | Self::Truncated { .. }
            | Self::Devices { .. }
            | Self::Check { .. }
            | Self::Unsealed { .. }
            | Self::Damaged { .. }
            | Self::Verity { .. }
            | Self::Sidecar { .. }
            | Self::Gone { .. } => Status::DataLoss,
            Self::LoopRace { .. } | Self::Raced { .. } => Status::Unavailable,
            Self::LoopNode { errno, .. } => of_errno(*errno),
            Self::Kernel { errno: Errno::BADMSG | Errno::UCLEAN, .. } => Status::DataLoss,
            Self::Kernel { errno, .. } => of_errno(*errno),
            Self::Read { source, .. } | Self::Storage { source, .. } => of_io(source),
            Self::Convert { source, .. } => of_conversion(source),
            Self::MountTable { .. } | Self::Mkfs { .. } => Status::Internal,
        }
    }
}

fn of_io(error: &io::Error) -> Status {
    Errno::from_io_error(error).map_or(Status::Internal, of_errno)
}

/// What is used up when a system call fails like this, if anything is.
fn of_errno(errno: Errno) -> Status {
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

fn of_conversion(error: &erolith_overlay::Error) -> Status {
    use erolith_mkfs::Error as Build;
    use erolith_overlay::Error as E;
    match error {
        E::Input { source, .. } | E::Image(Build::Output(source) | Build::Input { source, .. }) => {
            of_io(source)
        }
        E::Image(Build::TooLarge { .. }) => Status::ResourceExhausted,
        // The container left something that no layer can hold.
        _ => Status::FailedPrecondition,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(errno: Errno) -> Error {
        Error::Storage { action: "x".to_owned(), source: errno.into() }
    }

    #[test]
    fn what_is_used_up_is_told_from_what_is_broken() {
        let kernel = |errno| Error::kernel("mount", errno);
        let table = [
            (storage(Errno::NOSPC), Status::ResourceExhausted),
            (storage(Errno::DQUOT), Status::ResourceExhausted),
            (storage(Errno::IO), Status::Internal),
            (kernel(Errno::MFILE), Status::ResourceExhausted),
            (kernel(Errno::UCLEAN), Status::DataLoss),
            (kernel(Errno::PERM), Status::Internal),
            (Error::TooManyLayers { count: 501, limit: 500 }, Status::FailedPrecondition),
            (Error::Committed { key: "k".to_owned() }, Status::FailedPrecondition),
        ];
        for (error, want) in table {
            assert_eq!(error.status(), want, "{error}");
        }
    }
}
