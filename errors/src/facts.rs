//! The facts of an error.

use std::io::{self, ErrorKind};

/// Whose fault an error is; decides the exit code of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The caller asked for something that cannot be.
    Usage,
    /// A layer, an image or a document is not what it should be.
    Input,
    /// The environment lacks something, or another process is in the way.
    Environment,
    /// Reading, writing or a part of this program failed.
    Io,
    /// The work was cancelled.
    Interrupted,
    /// That of the source of the error.
    OfSource,
}

/// What a call ends with: the codes of containerd's errdefs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorStatus {
    /// The request can never be fulfilled as it is.
    InvalidArgument,
    /// What the request names is not there.
    NotFound,
    /// What the request would make is already there.
    AlreadyExists,
    /// The request could be fulfilled in another state.
    FailedPrecondition,
    /// Another plugin may know how; containerd asks its next one then.
    Unimplemented,
    /// The same request may succeed in a moment.
    Unavailable,
    /// Space, memory, time or another limited thing is used up.
    ResourceExhausted,
    /// Stored data is damaged or gone.
    DataLoss,
    /// The request was cancelled.
    Cancelled,
    /// Anything else.
    Internal,
    /// That of the source of the error.
    OfSource,
}

impl ErrorStatus {
    /// That of a failure of the storage.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::ResourceExhausted,
            _ => Self::Internal,
        }
    }
}

/// What callers decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorFacts<'a> {
    /// A stable name of the kind of error, for logs, tests and machines.
    pub code: &'a str,
    /// Whose fault it is.
    pub class: ErrorClass,
    /// What a call ends with.
    pub status: ErrorStatus,
    /// What helps, where something is known.
    pub advice: Option<&'static str>,
}

impl<'a> ErrorFacts<'a> {
    /// Those of an error for which no advice is known.
    #[must_use]
    pub fn new(code: &'a str, class: ErrorClass, status: ErrorStatus) -> Self {
        Self { code, class, status, advice: None }
    }
}
