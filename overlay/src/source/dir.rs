//! A directory of the host as a source.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use erolith_mkfs::build::Builder;
use erolith_mkfs::data::{Content, KERNEL_COPY};
use erolith_mkfs::format::{FileType, encode_rdev};
use erolith_mkfs::io::Sink;
use erolith_mkfs::meta::Xattr;
use erolith_mkfs::names::shown;
use erolith_mkfs::tree::{self, NodeId, NodeKind, XattrSetId};
use rustix::io::Errno;

use crate::Error;
use crate::directory::{HostEntry, walk};

/// Inodes with several names, by device and number.
type Links = BTreeMap<(u64, u64), NodeId>;

/// Fills the tree of an image with everything below the directory `root`, on whatever filesystem. Names are names: none is
/// a whiteout. `go_on` is asked before each name.
///
/// # Errors
/// What `go_on` says, and [`Error`]; the builder is of no use then.
pub fn fill_from_dir<S: Sink, E: From<Error>>(
    builder: &mut Builder<S>,
    root: BorrowedFd<'_>,
    mut go_on: impl FnMut() -> Result<(), E>,
) -> Result<(), E> {
    let mut links = Links::new();
    walk(root, |parent: Option<&NodeId>, found| {
        go_on()?;
        Ok(match parent {
            None => Some(add_root(builder, found)?),
            Some(parent) => add_name(builder, *parent, found, &mut links)?,
        })
    })
}

fn add_root<S: Sink>(builder: &mut Builder<S>, found: &HostEntry<'_>) -> Result<NodeId, Error> {
    let xattrs = found.xattrs()?;
    let set = kept(builder, found, &xattrs)?;
    builder.tree_mut().describe_root(found.meta(), set);
    Ok(NodeId::ROOT)
}

fn kept<S: Sink>(
    builder: &mut Builder<S>,
    found: &HostEntry<'_>,
    xattrs: &[Xattr],
) -> Result<XattrSetId, Error> {
    let policy = builder.options().layer.xattrs;
    let set = builder.tree_mut().xattr_set(found.path(), xattrs, found.file_type(), policy);
    set.map_err(in_tree)
}

/// Adds one name. Returns a directory, to be entered later.
fn add_name<S: Sink>(
    builder: &mut Builder<S>,
    parent: NodeId,
    found: &HostEntry<'_>,
    links: &mut Links,
) -> Result<Option<NodeId>, Error> {
    if let Some(&node) = links.get(&found.id()) {
        builder.tree_mut().add_name(parent, found.name(), node);
        return Ok(None);
    }
    let xattrs = found.xattrs()?;
    let set = kept(builder, found, &xattrs)?;
    let kind = kind_of(builder, parent, found)?;
    let node = builder.tree_mut().add(parent, found.name(), found.meta(), set, kind);
    let node = node.map_err(in_tree)?;
    if found.has_other_names() {
        links.insert(found.id(), node);
    }
    Ok((found.file_type() == FileType::Directory).then_some(node))
}

fn kind_of<S: Sink>(
    builder: &mut Builder<S>,
    parent: NodeId,
    found: &HostEntry<'_>,
) -> Result<NodeKind, Error> {
    Ok(match found.file_type() {
        FileType::Directory => tree::new_dir(parent),
        FileType::Regular => {
            NodeKind::File { size: found.size(), content: store_found(builder, found)? }
        }
        FileType::Symlink => NodeKind::Symlink(found.read_link()?.into()),
        FileType::Char => NodeKind::Char(device(found.path(), found.rdev())?),
        FileType::Block => NodeKind::Block(device(found.path(), found.rdev())?),
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
    })
}

/// Stores the content of a regular file.
pub(super) fn store_found<S: Sink>(
    builder: &mut Builder<S>,
    found: &HostEntry<'_>,
) -> Result<Content, Error> {
    let (file, size) = (found.open()?, found.size());
    let content = if size >= KERNEL_COPY {
        builder.data_mut().copy_file(file.as_fd(), 0, size).map_err(Error::from)
    } else {
        store_small(builder, found, &file, size)
    };
    // A file that became shorter fails to be copied: that it changed says more.
    found.verify_unchanged(&file)?;
    content
}

fn store_small<S: Sink>(
    builder: &mut Builder<S>,
    found: &HostEntry<'_>,
    file: &OwnedFd,
    size: u64,
) -> Result<Content, Error> {
    let data = builder.data_mut();
    let mut writer = data.file(size, None)?;
    let mut buf = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut left = buf.as_mut_slice();
    while !left.is_empty() {
        match rustix::io::read(file, &mut *left) {
            Ok(0) => return Err(found.changed()),
            Ok(n) => left = left.get_mut(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(e) => return Err(found.failed(e)),
        }
    }
    writer.write(data, &buf)?;
    Ok(writer.finish(data)?)
}

/// The number of a device as it is stored.
pub(super) fn device(path: &[u8], (major, minor): (u32, u32)) -> Result<u32, Error> {
    let bad = || in_tree(tree::Error::BadDevice { path: shown(path), major, minor });
    encode_rdev(major, minor).ok_or_else(bad)
}

/// What keeps a file out of the tree. It is at no byte of any archive.
pub(super) fn in_tree(source: tree::Error) -> Error {
    Error::Image(erolith_mkfs::Error::Tree { offset: 0, source })
}
