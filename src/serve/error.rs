//! What went wrong with a request, and the one place that says which gRPC code it has.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use erolith_snapshotter::Status as Kind;
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
    #[error("{action} {}: {source}", .path.display())]
    Storage {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A layer is unpacked beside the one below it, which does not come.
    #[error(
        "the layer takes attributes from the layer below it, {chain}, which is not there: {source}"
    )]
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
            Self::Differ(erolith_differ::Error::Cancelled) => Code::Cancelled,
            Self::Differ(error) => code_of(kind_of_differ(error)),
            Self::Request(_) => Code::InvalidArgument,
            Self::NotOurs(_) | Self::MediaType(_) => Code::Unimplemented,
            // From us, this code would send containerd to its next differ.
            Self::Containerd(error) if error.code() == Code::Unimplemented => Code::Internal,
            Self::Containerd(error) => error.code(),
            Self::Storage { source, .. } => code_of(kind_of_io(source)),
            Self::Below { source: Missing::Silent(_) | Missing::Removed, .. } => Code::Unavailable,
            Self::Below { .. } => Code::FailedPrecondition,
            Self::WorkerDied => Code::Internal,
        }
    }
}

/// containerd's errdefs as gRPC codes (errgrpc of github.com/containerd/errdefs).
fn code_of(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Unavailable => Code::Unavailable,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::DataLoss => Code::DataLoss,
        Kind::Internal => Code::Internal,
    }
}

/// What an error of a layer is to a caller. A layer that is damaged is the caller's; only what another differ may
/// understand is [`Kind::Unimplemented`].
fn kind_of_differ(error: &erolith_differ::Error) -> Kind {
    use erolith_differ::Error as E;
    match error {
        E::ForeignIndex { .. } => Kind::FailedPrecondition,
        E::UnsupportedMediaType { .. } => Kind::Unimplemented,
        E::BlobMissing { .. } => Kind::NotFound,
        E::OutputBudget { .. } | E::RatioBudget { .. } | E::TimeBudget { .. } => {
            Kind::ResourceExhausted
        }
        E::BlobSize { .. } | E::BlobDigest { .. } | E::DiffId { .. } => Kind::DataLoss,
        E::Processor { .. } | E::ProcessorLoop { .. } => Kind::FailedPrecondition,
        E::Busy { .. } => Kind::Unavailable,
        E::WorkerDied { .. } | E::Worker { .. } => Kind::Internal,
        E::Io { source, .. } => kind_of_io(source),
        E::Build(
            erolith_mkfs::Error::Input { source, .. } | erolith_mkfs::Error::Output(source),
        ) => kind_of_io(source),
        E::Overlay(error) => kind_of_overlay(error),
        E::Seal { source, .. } => kind_of_seal(source.as_ref()),
        E::Layer { source, .. } => kind_of_differ(source),
        _ => Kind::InvalidArgument,
    }
}

/// Those of images are told apart already.
fn kind_of_overlay(error: &erolith_overlay::Error) -> Kind {
    use erolith_overlay::Error as E;
    match error {
        E::Input { source, .. } => kind_of_io(source),
        // Who writes to the snapshot may have stopped by the next time.
        E::Changed { .. } => Kind::Unavailable,
        E::Index { .. } | E::Marks { .. } => Kind::FailedPrecondition,
        _ => Kind::InvalidArgument,
    }
}

/// It is the snapshotter that seals.
fn kind_of_seal(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Kind {
    let error = error.downcast_ref::<erolith_snapshotter::Error>();
    error.map_or(Kind::Internal, erolith_snapshotter::Error::status)
}

fn kind_of_io(error: &io::Error) -> Kind {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::ResourceExhausted,
        _ => Kind::Internal,
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let code = error.code();
        tonic::Status::new(code, crate::exit::message(&anyhow::Error::new(error)))
    }
}

#[cfg(test)]
mod tests {
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
        let media_type = String::from("text/plain");
        for (error, code) in [
            (Error::NotOurs("no"), Code::Unimplemented),
            (Error::MediaType(media_type.clone()), Code::Unimplemented),
            (Error::Request("no".into()), Code::InvalidArgument),
            (Error::WorkerDied, Code::Internal),
            (asked(Code::NotFound), Code::NotFound),
            (asked(Code::Unavailable), Code::Unavailable),
            (asked(Code::Unimplemented), Code::Internal),
            (
                erolith_differ::Error::UnsupportedMediaType { media_type }.into(),
                Code::Unimplemented,
            ),
            (erolith_differ::Error::BlobMissing { digest }.into(), Code::NotFound),
            (erolith_differ::Error::OutputBudget { limit: 1 }.into(), Code::ResourceExhausted),
            (erolith_differ::Error::Cancelled.into(), Code::Cancelled),
            (erolith_differ::Error::Worker { ended: "x".into() }.into(), Code::Internal),
            (
                erolith_differ::Error::Told { code: "tar-checksum".into(), text: "x".into() }
                    .into(),
                Code::InvalidArgument,
            ),
            (io(ErrorKind::StorageFull).into(), Code::ResourceExhausted),
            (seal(), Code::ResourceExhausted),
            (io(ErrorKind::PermissionDenied).into(), Code::Internal),
            (
                Error::Differ(erolith_differ::Error::UnsupportedCompression { found: "xz" }),
                Code::InvalidArgument,
            ),
            (
                Error::Snapshotter(erolith_snapshotter::Error::NoLayers),
                code_of(erolith_snapshotter::Error::NoLayers.status()),
            ),
        ] {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        let kinds = [
            (Kind::InvalidArgument, Code::InvalidArgument),
            (Kind::NotFound, Code::NotFound),
            (Kind::AlreadyExists, Code::AlreadyExists),
            (Kind::FailedPrecondition, Code::FailedPrecondition),
            (Kind::Unimplemented, Code::Unimplemented),
            (Kind::Unavailable, Code::Unavailable),
            (Kind::ResourceExhausted, Code::ResourceExhausted),
            (Kind::DataLoss, Code::DataLoss),
            (Kind::Internal, Code::Internal),
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
