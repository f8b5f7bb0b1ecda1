//! The error of this crate: what failed, on what, what the kernel said, and what to do next.
//!
//! Errors come in families, one for each kind of work. Each family is one table of its variants, with everything that
//! is known of each. A message does not repeat its cause: [`Error::line`] is the message with all of them.

mod integrity;
mod kernel;
mod limit;
mod mount;
mod service;
mod status;

use std::io;
use std::path::Path;

use erolith_errors::{error_chain, error_table};
use rustix::io::Errno;

use crate::store;

pub use integrity::IntegrityError;
pub use kernel::KernelError;
pub use limit::LimitError;
pub use mount::MountError;
pub use service::ServiceError;

/// What this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns what storage says into an error that tells what was tried.
pub(crate) fn failed<E: Into<io::Error>>(action: &str, path: &Path) -> impl FnOnce(E) -> Error {
    move |source| {
        let action = format!("{action} {}", path.display());
        Error::Storage { action, source: source.into() }
    }
}

error_table! {
    /// Why an image could not be mounted or unmounted, or a snapshot not be served.
    pub enum Error {
        /// A file or directory of ours could not be made, read, synced or removed.
        Storage {
            /// What was tried, and on what.
            action: String,
            /// What storage said.
            source: std::io::Error,
        } => {
            code: "storage",
            class: Io,
            status: { status::of_io(source) },
            text: ("{action}"),
            cause: source,
        }
    }
    families {
        /// What was to be mounted or unmounted cannot be.
        Mount(MountError),
        /// The kernel refused.
        Kernel(KernelError),
        /// An image is not what it should be.
        Integrity(IntegrityError),
        /// A writable layer cannot be limited.
        Limit(LimitError),
        /// The state of the service does not allow it.
        Service(ServiceError),
        /// The database of snapshots.
        Store(store::Error),
    }
}

impl Error {
    /// The message with its causes, on one line: for logs, and for what is kept as text.
    #[must_use]
    pub fn line(&self) -> String {
        error_chain(self)
    }

    /// Whether it tells that the image of a layer is not what it was: gone, cut off, written over or replaced. Then
    /// only another image helps.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Integrity(error) => error.is_damage(),
            Self::Kernel(error) => error.is_damage(),
            _ => false,
        }
    }

    /// A system call failed: what was tried, on what, and what the kernel answered.
    pub(crate) fn kernel(action: impl Into<String>, errno: Errno) -> Self {
        Self::Kernel(KernelError::Call { action: action.into(), errno, log: Vec::new() })
    }

    /// As [`Error::kernel`] for what was tried on `path`.
    pub(crate) fn kernel_on(action: &str, path: &Path) -> impl Fn(Errno) -> Self {
        move |errno| Self::kernel(format!("{action} {}", path.display()), errno)
    }

    /// The kernel's answer, when there is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel(error) => error.errno(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
