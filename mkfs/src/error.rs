//! What can go wrong while an image is built.

use std::io;

use erolith_errors::{ErrorClass, ErrorFacts, ErrorStatus};

use crate::{tar, tree};

/// Why no image was built. Nothing of it is to be used then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The archive is not one.
    #[error(transparent)]
    Tar(#[from] tar::Error),
    /// A member cannot be part of the tree.
    #[error("member at byte {offset}")]
    Tree {
        /// Where the member begins in the input; 0 for sources without an order.
        offset: u64,
        /// Why.
        source: tree::Error,
    },
    /// The input could not be read.
    #[error("reading {what}")]
    Input {
        /// Which input.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The image could not be written.
    #[error("writing the image")]
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
    #[error(transparent)]
    Image(#[from] crate::image::Error),
}

impl Error {
    /// What callers decide by.
    #[must_use]
    pub fn facts(&self) -> ErrorFacts<'_> {
        use ErrorClass::{Input, Io, Usage};
        use ErrorStatus::InvalidArgument;
        let (class, status) = match self {
            Self::Input { source, .. } | Self::Output(source) => (Io, ErrorStatus::of_io(source)),
            Self::Options(_) => (Usage, InvalidArgument),
            _ => (Input, InvalidArgument),
        };
        ErrorFacts::new(self.code(), class, status)
    }

    /// Whether the content of the input caused the error, and not reading it or writing the image.
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::Tar(error) => !matches!(error.problem, tar::Problem::Io(_)),
            Self::Tree { .. } | Self::TooLarge { .. } | Self::Image(_) => true,
            _ => false,
        }
    }
}

erolith_errors::error_codes! {
    Error {
        Self::Input { .. } => "input-io", "the input cannot be read";
        Self::Output(_) => "output-io", "the image cannot be written";
        Self::TooLarge { .. } => "image-too-large", "the image would be larger than the limit, or than the format can address";
        Self::Options(_) => "bad-options", "an option contradicts another one, or the input";
        Self::Internal(_) => "internal", "the image that was planned is not the one that would be written";
    }
    wrapped {
        Self::Tar(error) => error.code();
        Self::Tree { source, .. } => source.code();
        Self::Image(error) => error.code();
    }
}
