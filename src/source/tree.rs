//! The tree that a command reads: that of one image, or what several layers show together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use erolith_differ::content::Blob;
use erolith_mkfs::image::{Corruption, CorruptionKind, DEPTH_MAX, Error, Inode, Walk as ImageWalk};
use erolith_mkfs::meta::Xattr;
use erolith_overlay::{Shown, Stack};

use super::{LINKS_MAX, Missing, Opened, components, path_bytes};
use crate::exit::BadInput;
use crate::term::Quoted;

/// A tree of files.
#[derive(Debug)]
pub(crate) struct ImageTree {
    /// The images, the topmost first. An image by itself is shown as it is, with whiteouts and marks.
    images: Vec<Opened>,
    /// What they show together, if that is wanted.
    merged: Option<Stack>,
}

/// Something in a tree.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    /// The image it is in.
    pub(crate) image: &'a Opened,
    /// Its inode there.
    pub(crate) inode: Inode,
    /// The layer that this image is, 0 the lowest, and what is shown; in a merged tree.
    shown: Option<(usize, Shown)>,
    /// Attributes of a merged tree.
    xattrs: Option<Vec<Xattr>>,
}

impl Node<'_> {
    /// Its extended attributes, as a mount shows them.
    pub(crate) fn xattrs(&self) -> Result<Vec<Xattr>, Error> {
        match &self.xattrs {
            Some(xattrs) => Ok(xattrs.clone()),
            None => self.image.xattrs(&self.inode),
        }
    }

    /// The layer it is in, 0 the lowest; nothing in a tree of one image.
    pub(crate) fn layer(&self) -> Option<usize> {
        self.shown.as_ref().map(|(layer, _)| *layer)
    }

    /// What tells it from others of its tree.
    fn id(&self) -> (usize, u64) {
        (self.layer().unwrap_or(0), self.inode.nid)
    }
}

impl ImageTree {
    /// The tree of one image.
    pub(super) fn plain(image: Opened) -> Self {
        Self { images: vec![image], merged: None }
    }

    /// What layers show together: `images` and `stack` are the same layers, the topmost first.
    pub(super) fn merged(images: Vec<Opened>, stack: Stack) -> Self {
        Self { images, merged: Some(stack) }
    }

