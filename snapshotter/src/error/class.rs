//! Into what callers and commands divide errors.

/// Whose fault an error is; decides the exit code of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The caller asked for something that cannot be.
    Usage,
    /// An image is not what it should be.
    Input,
    /// The kernel, its configuration, or our rights.
    Environment,
    /// Storage failed.
    Io,
}

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
