//! What went wrong with a request, and the one place that says which gRPC code it has.

use std::io;
use std::iter::successors;
use std::path::PathBuf;

use erolith_errors::ErrorStatus;
use tonic::Code;

use super::diff::Missing;
use crate::containerd;

/// What a request ends with.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The snapshots, their mounts or their directories.
    #[error(transparent)]
    Snapshotter(#[from] erolith_snapshotter::Error),
    /// A layer.
    #[error(transparent)]
    Differ(#[from] erolith_differ::Error),
    /// A request that means nothing.
    #[error("{0}")]
    Request(String),
    /// Mounts that are not those of an EROFS layer directory. The next differ may know them.
    #[error("{0}")]
    NotOurs(&'static str),
    /// A media type that is not made here. The next differ may make it.
    #[error("layers of media type {0:?} are not made here")]
    MediaType(String),
    /// containerd did not do what was asked of it.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// Our own storage failed.
    #[error("{action} {}", .path.display())]
    Storage {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A layer is unpacked beside the one below it, which does not come.
    #[error("the layer takes attributes from the layer below it, {chain}, which is not there")]
    Below {
        /// The chain that the missing layer ends.
        chain: String,
        /// Why it is not there.
        source: Missing,
    },
    /// A thread of ours ended in a panic.
    #[error("a worker died: see the log of erolith")]
    WorkerDied,
}

impl Error {
    /// The gRPC code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Snapshotter(error) => code_of(error.status()),
            Self::Differ(error) => code_of_differ(error),
            Self::Request(_) => Code::InvalidArgument,
            Self::NotOurs(_) | Self::MediaType(_) => Code::Unimplemented,
            // From us, this code would send containerd to its next differ.
            Self::Containerd(error) if error.code() == Code::Unimplemented => Code::Internal,
            Self::Containerd(error) => error.code(),
            Self::Storage { source, .. } => code_of(ErrorStatus::of_io(source)),
            Self::Below { source: Missing::Silent(_) | Missing::Removed, .. } => Code::Unavailable,
            Self::Below { .. } => Code::FailedPrecondition,
            Self::WorkerDied => Code::Internal,
        }
    }
}

/// That of an error of a layer. What seals is the snapshotter.
fn code_of_differ(error: &erolith_differ::Error) -> Code {
    match error.facts().status {
        ErrorStatus::OfSource => {
            let mut sources = successors(std::error::Error::source(error), |error| error.source());
            let found =
                sources.find_map(|source| source.downcast_ref::<erolith_snapshotter::Error>());
            found.map_or(Code::Internal, |error| code_of(error.status()))
        }
        status => code_of(status),
    }
}

/// The code of gRPC for a status, as errgrpc of github.com/containerd/errdefs has it.
pub(crate) fn code_of(status: ErrorStatus) -> Code {
    match status {
        ErrorStatus::InvalidArgument => Code::InvalidArgument,
        ErrorStatus::NotFound => Code::NotFound,
        ErrorStatus::AlreadyExists => Code::AlreadyExists,
        ErrorStatus::FailedPrecondition => Code::FailedPrecondition,
        ErrorStatus::Unimplemented => Code::Unimplemented,
        ErrorStatus::Unavailable => Code::Unavailable,
        ErrorStatus::ResourceExhausted => Code::ResourceExhausted,
        ErrorStatus::DataLoss => Code::DataLoss,
        ErrorStatus::Cancelled => Code::Cancelled,
        ErrorStatus::Internal | ErrorStatus::OfSource => Code::Internal,
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let code = error.code();
        tonic::Status::new(code, crate::causes::message(&anyhow::Error::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use erolith_differ::error::{BudgetError, ContentError, LayerError, ProcessError};
    use erolith_snapshotter::MountError;

    use super::*;

    #[test]
    fn codes_are_those_that_containerd_expects() {
        let digest = erolith_differ::Digest::of(b"");
        let io = |kind| erolith_differ::Error::Io {
            action: "writing".into(),
            source: io::Error::from(kind),
        };
        let seal = || {
            let source = io::Error::from(rustix::io::Errno::NOSPC);
            let source = erolith_snapshotter::Error::Storage { action: "x".into(), source };
            Error::Differ(erolith_differ::Error::Seal {
                path: "x".into(),
                source: Box::new(source),
            })
        };
        let asked =
            |code| Error::from(containerd::Error::answer("a")(tonic::Status::new(code, "m")));
        let of = |error: erolith_differ::Error| Error::Differ(error);
        let reported = ProcessError::Reported { code: "tar-checksum".into(), text: "x".into() };
        let media_type = String::from("text/plain");
        for (error, code) in [
            (Error::NotOurs("no"), Code::Unimplemented),
            (Error::MediaType(media_type.clone()), Code::Unimplemented),
            (Error::Request("no".into()), Code::InvalidArgument),
            (Error::WorkerDied, Code::Internal),
            (asked(Code::NotFound), Code::NotFound),
            (asked(Code::Unavailable), Code::Unavailable),
            (asked(Code::Unimplemented), Code::Internal),
            (of(LayerError::UnsupportedMediaType { media_type }.into()), Code::Unimplemented),
            (of(ContentError::BlobMissing { digest }.into()), Code::NotFound),
            (of(BudgetError::Output { limit: 1 }.into()), Code::ResourceExhausted),
            (of(erolith_differ::Error::Cancelled), Code::Cancelled),
            (of(ProcessError::WorkerDied { ended: "x".into() }.into()), Code::Internal),
            (of(reported.into()), Code::InvalidArgument),
            (of(io(ErrorKind::StorageFull)), Code::ResourceExhausted),
            (seal(), Code::ResourceExhausted),
            (of(io(ErrorKind::PermissionDenied)), Code::Internal),
            (of(LayerError::UnsupportedCompression { found: "xz" }.into()), Code::InvalidArgument),
            (
                Error::Snapshotter(MountError::NoLayers.into()),
                code_of(MountError::NoLayers.status()),
            ),
        ] {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        let kinds = [
            (ErrorStatus::InvalidArgument, Code::InvalidArgument),
            (ErrorStatus::NotFound, Code::NotFound),
            (ErrorStatus::AlreadyExists, Code::AlreadyExists),
            (ErrorStatus::FailedPrecondition, Code::FailedPrecondition),
            (ErrorStatus::Unimplemented, Code::Unimplemented),
            (ErrorStatus::Unavailable, Code::Unavailable),
            (ErrorStatus::ResourceExhausted, Code::ResourceExhausted),
            (ErrorStatus::DataLoss, Code::DataLoss),
            (ErrorStatus::Internal, Code::Internal),
        ];
        for (kind, code) in kinds {
            assert_eq!(code_of(kind), code);
        }
    }

    #[test]
    fn the_message_is_the_chain_of_causes() {
        let source = io::Error::other("disk gone");
        let error = erolith_differ::Error::Io { action: "writing x".into(), source };
        let status = tonic::Status::from(Error::from(error));
        assert_eq!((status.code(), status.message()), (Code::Internal, "writing x: disk gone"));
    }
}