    fn shown(&self, stack: &Stack, shown: Shown) -> anyhow::Result<Node<'_>> {
        let found = shown.in_image().and_then(|(number, inode)| {
            let layer = self.images.len().checked_sub(number + 1)?;
            Some((self.images.get(number)?, inode, layer))
        });
        let Some((image, inode, layer)) = found else { anyhow::bail!("a layer is no image") };
        let xattrs = Some(stack.attributes(&shown));
        Ok(Node { image, inode, shown: Some((layer, shown)), xattrs })
    }

    /// The root directory.
    pub(crate) fn root(&self) -> anyhow::Result<Node<'_>> {
        let Some(stack) = &self.merged else {
            let Some(image) = self.images.first() else { anyhow::bail!("there is no image") };
            return Ok(Node { image, inode: image.root()?, shown: None, xattrs: None });
        };
        let none = || BadInput("the image has no layers, so there is nothing to read".to_owned());
        self.shown(stack, stack.root()?.ok_or_else(none)?)
    }

    /// What a directory has under this name.
    fn child<'a>(&'a self, dir: &Node<'a>, name: &[u8]) -> anyhow::Result<Option<Node<'a>>> {
        match (&self.merged, &dir.shown) {
            (Some(stack), Some((_, shown))) => {
                let child = stack.child(shown, name)?;
                child.map(|child| self.shown(stack, child)).transpose()
            }
            _ => {
                let found = dir.image.lookup_in(&dir.inode, name)?;
                let inode = found.map(|nid| dir.image.stat(nid)).transpose()?;
                Ok(inode.map(|inode| Node { image: dir.image, inode, shown: None, xattrs: None }))
            }
        }
    }

    /// A directory's entries, in the order of their names.
    pub(crate) fn entries<'a>(
        &'a self,
        dir: &Node<'a>,
    ) -> anyhow::Result<Vec<(Vec<u8>, Node<'a>)>> {
        let mut found = Vec::new();
        if let (Some(stack), Some((_, shown))) = (&self.merged, &dir.shown) {
            for name in stack.names(shown)? {
                // Names of whiteouts show nothing.
                if let Some(node) = self.child(dir, &name)? {
                    found.push((name, node));
                }
            }
            return Ok(found);
        }
        for entry in dir.image.read_dir(dir.inode.nid)? {
            let entry = entry?;
            let inode = dir.image.stat(entry.nid)?;
            found.push((entry.name, Node { image: dir.image, inode, shown: None, xattrs: None }));
        }
        Ok(found)
    }

    /// What is at a path; symbolic links are not followed.
    pub(crate) fn find(&self, path: &[u8]) -> anyhow::Result<Result<Node<'_>, Missing>> {
        self.resolve(path, false)
    }

    /// What is at a path when symbolic links are followed; absolute ones start at the root of the tree, and `..` does not
    /// lead out of it.
    pub(crate) fn follow(&self, path: &[u8]) -> anyhow::Result<Result<Node<'_>, Missing>> {
        self.resolve(path, true)
    }

    fn resolve(&self, path: &[u8], follows: bool) -> anyhow::Result<Result<Node<'_>, Missing>> {
        let mut links = 0;
        // Directories from the root to where we are, and what is still to be walked, the next at the end.
        let mut at = vec![self.root()?];
        let mut todo: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        while let Some(name) = todo.pop() {
            let Some(dir) = at.last() else { return Ok(Err(Missing::NotFound)) };
            if !dir.inode.is_dir() {
                return Ok(Err(Missing::NotADirectory));
            }
            if name == b".." {
                if at.len() > 1 {
                    at.pop();
                }
                continue;
            }
            let Some(node) = self.child(dir, &name)? else { return Ok(Err(Missing::NotFound)) };
            if !follows || !node.inode.is_symlink() {
                at.push(node);
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Ok(Err(Missing::Loop));
            }
            let target = node.image.read_link(&node.inode)?;
            if target.starts_with(b"/") {
                at.truncate(1);
            }
            todo.extend(components(&target).rev().map(<[u8]>::to_vec));
        }
        Ok(at.pop().ok_or(Missing::NotFound))
    }

    /// The directory that a command works below: the root, or what `--path` names.
    pub(crate) fn subtree(&self, path: Option<&Path>) -> anyhow::Result<Node<'_>> {
        let Some(path) = path else { return self.root() };
        let bad = |missing: Missing| BadInput(format!("{}: {missing}", Quoted(path_bytes(path))));
        let node = self.find(path_bytes(path))?.map_err(bad)?;
        if !node.inode.is_dir() {
            return Err(bad(Missing::NotADirectory).into());
        }
        Ok(node)
    }

    /// Everything from a directory on: each directory before what is in it, and every directory once.
    pub(crate) fn walk<'a>(&'a self, start: &Node<'a>) -> Walk<'a> {
        match &start.shown {
            None => Walk(Kind::Image(start.image, start.image.walk_from(start.inode.nid))),
            Some(_) => Walk(Kind::Merged(Box::new(Merged::new(self, start.clone())))),
        }
    }
}

/// Something met on a walk.
#[derive(Debug)]
pub(crate) struct Entry<'w, 'a> {
    /// The path from where the walk started, without a leading slash; empty for the start itself.
    pub(crate) path: &'w [u8],
    /// What tells the directory it is in from others; its own for the start.
    pub(crate) parent: u64,
    /// What tells the inode from others; names of one inode have the same.
    pub(crate) id: u64,
    /// What it is.
    pub(crate) node: Node<'a>,
}

impl Entry<'_, '_> {
    /// The last component of the path.
    pub(crate) fn name(&self) -> &[u8] {
        self.path.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }
}

