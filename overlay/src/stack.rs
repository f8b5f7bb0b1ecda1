//! Layers over layers, as overlayfs shows them (`fs/overlayfs/namei.c`, `readdir.c`).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::content::Content;
use super::index::Index;
use super::{Marks, Node, OverlayLayer};
use crate::Error;
use erolith_mkfs::format::FileType;
use erolith_mkfs::image::Inode;
use erolith_mkfs::marks::{OverlayXattrState, is_whiteout};
use erolith_mkfs::meta::Xattr;
use erolith_mkfs::names;
use erolith_mkfs::names::shown;

/// Layers, the topmost first.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    layers: Vec<Arc<OverlayLayer>>,
    marks: Marks,
    /// The topmost layer is one that is written to.
    has_upper: bool,
    /// Files of the layers below that names show in another form.
    index: Arc<Index>,
}

/// What a stack shows under one name.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The inode that is seen, and for a directory those below whose names show through; each with the number of its
    /// layer, 0 on top.
    nodes: Vec<(usize, Node)>,
    /// Attributes of the first of them, marks included.
    xattrs: Vec<Xattr>,
    /// Where the content is, if it is elsewhere (`metacopy`).
    data: Option<Node>,
}

impl Shown {
    /// The inode that is seen.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.nodes.first().map(|(_, node)| node)
    }

    /// The number of the layer that it is in, 0 on top, and its inode there, if that layer is an image.
    #[must_use]
    pub fn in_image(&self) -> Option<(usize, Inode)> {
        let (_, inode) = self.node()?.in_image()?;
        Some((self.layer(), *inode))
    }

    /// The number of the layer that it is in.
    pub(super) fn layer(&self) -> usize {
        self.nodes.first().map_or(0, |&(layer, _)| layer)
    }

    pub(super) fn is_dir(&self) -> bool {
        self.node().is_some_and(Node::is_dir)
    }

    /// Attributes, marks included, in the order of their names.
    pub(super) fn xattrs(&self) -> &[Xattr] {
        &self.xattrs
    }

    /// Where its content is.
    pub(super) fn data(&self) -> Option<&Node> {
        self.data.as_ref().or(self.node())
    }

    /// The content of a regular file.
    ///
    /// # Errors
    /// As [`Node::content`].
    pub fn content(&self) -> Result<Content<'_>, Error> {
        let none = Error::Overlay { what: String::new(), why: "there is nothing" };
        self.data().ok_or(none)?.content()
    }

    /// Whether these are the very same inodes.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        same(&self.nodes, &other.nodes)
    }

    /// Whether this is `below`, and an inode of an upper layer over it.
    pub(super) fn is_over(&self, below: &Self) -> bool {
        self.layer() == 0 && self.nodes.get(1..).is_some_and(|rest| same(rest, &below.nodes))
    }
}

fn same(nodes: &[(usize, Node)], others: &[(usize, Node)]) -> bool {
    nodes.len() == others.len()
        && nodes.iter().zip(others).all(|((_, one), (_, other))| one.is_same(other))
}

impl Stack {
    /// Layers that are only read, the topmost first.
    #[must_use]
    pub fn new(layers: Vec<Arc<OverlayLayer>>, marks: Marks) -> Self {
        Self { layers, marks, has_upper: false, index: Arc::default() }
    }

    /// The same with an upper directory over it.
    #[must_use]
    pub fn with_upper(&self, upper: Arc<OverlayLayer>) -> Self {
        let layers = [upper].into_iter().chain(self.layers.iter().cloned()).collect();
        Self { layers, marks: self.marks, has_upper: true, index: Arc::default() }
    }

    /// The same, showing what the index of the upper directory says.
    ///
    /// # Errors
    /// As [`Index::read`].
    pub(super) fn with_index<E: From<Error>>(
        &self,
        go_on: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        let index = Arc::new(Index::read(self, go_on)?);
        Ok(Self { index, ..self.clone() })
    }

    /// What was read of the index.
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// The upper directory, if there is one.
    pub(super) fn upper(&self) -> Option<&Arc<OverlayLayer>> {
        self.layers.first().filter(|_| self.has_upper)
    }

