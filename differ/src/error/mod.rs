//! What can go wrong, where, and a stable code for each.
//!
//! Errors come in families. A message names its source only by [`source`](std::error::Error::source): what is shown to
//! users is the whole chain ([`erolith_errors::error_chain`]).

mod families;

use std::io;

use erolith_errors::{ErrorClass, ErrorFacts, ErrorStatus};
pub use families::{
    BudgetError, ContentError, LayerError, MismatchError, OciImageError, ProcessError,
};

use crate::Digest;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer that is not taken.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Something that is larger, or takes longer, than allowed.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// Bytes that are not those that were promised.
    #[error(transparent)]
    Mismatch(#[from] MismatchError),
    /// Content that is not where it should be, or that cannot be named or written.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// An image, its documents or its location.
    #[error(transparent)]
    Image(#[from] OciImageError),
    /// A thread, a worker or a program of the user.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A layer that cannot become an image.
    #[error(transparent)]
    Build(#[from] erolith_mkfs::Error),
    /// Layers that cannot be compared.
    #[error(transparent)]
    Overlay(erolith_overlay::Error),
    /// An image whose dm-verity hash tree is not what it should be, or cannot be made.
    #[error(transparent)]
    Verity(#[from] erolith_verity::dmverity::Error),
    /// What went wrong with one layer of an image.
    #[error("layer {index} ({name})")]
    InLayer {
        /// Position in the image, the lowest is 0.
        index: usize,
        /// Digest of the blob, or diffID where there is no other.
        name: Digest,
        /// What went wrong.
        source: Box<Error>,
    },
    /// A file that could not be sealed.
    #[error("sealing {path}")]
    Seal {
        /// What it would have been called.
        path: String,
        /// Why not, by what seals.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// Reading or writing failed.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl From<erolith_overlay::Error> for Error {
    fn from(error: erolith_overlay::Error) -> Self {
        match error {
            erolith_overlay::Error::Image(error) => Self::Build(error),
            error => Self::Overlay(error),
        }
    }
}

impl Error {
    /// What callers decide by.
    #[must_use]
    pub fn facts(&self) -> ErrorFacts<'_> {
        match self {
            Self::Layer(error) => error.facts(),
            Self::Budget(error) => error.facts(),
            Self::Mismatch(error) => error.facts(),
            Self::Content(error) => error.facts(),
            Self::Image(error) => error.facts(),
            Self::Process(error) => error.facts(),
            Self::Build(error) => error.facts(),
            Self::Overlay(error) => error.facts(),
            Self::Verity(error) => error.facts(),
            Self::InLayer { source, .. } => source.facts(),
            Self::Seal { .. } => {
                ErrorFacts::new("seal", ErrorClass::OfSource, ErrorStatus::OfSource)
            }
            Self::Cancelled => {
                ErrorFacts::new("cancelled", ErrorClass::Interrupted, ErrorStatus::Cancelled)
            }
            Self::Io { source, .. } => {
                ErrorFacts::new("io", ErrorClass::Io, ErrorStatus::of_io(source))
            }
        }
    }

    /// A stable name of the kind of error, for logs, tests and machines.
    #[must_use]
    pub fn code(&self) -> &str {
        self.facts().code
    }

    /// What reading failed of: an error of this crate that went through a reader, or the system's.
    pub(crate) fn reading(action: &str, error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::io(action))
    }

    /// Names what was being done when `source` happened.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