/// A walk over a tree.
#[derive(Debug)]
pub(crate) struct Walk<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    Image(&'a Opened, ImageWalk<'a, Blob>),
    Merged(Box<Merged<'a>>),
}

impl<'a> Walk<'a> {
    /// The next entry; nothing at the end.
    pub(crate) fn next_entry(&mut self) -> anyhow::Result<Option<Entry<'_, 'a>>> {
        match &mut self.0 {
            Kind::Merged(merged) => merged.next_entry(),
            Kind::Image(image, walk) => {
                let image = *image;
                Ok(walk.next_entry()?.map(|entry| Entry {
                    path: entry.path,
                    parent: entry.parent,
                    id: entry.inode.nid,
                    node: Node { image, inode: entry.inode, shown: None, xattrs: None },
                }))
            }
        }
    }
}

/// A walk over several layers. Inodes get numbers of their own, since those of two layers may be the same.
#[derive(Debug)]
struct Merged<'a> {
    tree: &'a ImageTree,
    start: Option<Node<'a>>,
    open: Vec<Level<'a>>,
    path: Vec<u8>,
    /// Numbers of directories and of inodes with several names.
    ids: BTreeMap<(usize, u64), u64>,
    next: u64,
    seen: BTreeSet<u64>,
}

/// A directory on the way from the start to where we are.
#[derive(Debug)]
struct Level<'a> {
    dir: Node<'a>,
    id: u64,
    /// Names that are still to come, and the length of its path.
    names: std::vec::IntoIter<Vec<u8>>,
    len: usize,
}

impl<'a> Merged<'a> {
    fn new(tree: &'a ImageTree, start: Node<'a>) -> Self {
        let (open, path, start) = (Vec::new(), Vec::new(), Some(start));
        let (ids, seen) = (BTreeMap::new(), BTreeSet::new());
        Self { tree, start, open, path, ids, next: 0, seen }
    }

    fn id(&mut self, node: &Node<'_>) -> u64 {
        let fresh = self.next;
        self.next = self.next.saturating_add(1);
        if node.inode.is_dir() || node.inode.nlink != 1 {
            return *self.ids.entry(node.id()).or_insert(fresh);
        }
        fresh
    }

    fn next_entry(&mut self) -> anyhow::Result<Option<Entry<'_, 'a>>> {
        if let Some(node) = self.start.take() {
            let id = self.id(&node);
            self.enter(&node, id)?;
            return Ok(Some(Entry { path: &self.path, parent: id, id, node }));
        }
        while let Some(level) = self.open.last_mut() {
            self.path.truncate(level.len);
            let Some(name) = level.names.next() else {
                self.open.pop();
                continue;
            };
            let Some(node) = self.tree.child(&level.dir, &name)? else { continue };
            let parent = level.id;
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            let id = self.id(&node);
            self.enter(&node, id)?;
            return Ok(Some(Entry { path: &self.path, parent, id, node }));
        }
        Ok(None)
    }

    fn enter(&mut self, node: &Node<'a>, id: u64) -> anyhow::Result<()> {
        if !node.inode.is_dir() {
            return Ok(());
        }
        let fault = match self.seen.insert(id) {
            false => Some(CorruptionKind::DirTwice),
            true if self.open.len() >= DEPTH_MAX => Some(CorruptionKind::DirDeep),
            true => None,
        };
        if let Some(fault) = fault {
            let found = Corruption::new(fault).nid(node.inode.nid).at(node.inode.offset);
            return Err(Error::from(found.detail(self.path.escape_ascii())).into());
        }
        let names = match (&self.tree.merged, &node.shown) {
            (Some(stack), Some((_, shown))) => stack.names(shown)?,
            _ => Vec::new(),
        };
        let (dir, names, len) = (node.clone(), names.into_iter(), self.path.len());
        self.open.push(Level { dir, id, names, len });
        Ok(())
    }
}
