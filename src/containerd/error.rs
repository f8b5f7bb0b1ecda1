//! What went wrong with a call to containerd.

use tonic::{Code, Status};

/// What a call ends with.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong with a call to containerd.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A text that no call can carry.
    #[error("{text:?} cannot be the {what}")]
    Unusable {
        /// What it was to be.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// containerd did not do what was asked of it.
    #[error("containerd: {action}: {message}")]
    Answer {
        /// What was asked.
        action: String,
        /// The code of its answer.
        code: Code,
        /// What it said.
        message: String,
    },
}

impl Error {
    /// Names what was asked of containerd.
    pub(crate) fn answer(action: impl Into<String>) -> impl FnOnce(Status) -> Self {
        let action = action.into();
        move |status| Self::Answer {
            action,
            code: status.code(),
            message: status.message().to_owned(),
        }
    }

    /// The gRPC code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Unusable { .. } => Code::InvalidArgument,
            Self::Answer { code, .. } => *code,
        }
    }
}
