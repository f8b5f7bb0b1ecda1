//! Listings written by hand: `listing([dir("a"), file("a/f", b"x").mode(0o600), link("a/g", "a/f")])`.
//!
//! Defaults are those of [`crate::tarball`]: owned by root, modes 0644 and 0755 (0777 for symbolic links), one fixed
//! modification time. Directories that are needed and not named are implicit: 0755, root, time zero.

use std::collections::BTreeMap;

use super::{Listing, Node, Path, Type, digest, parent};
use crate::tarball::MTIME;

/// A path and what is there.
#[derive(Debug, Clone)]
pub struct Item {
    path: Path,
    /// For a hard link, the path of another name.
    same_as: Option<Path>,
    node: Node,
}

fn item(path: impl AsRef<[u8]>, kind: Type, mode: u32) -> Item {
    let node = Node {
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Some((MTIME, 0)),
        size: 0,
        content: None,
        target: Vec::new(),
        rdev: (0, 0),
        leader: Path::new(),
        nlink: None,
        xattrs: BTreeMap::new(),
    };
    Item { path: path.as_ref().to_vec(), same_as: None, node }
}

/// A directory.
pub fn dir(path: impl AsRef<[u8]>) -> Item {
    item(path, Type::Dir, 0o755)
}

/// A directory that no entry described.
pub fn implicit(path: impl AsRef<[u8]>) -> Item {
    dir(path).mtime(0, 0)
}

/// A regular file.
pub fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Item {
    let data = data.as_ref();
    let mut out = item(path, Type::File, 0o644);
    out.node.size = data.len() as u64;
    out.node.content = digest(out.node.size, |buf, at| {
        let from = usize::try_from(at).map_err(|e| e.to_string())?;
        buf.copy_from_slice(&data[from..from + buf.len()]);
        Ok(())
    })
    .ok();
    out
}

/// A regular file of `size` bytes that is zeros but for the given runs.
pub fn sparse(path: impl AsRef<[u8]>, size: u64, runs: &[(u64, &[u8])]) -> Item {
    let mut out = item(path, Type::File, 0o644);
    out.node.size = size;
    out.node.content = digest(size, |buf, at| {
        buf.fill(0);
        for &(start, data) in runs {
            let (from, to) =
                (start.max(at), (start + data.len() as u64).min(at + buf.len() as u64));
            if from < to {
                let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                buf[index(from - at)..index(to - at)]
                    .copy_from_slice(&data[index(from - start)..index(to - start)]);
            }
        }
        Ok(())
    })
    .ok();
    out
}

/// A symbolic link.
pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    let mut out = item(path, Type::Symlink, 0o777);
    out.node.target = target.as_ref().to_vec();
    out.node.size = out.node.target.len() as u64;
    out
}

/// A character device.
pub fn char(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Item {
    let mut out = item(path, Type::Char, 0o644);
    out.node.rdev = (major, minor);
    out
}

/// A block device.
pub fn block(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Item {
    let mut out = item(path, Type::Block, 0o644);
    out.node.rdev = (major, minor);
    out
}

/// A FIFO.
pub fn fifo(path: impl AsRef<[u8]>) -> Item {
    item(path, Type::Fifo, 0o644)
}

/// A socket.
pub fn socket(path: impl AsRef<[u8]>) -> Item {
    item(path, Type::Socket, 0o644)
}

/// Another name of the inode at `other`.
pub fn link(path: impl AsRef<[u8]>, other: impl AsRef<[u8]>) -> Item {
    let mut out = item(path, Type::File, 0);
    out.same_as = Some(other.as_ref().to_vec());
    out
}

impl Item {
    /// Permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.node.mode = mode;
        self
    }

    /// Owner and group.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.node.uid, self.node.gid) = (uid, gid);
        self
    }

    /// Modification time.
    #[must_use]
    pub fn mtime(mut self, sec: i64, nsec: u32) -> Self {
        self.node.mtime = Some((sec, nsec));
        self
    }

    /// One more extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.node.xattrs.insert(name.as_ref().to_vec(), value.as_ref().to_vec());
        self
    }
}

/// The tree of these items, with implicit directories, link groups and link counts worked out.
///
/// # Panics
/// When a hard link names nothing: the test that does that is wrong.
pub fn listing(items: impl IntoIterator<Item = Item>) -> Listing {
    let mut nodes = BTreeMap::new();
    let mut links = Vec::new();
    for Item { path, same_as, node } in items {
        match same_as {
            Some(other) => links.push((path, other)),
            None => {
                nodes.insert(path, node);
            }
        }
    }
    // What each path is the same inode as, itself when nothing else.
    let mut inodes: BTreeMap<Path, Path> = nodes
        .iter()
        .filter(|(_, node)| node.kind != Type::Dir)
        .map(|(path, _)| (path.clone(), path.clone()))
        .collect();
    for (path, other) in links {
        let node: Node = nodes.get(&other).cloned().expect("a hard link names an earlier item");
        let inode = inodes.get(&other).cloned().unwrap_or_else(|| other.clone());
        inodes.insert(path.clone(), inode);
        nodes.insert(path, node);
    }
    let mut out = Listing { nodes };
    out.fill_parents();
    out.group(&inodes);
    out.count_links();
    out
}

impl Listing {
    /// Adds the directories that are needed and not there, the root among them.
    fn fill_parents(&mut self) {
        let mut missing: Vec<Path> = vec![Path::new()];
        for path in self.nodes.keys() {
            let mut path = path.as_slice();
            while let Some(up) = parent(path) {
                if self.nodes.contains_key(up) {
                    break;
                }
                missing.push(up.to_vec());
                path = up;
            }
        }
        for path in missing {
            self.nodes.entry(path).or_insert_with(|| implicit("").node);
        }
    }

    /// Sets every link count to what the tree implies.
    pub(crate) fn count_links(&mut self) {
        let mut names: BTreeMap<Path, u64> = BTreeMap::new();
        let mut subdirs: BTreeMap<Path, u64> = BTreeMap::new();
        for (path, node) in &self.nodes {
            match (node.kind, parent(path)) {
                (Type::Dir, Some(up)) => *subdirs.entry(up.to_vec()).or_default() += 1,
                (Type::Dir, None) => {}
                _ => *names.entry(node.leader.clone()).or_default() += 1,
            }
        }
        for (path, node) in &mut self.nodes {
            node.nlink = match node.kind {
                Type::Dir => Some(2 + subdirs.get(path).copied().unwrap_or(0)),
                _ => names.get(&node.leader).copied(),
            };
        }
    }
}