    /// The layers that are only read, with their numbers.
    pub(super) fn lowers(&self) -> impl Iterator<Item = (usize, &Arc<OverlayLayer>)> {
        self.layers.iter().enumerate().skip(usize::from(self.has_upper))
    }

    /// Whether the upper directory was ever part of an overlay with an index. Its root then has a mark that nothing else
    /// leaves there (`ovl_get_indexdir` in `fs/overlayfs/super.c`).
    pub(super) fn was_indexed(&self) -> Result<bool, Error> {
        let Some(upper) = self.upper() else { return Ok(false) };
        Ok(OverlayXattrState::of(&upper.root()?.xattrs()?, self.marks).origin)
    }

    /// What overlayfs' marks are called in it.
    pub(super) fn marks(&self) -> Marks {
        self.marks
    }

    /// Whether a file with these attributes is a whiteout.
    pub(super) fn is_whiteout(&self, node: &Node, xattrs: &[Xattr]) -> bool {
        is_whiteout(node.file_type(), node.rdev(), node.size(), xattrs, self.marks)
    }

    /// Whether it is `below` with an upper directory over it.
    pub(super) fn is_over(&self, below: &Self) -> bool {
        let rest = self.layers.get(1..).unwrap_or_default();
        let is_same =
            |(one, other): (&Arc<OverlayLayer>, &Arc<OverlayLayer>)| Arc::ptr_eq(one, other);
        self.has_upper
            && !below.has_upper
            && rest.len() == below.layers.len()
            && rest.iter().zip(&below.layers).all(is_same)
    }

    /// Whether there is an upper directory, and it is this layer.
    pub(super) fn is_upper(&self, layer: usize) -> bool {
        self.has_upper && layer == 0
    }

    /// The root directory; nothing without layers.
    ///
    /// # Errors
    /// What the storage reports, and any fault of an image.
    pub fn root(&self) -> Result<Option<Shown>, Error> {
        self.root_from(0)
    }

    /// The root directory of the layers from this one on.
    fn root_from(&self, first: usize) -> Result<Option<Shown>, Error> {
        let mut nodes = Vec::new();
        for (number, layer) in self.layers.iter().enumerate().skip(first) {
            nodes.push((number, layer.root()?));
        }
        let Some((_, top)) = nodes.first() else { return Ok(None) };
        let xattrs = top.xattrs()?;
        Ok(Some(Shown { nodes, xattrs, data: None }))
    }

    /// What is seen as `name` of a directory, which has this path.
    ///
    /// # Errors
    /// [`Error::Overlay`] for what only the overlay it was made in can find, what the storage reports, and any fault of
    /// an image.
    pub fn child(&self, dir: &Shown, path: &[u8]) -> Result<Option<Shown>, Error> {
        let (_, name) = names::split(path);
        let found = self.find(&dir.nodes, name, path)?;
        found.map(|found| self.copied(found, path)).transpose()
    }

    /// The copy of a file below that its name shows, if it was copied up under another one (`ovl_lookup_index`).
    fn copied(&self, found: Shown, path: &[u8]) -> Result<Shown, Error> {
        let below = found.nodes.first().filter(|(_, node)| !node.is_dir());
        let copy = below.and_then(|(layer, node)| self.index.copy_of(*layer, node));
        let (Some(copy), Some((_, below))) = (copy, below) else { return Ok(found) };
        let xattrs = copy.xattrs()?;
        let data = match OverlayXattrState::of(&xattrs, self.marks).metacopy {
            true => Some(content_of(Some(below.clone()), copy.size(), path)?),
            false => None,
        };
        Ok(Shown { nodes: vec![(0, copy.clone())], xattrs, data })
    }

