//! What can be decided only when the whole layer is known.

use super::{Dir, FileTree, Node, NodeId, NodeKind};
use crate::marks::{OPAQUE, ORIGIN, YES};
use crate::meta::{Meta, Xattr};

/// What a lower layer knows of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LowerDir {
    /// These are its attributes.
    Found(Meta, Vec<Xattr>),
    /// Nothing; a layer further down may.
    Unknown,
    /// Nothing, and no layer further down shows through.
    Hidden,
}

/// A layer below the one being built.
pub trait LowerTree {
    /// What this layer knows of the directory with these components.
    fn directory(&self, path: &[&[u8]]) -> LowerDir;
}

impl LowerTree for FileTree {
    fn directory(&self, path: &[&[u8]]) -> LowerDir {
        let mut at = NodeId::ROOT;
        let mut hidden = false;
        for step in path.iter().map(Some).chain([None]) {
            let Some(dir) = self.dir(at) else { return LowerDir::Hidden };
            hidden |= dir.opaque;
            match step {
                Some(name) => match dir.children.get(*name) {
                    Some(&next) => at = next,
                    None if hidden => return LowerDir::Hidden,
                    None => return LowerDir::Unknown,
                },
                None if !dir.implicit => {
                    let node = self.node(at);
                    let kept = self.xattrs(node.xattrs).iter();
                    let kept = kept.filter(|x| x.name != OPAQUE && x.name != ORIGIN);
                    return LowerDir::Found(node.meta, kept.cloned().collect());
                }
                None if hidden => return LowerDir::Hidden,
                None => {}
            }
        }
        LowerDir::Unknown
    }
}

/// A tree that is finished: what it holds can be written without any further decision about layers.
#[derive(Debug)]
pub struct SealedTree(FileTree);

impl SealedTree {
    /// The tree.
    #[must_use]
    pub fn tree(&self) -> &FileTree {
        &self.0
    }

    /// The link count of a node: names of a file, or two and the subdirectories of a directory.
    #[must_use]
    pub fn nlink(&self, node: &Node) -> u32 {
        match &node.kind {
            NodeKind::Dir(dir) => {
                let subdirs = dir.children.values().filter(|&&c| self.0.dir(c).is_some()).count();
                u32::try_from(subdirs).unwrap_or(u32::MAX - 2) + 2
            }
            _ => node.names,
        }
    }
}

impl FileTree {
    /// Whether some directory takes its attributes from the layers below, if there are any.
    #[must_use]
    pub fn has_implicit_dirs(&self) -> bool {
        let is_live = |n: &&Node| n.names > 0;
        self.nodes.iter().filter(is_live).any(|n| matches!(&n.kind, NodeKind::Dir(d) if d.implicit))
    }

    /// Gives directories without a member the attributes that they have in the layers below, the
    /// nearest first: this layer's directory would otherwise show its defaults instead.
    pub fn inherit(&mut self, lowers: &[&dyn LowerTree]) {
        // Depth first with one path for all: a chain of 2000 directories must not cost 2000 paths.
        let mut path: Vec<Box<[u8]>> = Vec::new();
        let mut todo: Vec<(usize, Box<[u8]>, NodeId)> = vec![(0, Box::default(), NodeId::ROOT)];
        while let Some((depth, name, id)) = todo.pop() {
            if let Some(above) = depth.checked_sub(1) {
                path.truncate(above);
                path.push(name);
            }
            let Some(dir) = self.dir(id) else { continue };
            for (name, &child) in &dir.children {
                if self.dir(child).is_some() {
                    todo.push((depth + 1, name.clone(), child));
                }
            }
            if dir.implicit {
                self.inherit_one(id, &path, lowers);
            }
        }
    }

    fn inherit_one(&mut self, id: NodeId, path: &[Box<[u8]>], lowers: &[&dyn LowerTree]) {
        let parts: Vec<&[u8]> = path.iter().map(AsRef::as_ref).collect();
        for lower in lowers {
            match lower.directory(&parts) {
                LowerDir::Unknown => {}
                LowerDir::Hidden => return,
                LowerDir::Found(meta, xattrs) => {
                    let set = self.adopt_xattrs(&xattrs);
                    let node = self.node_mut(id);
                    node.meta = meta;
                    node.xattrs = set;
                    return;
                }
            }
        }
    }

    /// Turns whiteouts and opaque directories into what overlayfs reads, or leaves them out of a base layer.
    #[must_use]
    pub fn seal(mut self, base: bool) -> SealedTree {
        let mut todo = vec![(NodeId::ROOT, false)];
        while let Some((id, below_opaque)) = todo.pop() {
            let Some(dir) = self.dir(id) else { continue };
            // Below an opaque directory there is nothing left to hide, and overlayfs would list the whiteout.
            let hides_nothing = base || below_opaque || dir.opaque;
            let is_opaque = dir.opaque && !base;
            let mut whiteouts = Vec::new();
            for (name, &child) in &dir.children {
                match self.node(child).kind {
                    NodeKind::Dir(_) => todo.push((child, hides_nothing)),
                    NodeKind::Whiteout => whiteouts.push(name.clone()),
                    _ => {}
                }
            }
            self.mark(id, is_opaque, !whiteouts.is_empty() && !hides_nothing);
            if hides_nothing {
                for name in &whiteouts {
                    self.unlink(id, name);
                }
            }
        }
        SealedTree(self)
    }

    fn mark(&mut self, id: NodeId, opaque: bool, holds_whiteouts: bool) {
        let mut set = self.node(id).xattrs;
        if opaque {
            set = self.with_xattr(set, OPAQUE, YES);
        }
        if holds_whiteouts {
            set = self.with_xattr(set, ORIGIN, b"");
        }
        self.node_mut(id).xattrs = set;
        if let Some(Dir { opaque: flag, .. }) = self.dir_mut(id) {
            *flag = opaque;
        }
    }
}
