//! What changed between two stacks of layers as a source: the image is a layer.

use std::collections::BTreeMap;

use crate::Error;
use crate::build::Builder;
use crate::data::Content;
use crate::format::FileType;
use crate::io::Sink;
use crate::names;
use crate::overlay::{Change, ChangeKind};
use crate::tree::{self, NodeId, NodeKind, OverlayXattrs, XattrPolicy, XattrSetId};

use super::dir::device;

/// Nodes by their paths: directories, and files with several names.
type Nodes<'a> = BTreeMap<&'a [u8], NodeId>;

impl<S: Sink> Builder<S> {
    /// Fills the tree with `changes`, which must be all that [`changes`](crate::overlay::changes) gave, in its order.
    /// `each` is asked before each of them.
    ///
    /// # Errors
    /// What `each` says, and [`Error`]; the builder is of no use then.
    pub fn fill_from_changes<E: From<Error>>(
        &mut self,
        changes: &[Change],
        mut each: impl FnMut(&Change) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut nodes = Nodes::new();
        for change in changes {
            each(change)?;
            let set = self.set_of(change)?;
            if change.path.is_empty() {
                self.tree.describe_root(change.meta, set);
                nodes.insert(&[], NodeId::ROOT);
                continue;
            }
            let (parent, name) = names::split(&change.path);
            let parent = nodes.get(parent).copied().unwrap_or(NodeId::ROOT);
            let first = change.first.as_ref().and_then(|first| nodes.get(first.as_slice()));
            if let Some(&first) = first {
                self.tree.add_name(parent, name, first);
                continue;
            }
            let kind = self.kind_of_change(change, parent)?;
            let node = self.tree.add(parent, name, change.meta, set, kind).map_err(in_tree)?;
            nodes.insert(&change.path, node);
        }
        Ok(())
    }

    fn set_of(&mut self, change: &Change) -> Result<XattrSetId, Error> {
        // What is no attribute of the file is out already; what a nested overlay wrote stays as it is on disk.
        let policy = XattrPolicy {
            keep_trusted: true,
            overlay: OverlayXattrs::Keep,
            ..self.options.layer.xattrs
        };
        let file_type = change.file_type();
        self.tree.xattr_set(&change.path, &change.xattrs, file_type, policy).map_err(in_tree)
    }

    fn kind_of_change(&mut self, change: &Change, parent: NodeId) -> Result<NodeKind, Error> {
        if change.what == ChangeKind::Removed {
            return Ok(NodeKind::Whiteout);
        }
        Ok(match change.file_type() {
            FileType::Directory if change.hides => tree::new_opaque_dir(parent),
            FileType::Directory => tree::new_dir(parent),
            FileType::Regular => {
                NodeKind::File { size: change.size(), content: self.content_of(change)? }
            }
            FileType::Symlink => NodeKind::Symlink(change.read_link()?.into()),
            FileType::Char => NodeKind::Char(device(&change.path, change.rdev())?),
            FileType::Block => NodeKind::Block(device(&change.path, change.rdev())?),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
        })
    }

    fn content_of(&mut self, change: &Change) -> Result<Content, Error> {
        if let Some((image, inode)) = change.in_image() {
            return self.store_from(image, inode, &change.path);
        }
        let stored = change.with_found(|found| self.store_found(found));
        stored.unwrap_or(Ok(Content::Empty))
    }
}

fn in_tree(source: tree::Error) -> Error {
    Error::Tree { offset: 0, source }
}
