//! What overlayfs makes of layers, read without mounting anything: a [`OverlayLayer`] is an image or a directory, a [`Stack`]
//! shows several of them as the kernel would, and [`changes`] says what one stack has that another has not.
//!
//! When the new stack is an upper directory over the old one, only the upper is listed; the layers below are asked for
//! single names. What the marks of overlayfs mean is in [`erolith_mkfs::marks`], and nowhere else.

mod attributes;
mod change;
mod changes;
pub mod changeset;
mod content;
pub mod directory;
mod error;
mod handles;
mod index;
mod layer;
mod links;
mod owners;
mod ranges;
mod source;
mod stack;
#[cfg(test)]
mod tests;

pub use attributes::Attributes;
pub use change::{Change, ChangeKind, Differences};
pub use changes::{DiffOptions, changes};
pub use content::Content;
pub use erolith_mkfs::marks::Marks;
pub use error::Error;
pub use handles::{FileHandle, FileHandles, IndexDir, Origin};
pub use index::INDEX_DIR;
pub use layer::{Node, OverlayLayer};
pub use owners::Owners;
pub use ranges::{BadMap, Range};
pub use source::{fill_from_changes, fill_from_dir};
pub use stack::{Shown, Stack};