    /// What `name` is in these directories, the topmost first.
    fn find(
        &self,
        dirs: &[(usize, Node)],
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<Shown>, Error> {
        let mut found: Option<Shown> = None;
        for (index, (layer, dir)) in dirs.iter().enumerate() {
            let Some(node) = dir.child(name)? else { continue };
            let xattrs = node.xattrs()?;
            if self.is_whiteout(&node, &xattrs) {
                break;
            }
            let said = OverlayXattrState::of(&xattrs, self.marks);
            if (said.redirect.is_some() || said.metacopy) && !self.is_upper(*layer) {
                let why = "a layer below refers to another one; mount it, and give the mount";
                return Err(Error::Overlay { what: shown(path), why });
            }
            let (is_dir, redirect) = (node.is_dir(), said.redirect.as_deref());
            let below = dirs.get(index.saturating_add(1)..).unwrap_or_default();
            match &mut found {
                Some(_) if !is_dir => break,
                Some(found) => found.nodes.push((*layer, node)),
                None => {
                    let nodes = vec![(*layer, node)];
                    let mut top = Shown { nodes, xattrs, data: None };
                    if said.metacopy && !is_dir {
                        top.data =
                            Some(self.data_of(&top, below, redirect.unwrap_or(name), path)?);
                    } else if let (true, Some(redirect)) = (is_dir, redirect) {
                        top.nodes.extend(self.redirected(*layer, below, redirect, path)?);
                        return Ok(Some(top));
                    }
                    found = Some(top);
                }
            }
            if !is_dir || said.opaque {
                break;
            }
        }
        Ok(found)
    }

    /// What a redirect leads to: a name in the same directory of the layers below, or a path from their root.
    fn follow(
        &self,
        layer: usize,
        below: &[(usize, Node)],
        redirect: &[u8],
        path: &[u8],
    ) -> Result<Option<Shown>, Error> {
        let Some(absolute) = redirect.strip_prefix(b"/") else {
            return self.find(below, redirect, path);
        };
        let mut at = self.root_from(layer.saturating_add(1))?;
        for name in absolute.split(|&b| b == b'/') {
            let Some(dir) = at.filter(Shown::is_dir) else { return Ok(None) };
            at = self.find(&dir.nodes, name, path)?;
        }
        Ok(at)
    }

    /// The directories below whose names a directory shows that was renamed.
    fn redirected(
        &self,
        layer: usize,
        below: &[(usize, Node)],
        redirect: &[u8],
        path: &[u8],
    ) -> Result<Vec<(usize, Node)>, Error> {
        let at = self.follow(layer, below, redirect, path)?;
        Ok(at.filter(Shown::is_dir).map(|shown| shown.nodes).unwrap_or_default())
    }

    /// The file below whose content a file shows that only has attributes.
    fn data_of(
        &self,
        top: &Shown,
        below: &[(usize, Node)],
        redirect: &[u8],
        path: &[u8],
    ) -> Result<Node, Error> {
        let at = self.follow(top.layer(), below, redirect, path)?;
        let node = at.and_then(|shown| shown.nodes.into_iter().next()).map(|(_, node)| node);
        content_of(node, top.node().map_or(0, Node::size), path)
    }

    /// The extended attributes that a mount of these layers shows: marks are hidden, and those of a nested overlay have
    /// their own names again (`fs/overlayfs/xattrs.c`).
    #[must_use]
    pub fn attributes(&self, shown: &Shown) -> Vec<Xattr> {
        let visible = |xattr: &Xattr| self.marks.visible(xattr);
        let mut xattrs: Vec<Xattr> = shown.xattrs.iter().filter_map(visible).collect();
        xattrs.sort_unstable();
        xattrs
    }

    /// The names of a directory, in the order of their bytes. Some may be those of whiteouts, which show nothing.
    ///
    /// # Errors
    /// What the storage reports, and any fault of an image.
    pub fn names(&self, dir: &Shown) -> Result<Vec<Vec<u8>>, Error> {
        let mut names = BTreeSet::new();
        for (_, node) in &dir.nodes {
            names.extend(node.names()?);
        }
        Ok(names.into_iter().collect())
    }
}

/// The file below with the content of one that only has attributes, and this size.
fn content_of(below: Option<Node>, size: u64, path: &[u8]) -> Result<Node, Error> {
    let is_it = |node: &Node| node.file_type() == FileType::Regular && node.size() == size;
    let why = "its content is in a layer below, and not there";
    below.filter(is_it).ok_or_else(|| Error::Overlay { what: shown(path), why })
}
