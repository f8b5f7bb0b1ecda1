//! What can go wrong while layers are read and compared.

use std::io;

use erolith_errors::{ErrorClass, ErrorFacts, ErrorStatus};
use erolith_mkfs::image;

/// Why layers are not understood, or not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of a layer could not be read.
    #[error("reading {what}")]
    Input {
        /// Which file.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A file of a directory changed while it was read: what was read is of no single state.
    #[error("{what} changed while it was read")]
    Changed {
        /// Its path.
        what: String,
    },
    /// Layers that show something together which cannot be said without mounting them.
    #[error("{what}: {why}")]
    Overlay {
        /// Its path.
        what: String,
        /// What about it.
        why: &'static str,
    },
    /// An overlay with the option `index` whose index does not say what its files show.
    #[error("{what}: {why}")]
    Index {
        /// The entry of the index, or the upper directory.
        what: String,
        /// What about it.
        why: &'static str,
    },
    /// A mark of an overlay that was mounted otherwise than the marks are read: what it says would be lost.
    #[error("{what}: it has the mark {mark}, {why}")]
    Marks {
        /// The path of the file.
        what: String,
        /// The name of the attribute.
        mark: String,
        /// What to do.
        why: &'static str,
    },
    /// An owner that the map of the container does not have.
    #[error("{what}: owner or group {id} of the host is nobody in the container")]
    Owner {
        /// The path of the file.
        what: String,
        /// The user or group.
        id: u32,
    },
    /// An image that is read or written.
    #[error(transparent)]
    Image(#[from] erolith_mkfs::Error),
}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Self {
        Self::Image(error.into())
    }
}

impl Error {
    /// What callers decide by.
    #[must_use]
    pub fn facts(&self) -> ErrorFacts<'_> {
        use ErrorClass::{Input, Io};
        use ErrorStatus::{FailedPrecondition, InvalidArgument, Unavailable};
        let (class, status) = match self {
            Self::Image(error) => return error.facts(),
            Self::Input { source, .. } => (Io, ErrorStatus::of_io(source)),
            // The process that writes to the snapshot may have stopped by the next time.
            Self::Changed { .. } => (Io, Unavailable),
            Self::Index { .. } | Self::Marks { .. } => (Input, FailedPrecondition),
            _ => (Input, InvalidArgument),
        };
        ErrorFacts::new(self.code(), class, status)
    }
}

erolith_errors::error_codes! {
    Error {
        Self::Input { .. } => "input-io", "a file of a layer cannot be read";
        Self::Changed { .. } => "input-changed", "a file changed while it was read";
        Self::Overlay { .. } => "overlay-unsupported", "layers show something together that cannot be said without mounting them";
        Self::Index { .. } => "overlay-index", "the index of an overlay does not say what its files show";
        Self::Marks { .. } => "overlay-marks", "a mark of an overlay that was mounted with options that are not followed";
        Self::Owner { .. } => "owner-unmapped", "an owner or group that the container's map of ids does not have";
    }
    wrapped {
        Self::Image(error) => error.code();
    }
}
