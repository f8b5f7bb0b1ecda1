//! Walking a tree.

use std::collections::BTreeSet;

use super::Image;
use super::corruption::{Corruption, CorruptionKind, Error};
use super::dir::ReadDir;
use super::inode::Inode;
use crate::io::ReadAt;
use crate::names;

/// Deepest nesting of directories that is walked. A path of 4096 bytes, the longest Linux takes, has at most
/// half as many components.
pub const DEPTH_MAX: usize = 2048;

/// Something met on a walk.
#[derive(Debug, Clone, Copy)]
pub struct WalkEntry<'a> {
    /// The path from where the walk started, without a leading slash; empty for the start itself.
    pub path: &'a [u8],
    /// The directory it is in; its own nid for the start.
    pub parent: u64,
    /// The inode.
    pub inode: Inode,
}

impl WalkEntry<'_> {
    /// The last component of the path.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        names::split(self.path).1
    }
}

/// A walk over a tree: each directory before what is in it, names in the order they are stored. Every
/// directory is entered once; meeting one again is an error.
#[derive(Debug)]
pub struct Walk<'a, R: ReadAt> {
    image: &'a Image<R>,
    start: Option<u64>,
    /// Open directories and the length of their paths.
    stack: Vec<(ReadDir<'a, R>, usize)>,
    path: Vec<u8>,
    seen: BTreeSet<u64>,
}

impl<'a, R: ReadAt> Walk<'a, R> {
    pub(super) fn new(image: &'a Image<R>, start: u64) -> Self {
        let (stack, path, seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { image, start: Some(start), stack, path, seen }
    }

    /// The next entry; `None` at the end. After an error the walk goes on behind the entry or the directory
    /// that is to blame.
    ///
    /// # Errors
    /// Any fault in an inode or a directory; [`CorruptionKind::DirTwice`] for a second way to a directory, which a
    /// cycle is too; [`CorruptionKind::DirDeep`] below [`DEPTH_MAX`].
    pub fn next_entry(&mut self) -> Result<Option<WalkEntry<'_>>, Error> {
        if let Some(nid) = self.start.take() {
            let inode = self.image.stat(nid)?;
            self.enter(&inode)?;
            return Ok(Some(WalkEntry { path: &self.path, parent: nid, inode }));
        }
        while let Some((dir, len)) = self.stack.last_mut() {
            self.path.truncate(*len);
            let parent = dir.inode().nid;
            let Some(entry) = dir.next() else {
                self.stack.pop();
                continue;
            };
            let entry = entry?;
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&entry.name);
            let inode = self.image.stat(entry.nid)?;
            self.enter(&inode)?;
            return Ok(Some(WalkEntry { path: &self.path, parent, inode }));
        }
        Ok(None)
    }

    fn enter(&mut self, inode: &Inode) -> Result<(), Error> {
        if !inode.is_dir() {
            return Ok(());
        }
        let fault = if !self.seen.insert(inode.nid) {
            Some(CorruptionKind::DirTwice)
        } else if self.stack.len() >= DEPTH_MAX {
            Some(CorruptionKind::DirDeep)
        } else {
            None
        };
        if let Some(fault) = fault {
            let path = self.path.escape_ascii();
            return Err(Corruption::new(fault).nid(inode.nid).at(inode.offset).detail(path).into());
        }
        self.stack.push((ReadDir::new(self.image, *inode), self.path.len()));
        Ok(())
    }
}
