//! A name that two stacks show differently, and in what.

use super::content::Content;
use super::{Node, Shown};
use crate::Error;
use crate::directory::HostEntry;
use erolith_mkfs::format::FileType;
use erolith_mkfs::image::{Image, Inode};
use erolith_mkfs::meta::{Meta, Xattr};
use erolith_mkfs::names::shown;

/// In what a file differs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Differences {
    /// It is something else.
    pub kind: bool,
    /// Content, target of a symbolic link, number of a device.
    pub content: bool,
    /// Permissions.
    pub mode: bool,
    /// Owner or group.
    pub owner: bool,
    /// Modification time.
    pub time: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// It is one with others that it was not one with.
    pub links: bool,
}

/// What became of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Nothing. It is on the way to changes, or the root.
    Kept,
    /// It is new.
    Added,
    /// It is no longer the same.
    Modified(Differences),
    /// It is gone.
    Removed,
}

/// A name, and what became of it.
#[derive(Debug)]
pub struct Change {
    /// The path, without a slash at either end; empty for the root.
    pub path: Vec<u8>,
    /// What became of it.
    pub what: ChangeKind,
    /// A directory of which nothing shows through that was there before.
    pub hides: bool,
    /// Owner, permissions and time; the owner is that of the container. Nothing for what is gone.
    pub meta: Meta,
    /// Extended attributes that are part of the layer, in the order of their names.
    pub xattrs: Vec<Xattr>,
    /// The path of the first name of the same inode, if this is another one.
    pub first: Option<Vec<u8>>,
    /// What the old stack shows.
    pub(super) old: Option<Node>,
    pub(super) new: Option<Shown>,
    /// The number of the change that is the directory.
    pub(super) parent: usize,
}

impl Change {
    pub(super) fn node(&self) -> Option<&Node> {
        self.new.as_ref().and_then(Shown::node)
    }

    /// What it is; for what is gone, what it was.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        self.node().or(self.old.as_ref()).map_or(FileType::Regular, Node::file_type)
    }

    /// Bytes of a regular file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.node().map_or(0, file_size)
    }

    /// Bytes of the regular file that was there before.
    #[must_use]
    pub fn old_size(&self) -> u64 {
        self.old.as_ref().map_or(0, file_size)
    }

    /// Major and minor number of a device.
    #[must_use]
    pub fn rdev(&self) -> (u32, u32) {
        self.node().map(Node::rdev).unwrap_or_default()
    }

    /// Target of a symbolic link; empty for anything else.
    ///
    /// # Errors
    /// As [`Node::read_link`].
    pub fn read_link(&self) -> Result<Vec<u8>, Error> {
        match self.node() {
            Some(node) if node.file_type() == FileType::Symlink => node.read_link(),
            _ => Ok(Vec::new()),
        }
    }

    /// The content of a regular file.
    ///
    /// # Errors
    /// As [`Node::content`].
    pub fn content(&self) -> Result<Content<'_>, Error> {
        let gone = Error::Overlay { what: shown(&self.path), why: "it is gone" };
        self.new.as_ref().ok_or(gone)?.content()
    }

    /// Where the content is, if it is in an image.
    pub(crate) fn in_image(&self) -> Option<(&Image, &Inode)> {
        self.new.as_ref().and_then(Shown::data).and_then(Node::in_image)
    }

    /// Calls `look` with the file that the content is in, if that is in a directory.
    pub(crate) fn with_found<T>(
        &self,
        look: impl FnOnce(&HostEntry<'_>) -> Result<T, Error>,
    ) -> Option<Result<T, Error>> {
        self.new.as_ref().and_then(Shown::data)?.with_found(look)
    }
}

fn file_size(node: &Node) -> u64 {
    if node.file_type() == FileType::Regular { node.size() } else { 0 }
}
