//! What changed between two stacks of layers as a source: the image is a layer.

use std::collections::BTreeMap;

use erolith_mkfs::build::Builder;
use erolith_mkfs::data::Content;
use erolith_mkfs::format::FileType;
use erolith_mkfs::io::Sink;
use erolith_mkfs::names;
use erolith_mkfs::tree::{self, NodeId, NodeKind, OverlayXattrs, XattrPolicy, XattrSetId};

use super::dir::{device, in_tree, store_found};
use crate::{Change, ChangeKind, Error};

/// Nodes by their paths: directories, and files with several names.
type Nodes<'a> = BTreeMap<&'a [u8], NodeId>;

/// Fills the tree of an image with `changes`, which must be all that [`changes`](crate::changes()) gave, in its order.
/// `each` is asked before each of them.
///
/// # Errors
/// What `each` says, and [`Error`]; the builder is of no use then.
pub fn fill_from_changes<S: Sink, E: From<Error>>(
    builder: &mut Builder<S>,
    changes: &[Change],
    mut each: impl FnMut(&Change) -> Result<(), E>,
) -> Result<(), E> {
    let mut nodes = Nodes::new();
    for change in changes {
        each(change)?;
        let set = xattrs_of(builder, change)?;
        if change.path.is_empty() {
            builder.tree_mut().describe_root(change.meta, set);
            nodes.insert(&[], NodeId::ROOT);
            continue;
        }
        let (parent, name) = names::split(&change.path);
        let parent = nodes.get(parent).copied().unwrap_or(NodeId::ROOT);
        let first = change.first.as_ref().and_then(|first| nodes.get(first.as_slice()));
        if let Some(&first) = first {
            builder.tree_mut().add_name(parent, name, first);
            continue;
        }
        let kind = kind_of(builder, change, parent)?;
        let node = builder.tree_mut().add(parent, name, change.meta, set, kind).map_err(in_tree)?;
        nodes.insert(&change.path, node);
    }
    Ok(())
}

fn xattrs_of<S: Sink>(builder: &mut Builder<S>, change: &Change) -> Result<XattrSetId, Error> {
    // What is no attribute of the file is out already; what a nested overlay wrote stays as it is on disk.
    let policy = XattrPolicy {
        keep_trusted: true,
        overlay: OverlayXattrs::Keep,
        ..builder.options().layer.xattrs
    };
    let (path, file_type) = (&change.path, change.file_type());
    builder.tree_mut().xattr_set(path, &change.xattrs, file_type, policy).map_err(in_tree)
}

fn kind_of<S: Sink>(
    builder: &mut Builder<S>,
    change: &Change,
    parent: NodeId,
) -> Result<NodeKind, Error> {
    if change.what == ChangeKind::Removed {
        return Ok(NodeKind::Whiteout);
    }
    Ok(match change.file_type() {
        FileType::Directory if change.hides => tree::new_opaque_dir(parent),
        FileType::Directory => tree::new_dir(parent),
        FileType::Regular => {
            NodeKind::File { size: change.size(), content: store_change(builder, change)? }
        }
        FileType::Symlink => NodeKind::Symlink(change.read_link()?.into()),
        FileType::Char => NodeKind::Char(device(&change.path, change.rdev())?),
        FileType::Block => NodeKind::Block(device(&change.path, change.rdev())?),
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
    })
}

fn store_change<S: Sink>(builder: &mut Builder<S>, change: &Change) -> Result<Content, Error> {
    if let Some((image, inode)) = change.in_image() {
        return Ok(builder.store_from_image(image, inode, &change.path)?);
    }
    let stored = change.with_found(|found| store_found(builder, found));
    stored.unwrap_or(Ok(Content::Empty))
}
