//! A directory of the host as a source.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::KERNEL_COPY;
use crate::Error;
use crate::build::Builder;
use crate::data::Content;
use crate::directory::{HostEntry, walk};
use crate::format::{FileType, encode_rdev};
use crate::io::Sink;
use crate::meta::Xattr;
use crate::tree::{self, NodeId, NodeKind, XattrSetId, shown};

/// Inodes with several names, by device and number.
type Links = BTreeMap<(u64, u64), NodeId>;

impl<S: Sink> Builder<S> {
    /// Fills the tree with everything below the directory `root`, on whatever filesystem. Names are names:
    /// none is a whiteout. `go_on` is asked before each name.
    ///
    /// # Errors
    /// What `go_on` says, and [`Error`]; the builder is of no use then.
    pub fn fill_from_dir<E: From<Error>>(
        &mut self,
        root: BorrowedFd<'_>,
        mut go_on: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut links = Links::new();
        walk(root, |parent: Option<&NodeId>, found| {
            go_on()?;
            Ok(match parent {
                None => Some(self.add_root(found)?),
                Some(parent) => self.add_name_from(*parent, found, &mut links)?,
            })
        })
    }

    fn add_root(&mut self, found: &HostEntry<'_>) -> Result<NodeId, Error> {
        let xattrs = found.xattrs()?;
        let set = self.kept(found, &xattrs)?;
        self.tree.describe_root(found.meta(), set);
        Ok(NodeId::ROOT)
    }

    fn kept(&mut self, found: &HostEntry<'_>, xattrs: &[Xattr]) -> Result<XattrSetId, Error> {
        self.tree
            .xattr_set(found.path(), xattrs, found.file_type(), self.options.layer.xattrs)
            .map_err(|source| Error::Tree { offset: 0, source })
    }

    /// Adds one name. Returns a directory, to be entered later.
    fn add_name_from(
        &mut self,
        parent: NodeId,
        found: &HostEntry<'_>,
        links: &mut Links,
    ) -> Result<Option<NodeId>, Error> {
        if let Some(&node) = links.get(&found.id()) {
            self.tree.add_name(parent, found.name(), node);
            return Ok(None);
        }
        let xattrs = found.xattrs()?;
        let set = self.kept(found, &xattrs)?;
        let kind = self.kind_from(parent, found)?;
        let node = self
            .tree
            .add(parent, found.name(), found.meta(), set, kind)
            .map_err(|source| Error::Tree { offset: 0, source })?;
        if found.has_other_names() {
            links.insert(found.id(), node);
        }
        Ok((found.file_type() == FileType::Directory).then_some(node))
    }

    fn kind_from(&mut self, parent: NodeId, found: &HostEntry<'_>) -> Result<NodeKind, Error> {
        Ok(match found.file_type() {
            FileType::Directory => tree::new_dir(parent),
            FileType::Regular => {
                NodeKind::File { size: found.size(), content: self.store_found(found)? }
            }
            FileType::Symlink => NodeKind::Symlink(found.read_link()?.into()),
            FileType::Char => NodeKind::Char(device(found.path(), found.rdev())?),
            FileType::Block => NodeKind::Block(device(found.path(), found.rdev())?),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
        })
    }

    /// Stores the content of a regular file.
    pub(super) fn store_found(&mut self, found: &HostEntry<'_>) -> Result<Content, Error> {
        let (file, size) = (found.open()?, found.size());
        let content = if size >= KERNEL_COPY {
            self.data.copy_file(file.as_fd(), 0, size)
        } else {
            self.store_small(found, &file, size)
        };
        // A file that became shorter fails to be copied: that it changed says more.
        found.verify_unchanged(&file)?;
        content
    }

    fn store_small(
        &mut self,
        found: &HostEntry<'_>,
        file: &OwnedFd,
        size: u64,
    ) -> Result<Content, Error> {
        let mut writer = self.data.file(size, None)?;
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
        writer.write(&mut self.data, &buf)?;
        writer.finish(&mut self.data)
    }
}

/// The number of a device as it is stored.
pub(super) fn device(path: &[u8], (major, minor): (u32, u32)) -> Result<u32, Error> {
    encode_rdev(major, minor).ok_or_else(|| Error::Tree {
        offset: 0,
        source: tree::Error::BadDevice { path: shown(path), major, minor },
    })
}
