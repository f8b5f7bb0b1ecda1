//! What can go wrong while an image is built.

use std::io;

use crate::{tar, tree};

/// Why no image was built. Nothing of it is to be used then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The archive is not one.
    #[error("{0}")]
    Tar(#[from] tar::Error),
    /// A member cannot be part of the tree.
    #[error("member at byte {offset}: {source}")]
    Tree {
        /// Where the member begins in the input; 0 for sources without an order.
        offset: u64,
        /// Why.
        source: tree::Error,
    },
    /// The input could not be read.
    #[error("reading {what}: {source}")]
    Input {
        /// Which input.
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
    /// The image could not be written.
    #[error("writing the image: {0}")]
    Output(#[source] io::Error),
    /// The image would be larger than the limit, or than the format can address.
    #[error("the image would exceed {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// An option that contradicts another one, or the input.
    #[error("{0}")]
    Options(&'static str),
    /// A fault of this program: the image that was planned is not the one that would be written.
    #[error("internal error, please report it: {0} is not as planned")]
    Internal(&'static str),
    /// An image that is a source cannot be read.
    #[error("{0}")]
    Image(#[from] crate::image::Error),
}

impl Error {
    /// Is the content of the input to blame, and not how it was read or where the image is written?
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::Tar(error) => !matches!(error.problem, tar::Problem::Io(_)),
            Self::Tree { .. } | Self::TooLarge { .. } | Self::Image(_) => true,
            _ => false,
        }
    }

    /// A stable name for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Tar(e) => e.code(),
            Self::Tree { source, .. } => source.code(),
            Self::Input { .. } => "input-io",
            Self::Changed { .. } => "input-changed",
            Self::Overlay { .. } => "overlay-unsupported",
            Self::Index { .. } => "overlay-index",
            Self::Marks { .. } => "overlay-marks",
            Self::Owner { .. } => "owner-unmapped",
            Self::Output(_) => "output-io",
            Self::TooLarge { .. } => "image-too-large",
            Self::Options(_) => "bad-options",
            Self::Internal(_) => "internal",
            Self::Image(e) => e.code(),
        }
    }
}
