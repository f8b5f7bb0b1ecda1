//! Why a damaged layer is not rebuilt.

use erolith_differ::Digest;
use erolith_verity::fsverity;

use crate::containerd;
use crate::serve::error::Error;

/// Why a damaged layer is not rebuilt.
#[derive(Debug, thiserror::Error)]
pub(in crate::serve::diff) enum Unhealed {
    /// Neither record nor label says which blob it was.
    #[error("no blob of namespace {namespace} is known to be its content")]
    Missing {
        /// Where it was looked for.
        namespace: String,
    },
    /// The snapshot was not made through containerd, which gives names with a namespace.
    #[error("no record says from which namespace it came")]
    Unknown,
    /// The blob is not what its digest says.
    #[error("blob {digest} of namespace {namespace} is damaged, too")]
    Blob {
        /// The blob.
        digest: Digest,
        /// Its namespace.
        namespace: String,
        /// What is wrong.
        source: Box<Error>,
    },
    /// The image of the blob is another one.
    #[error(
        "blob {digest} becomes an image with the fs-verity digest {found}, and the layer had {pinned}"
    )]
    Differs {
        /// The blob.
        digest: Digest,
        /// The digest of the layer's image.
        pinned: fsverity::Digest,
        /// That of the image of the blob.
        found: fsverity::Digest,
    },
    /// A stream processor needs what only a client's request brings.
    #[error("blob {digest} is encrypted, and only a client has the keys")]
    Encrypted {
        /// The blob.
        digest: Digest,
    },
    /// containerd does not answer.
    #[error(transparent)]
    Unreachable(containerd::Error),
    /// The daemon stops.
    #[error("the work was cancelled")]
    Cancelled,
    /// Something else failed.
    #[error(transparent)]
    Failed(Error),
}

impl Unhealed {
    /// Its name in metrics.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "blob_missing",
            Self::Unknown => "unknown",
            Self::Blob { .. } => "blob_damaged",
            Self::Differs { .. } => "differs",
            Self::Encrypted { .. } => "encrypted",
            Self::Unreachable(_) => "unreachable",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether the same may succeed later, although nothing on this node is repaired.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Cancelled)
    }

    /// What makes the layer whole.
    pub(super) fn advice(&self) -> String {
        const PULL: &str = "`ctr images pull --local` of its image";
        const REMOVE: &str = "remove its image and pull it again";
        match self {
            Self::Missing { namespace } => {
                format!("{PULL} in namespace {namespace} brings it; with CRI, {REMOVE}")
            }
            Self::Blob { namespace, .. } => format!(
                "remove every image with that blob (`ctr -n {namespace} images rm --sync IMAGE`, `crictl rmi`), so that containerd deletes it, then pull the image again"
            ),
            Self::Encrypted { .. } => format!("{PULL}, or a container of it, brings it"),
            Self::Unknown | Self::Differs { .. } => REMOVE.to_owned(),
            Self::Unreachable(_) | Self::Cancelled => "the daemon tries again".to_owned(),
            Self::Failed(_) => format!("see the error; then {PULL}, or {REMOVE}"),
        }
    }
}

impl From<Error> for Unhealed {
    fn from(error: Error) -> Self {
        match error {
            Error::Containerd(error) => Self::from(error),
            Error::Differ(erolith_differ::Error::Cancelled) => Self::Cancelled,
            error => Self::Failed(error),
        }
    }
}

impl From<containerd::Error> for Unhealed {
    fn from(error: containerd::Error) -> Self {
        Self::Unreachable(error)
    }
}

impl From<erolith_snapshotter::Error> for Unhealed {
    fn from(error: erolith_snapshotter::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<erolith_differ::Error> for Unhealed {
    fn from(error: erolith_differ::Error) -> Self {
        Self::from(Error::from(error))
    }
}
