//! What a check has reached: names and directories, by which findings get their paths.

use std::collections::BTreeMap;

use crate::image::{DirBlock, Image, Inode};
use crate::io::ReadAt;

/// The image as the checks see it.
pub(super) type Foreign<'a> = Image<&'a dyn ReadAt>;

/// A name, by the place of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// The inode it leads to.
    pub(super) nid: u64,
    /// The directory, as an index into [`TreeState::dirs`]; [`NO_DIR`] for an inode without a name.
    pub(super) dir: u32,
    /// The block in the directory.
    pub(super) block: u64,
    /// The entry in the block: at most 64 KiB / 12.
    pub(super) index: u16,
    /// The type the entry claims.
    pub(super) file_type: u8,
}

impl Name {
    /// False for the inodes that the superblock leads to.
    pub(super) fn has_dir(&self) -> bool {
        self.dir != NO_DIR
    }
}

/// Stands for the directory of an inode that is in none: the root, the packed inode, the metabox.
pub(super) const NO_DIR: u32 = u32::MAX;

/// A directory that was reached.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) inode: Inode,
    /// Index of the parent; its own for the root.
    pub(super) parent: u32,
    /// Its name in the parent.
    pub(super) name: Box<[u8]>,
    /// Directories in it.
    pub(super) subdirs: u32,
}

/// Everything that was reached.
#[derive(Debug, Default)]
pub(super) struct TreeState {
    pub(super) dirs: Vec<Dir>,
    /// Index in `dirs` by nid.
    pub(super) by_nid: BTreeMap<u64, u32>,
    pub(super) names: Vec<Name>,
}

impl TreeState {
    /// The directory with number `nid`.
    pub(super) fn dir(&self, nid: u64) -> Option<&Dir> {
        self.dirs.get(usize::try_from(*self.by_nid.get(&nid)?).ok()?)
    }

    pub(super) fn at(&self, index: u32) -> Option<&Dir> {
        self.dirs.get(usize::try_from(index).ok()?)
    }

    /// The path of a directory.
    pub(super) fn dir_path(&self, index: u32) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = index;
        while let Some(dir) = self.at(at).filter(|dir| dir.parent != at) {
            parts.push(&*dir.name);
            at = dir.parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    /// True when the directory `nid` is `index` or above it.
    pub(super) fn is_above(&self, nid: u64, index: u32) -> bool {
        let mut at = index;
        while let Some(dir) = self.at(at) {
            if dir.inode.nid == nid {
                return true;
            }
            if dir.parent == at {
                break;
            }
            at = dir.parent;
        }
        false
    }

    /// The path of a name; the entry is read again.
    pub(super) fn path(&self, image: &Foreign<'_>, name: &Name) -> Vec<u8> {
        let Some(dir) = self.at(name.dir) else { return Vec::new() };
        let mut path = self.dir_path(name.dir);
        let offset = name.block.saturating_mul(image.superblock().block_size());
        let mut bytes = Vec::new();
        let entry = image.read_dir_block(&dir.inode, offset, &mut bytes).ok().and_then(|()| {
            let block = DirBlock::parse(&bytes).ok()?;
            Some(block.entry(usize::from(name.index)).ok()?.1.to_vec())
        });
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(entry.unwrap_or_default());
        path
    }
}
