//! What can be wrong with a hash tree.

use std::fmt;
use std::io;

use erolith_errors::{ErrorClass, ErrorFacts, ErrorStatus};

use super::RootHash;

/// What a block of a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockContents {
    /// Data of the image.
    Data,
    /// Digests: level 0 has those of the data.
    Digests {
        /// The level, from the data up.
        level: usize,
    },
}

impl fmt::Display for BlockContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data => f.write_str("data"),
            Self::Digests { level } => write!(f, "hash level {level}"),
        }
    }
}

/// Why there is no tree, or why an image is not what its tree says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no superblock of a tree.
    #[error("there is no dm-verity hash tree at byte {offset}")]
    NoTree {
        /// Where it should be.
        offset: u64,
    },
    /// The superblock asks for something else than is understood here.
    #[error("the dm-verity superblock at byte {offset}: {why}")]
    Super {
        /// Where it is.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// The file ends before the tree does.
    #[error(
        "the dm-verity hash tree at byte {offset} ends at byte {end}, and the file at byte {size}"
    )]
    Short {
        /// Where the tree begins.
        offset: u64,
        /// Where it ends.
        end: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// The tree is not the one that was expected, or its top block is damaged.
    #[error("the dm-verity root hash is {actual}, and not {expected}")]
    Root {
        /// What was expected.
        expected: RootHash,
        /// What the tree has.
        actual: RootHash,
    },
    /// A block is not what its digest says. It is the first one; those of digests are looked at before data.
    #[error(
        "block {block} of the {holds}, at byte {offset}, is not what its dm-verity digest says"
    )]
    Block {
        /// What is in it.
        holds: BlockContents,
        /// Its number among those of its kind.
        block: u64,
        /// Where it is in the file.
        offset: u64,
    },
    /// A root hash is 64 hexadecimal digits, `sha256:` before them or not.
    #[error("{text:?} is no root hash: that is 64 hexadecimal digits")]
    BadRoot {
        /// What was given, at most 100 characters of it.
        text: String,
    },
    /// A sidecar that does not say how to open the device.
    #[error("the dm-verity sidecar: {why}")]
    Sidecar {
        /// What is wrong.
        why: &'static str,
    },
    /// An image that no tree can be made for.
    #[error("{0}")]
    Unfit(&'static str),
    /// The work was cancelled.
    #[error("called off")]
    Stopped,
    /// Reading or writing failed.
    #[error("{action} at byte {offset}")]
    Io {
        /// What was done.
        action: &'static str,
        /// Where in the file.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// What callers decide by.
    #[must_use]
    pub fn facts(&self) -> ErrorFacts<'_> {
        let class = match self {
            Self::Io { .. } => ErrorClass::Io,
            Self::BadRoot { .. } => ErrorClass::Usage,
            Self::Stopped => ErrorClass::Interrupted,
            _ => ErrorClass::Input,
        };
        ErrorFacts::new(self.code(), class, ErrorStatus::InvalidArgument)
    }
}

erolith_errors::error_codes! {
    Error {
        Self::NoTree { .. } => "dmverity-no-tree", "there is no superblock of a hash tree";
        Self::Super { .. } => "dmverity-super", "the superblock of the hash tree asks for something that is not supported";
        Self::Short { .. } => "dmverity-short", "the file ends before its hash tree does";
        Self::Root { .. } => "dmverity-root", "the root hash is not the expected one";
        Self::Block { .. } => "dmverity-block", "a block is not what its digest says";
        Self::BadRoot { .. } => "dmverity-bad-root", "a root hash is not 64 hexadecimal digits";
        Self::Sidecar { .. } => "dmverity-sidecar", "a sidecar does not say how to open the device";
        Self::Unfit(_) => "dmverity-unfit", "no hash tree can be made for the image";
        Self::Stopped => "cancelled", "the work was cancelled";
        Self::Io { .. } => "dmverity-io", "reading or writing failed";
    }
}

/// For `map_err`: what was done, and where.
pub(super) fn failed(action: &'static str, offset: u64) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, offset, source }
}
