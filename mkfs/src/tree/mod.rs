//! The file tree of one layer, in memory, and every rule of OCI layers, each in one place:
//! names and symbolic links in [`path`](mod@path), members of an archive in [`layer`](mod@layer), extended
//! attributes in [`xattrs`](mod@xattrs), what is decided once the whole layer is known in [`seal`](mod@seal).
//!
//! Nodes live in an arena. A node stands for an inode: hard links are several names of one node. Children
//! are kept in a map ordered by bytes, because that is the order of an EROFS directory, and because no
//! input can make it slow.

mod finish;
mod layer;
mod path;
mod whiteout_names;
mod xattr_sets;
mod xattrs;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::Content;
use crate::format::FileType;
use crate::meta::{IMPLICIT_DIR, Meta, Xattr};

pub use finish::{LowerDir, LowerTree, SealedTree};
pub use layer::{Applied, LayerOptions};
pub use whiteout_names::{WHITEOUT, WHITEOUT_OPAQUE};
pub use xattr_sets::XattrSetId;
pub use xattrs::{DroppedXattrs, OverlayXattrs, XattrPolicy};

use xattr_sets::XattrSets;

/// Index of a node in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// The root directory.
    pub const ROOT: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// An inode in the making.
#[derive(Debug)]
pub struct Node {
    /// Owner, permissions, time.
    pub meta: Meta,
    /// Extended attributes.
    pub xattrs: XattrSetId,
    /// Names of this node in the tree; 0 once it has been replaced. Directories count one.
    pub names: u32,
    /// What it is.
    pub kind: NodeKind,
}

/// What a node is.
#[derive(Debug)]
pub enum NodeKind {
    /// Directory.
    Dir(Box<Dir>),
    /// Regular file.
    File {
        /// Bytes.
        size: u64,
        /// Where they are.
        content: Content,
    },
    /// Symbolic link and its target.
    Symlink(Box<[u8]>),
    /// Character device, encoded as Linux does.
    Char(u32),
    /// Block device, encoded as Linux does.
    Block(u32),
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
    /// A name hidden in the layers below; becomes overlayfs' character device 0:0.
    Whiteout,
}

impl NodeKind {
    /// The type of the inode.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        match self {
            Self::Dir(_) => FileType::Directory,
            Self::File { .. } => FileType::Regular,
            Self::Symlink(_) => FileType::Symlink,
            Self::Char(_) | Self::Whiteout => FileType::Char,
            Self::Block(_) => FileType::Block,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
        }
    }
}

/// A directory.
#[derive(Debug)]
pub struct Dir {
    /// Names, without `.` and `..`.
    pub children: BTreeMap<Box<[u8]>, NodeId>,
    /// The directory above; the root is its own.
    pub parent: NodeId,
    /// The archive has no member for this directory: its attributes are the default, or come from a lower layer.
    pub implicit: bool,
    /// The same directory of the layers below does not show through.
    pub opaque: bool,
}

impl Dir {
    fn new(parent: NodeId, implicit: bool) -> Box<Self> {
        Box::new(Self { children: BTreeMap::new(), parent, implicit, opaque: false })
    }
}

/// An empty directory below `parent`, as its source describes it.
#[must_use]
pub fn new_dir(parent: NodeId) -> NodeKind {
    NodeKind::Dir(Dir::new(parent, false))
}

/// An empty directory below `parent` that hides the same directory of the layers below.
#[must_use]
pub fn new_opaque_dir(parent: NodeId) -> NodeKind {
    let mut dir = Dir::new(parent, false);
    dir.opaque = true;
    NodeKind::Dir(dir)
}

/// Why a member cannot become part of a tree.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A component is longer than 255 bytes.
    #[error("name of {len} bytes is longer than 255 in {path:?}")]
    NameTooLong {
        /// The path, lossy.
        path: String,
        /// Bytes of the component.
        len: usize,
    },
    /// The path is longer than 4095 bytes.
    #[error("path of {len} bytes is longer than 4095: {path:?}...")]
    PathTooLong {
        /// The beginning of the path, lossy.
        path: String,
        /// Bytes of the path.
        len: usize,
    },
    /// A name holds a NUL or a slash.
    #[error("name holds a NUL byte or a slash: {path:?}")]
    BadName {
        /// The path, lossy.
        path: String,
    },
    /// A parent is something else than a directory or a symbolic link.
    #[error("{path:?}: a parent is not a directory")]
    NotADirectory {
        /// The path, lossy.
        path: String,
    },
    /// More than 255 symbolic links on the way.
    #[error("{path:?}: too many levels of symbolic links")]
    SymlinkLoop {
        /// The path, lossy.
        path: String,
    },
    /// A symbolic link without a target, or with one of more than 4095 bytes.
    #[error("{path:?}: symbolic link target of {len} bytes, 1 to 4095 are possible")]
    BadSymlink {
        /// The path, lossy.
        path: String,
        /// Bytes of the target.
        len: usize,
    },
    /// The target of a hard link is not in this layer (yet).
    #[error("{path:?}: hard link target {target:?} is not in this layer before it")]
    MissingLinkTarget {
        /// The path of the link, lossy.
        path: String,
        /// The target, lossy.
        target: String,
    },
    /// A hard link to a directory.
    #[error("{path:?}: hard link to the directory {target:?}")]
    LinkToDirectory {
        /// The path of the link, lossy.
        path: String,
        /// The target, lossy.
        target: String,
    },
    /// A whiteout that names nothing, `.` or `..`, or is a directory.
    #[error("{path:?}: not a valid whiteout")]
    BadWhiteout {
        /// The path, lossy.
        path: String,
    },
    /// A device number that Linux cannot hold.
    #[error("{path:?}: device {major}:{minor} is out of range")]
    BadDevice {
        /// The path, lossy.
        path: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// The root directory replaced by something else, or linked.
    #[error("the root directory cannot be replaced or linked")]
    RootReplaced,
    /// An xattr that EROFS cannot hold.
    #[error("{path:?}: extended attribute {name:?}: {why}")]
    BadXattr {
        /// The path, lossy.
        path: String,
        /// The attribute, lossy.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A duplicate member under the strict policy.
    #[error("{path:?}: appears twice in one layer")]
    Duplicate {
        /// The path, lossy.
        path: String,
    },
    /// More members than the limit.
    #[error("more than {limit} members in one layer")]
    TooManyEntries {
        /// The limit.
        limit: u32,
    },
}

erolith_errors::error_codes! {
    Error {
        Self::NameTooLong { .. } => "name-too-long", "a name of more than 255 bytes";
        Self::PathTooLong { .. } => "path-too-long", "a path of more than 4095 bytes";
        Self::BadName { .. } => "bad-name", "a name with a NUL byte or a slash";
        Self::NotADirectory { .. } => "not-a-directory", "a parent that is neither a directory nor a symbolic link";
        Self::SymlinkLoop { .. } => "symlink-loop", "more than 255 symbolic links on the way to a member";
        Self::BadSymlink { .. } => "bad-symlink", "a symbolic link without a target, or with one of more than 4095 bytes";
        Self::MissingLinkTarget { .. } => "hardlink-target-not-found", "a hard link to something that is not there";
        Self::LinkToDirectory { .. } => "hardlink-to-directory", "a hard link to a directory";
        Self::BadWhiteout { .. } => "bad-whiteout", "a whiteout that names nothing, `.` or `..`, or is a directory";
        Self::BadDevice { .. } => "bad-device", "a device number that Linux cannot hold";
        Self::RootReplaced => "root-replaced", "the root directory is replaced or linked";
        Self::BadXattr { .. } => "bad-xattr", "an extended attribute that EROFS cannot hold or the kernel does not take";
        Self::Duplicate { .. } => "duplicate-entry", "a member that appears twice, where that is refused";
        Self::TooManyEntries { .. } => "too-many-entries", "more members than the limit";
    }
}

/// What was noticed and taken nevertheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Note {
    /// A name appeared twice; the last one won.
    Duplicate,
    /// `.` as something else than a directory, ignored.
    DotNotADirectory,
    /// AUFS bookkeeping (`.wh..wh.*`), ignored.
    AufsBookkeeping,
    /// A character device 0:0 in an archive: overlayfs will take it for a whiteout.
    WhiteoutLookalike,
    /// `user.*` on something else than a file or directory, dropped.
    UserXattrDropped,
    /// `trusted.*`, dropped.
    TrustedXattrDropped,
    /// An overlayfs xattr, escaped or dropped.
    OverlayXattr,
    /// An xattr in a namespace that EROFS cannot hold or Linux does not show, dropped.
    UnknownXattrDropped,
    /// An xattr with a value that means nothing to the kernel, or that could not be decoded, dropped.
    InvalidXattrDropped,
}

impl Note {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Duplicate,
        Self::DotNotADirectory,
        Self::AufsBookkeeping,
        Self::WhiteoutLookalike,
        Self::UserXattrDropped,
        Self::TrustedXattrDropped,
        Self::OverlayXattr,
        Self::UnknownXattrDropped,
        Self::InvalidXattrDropped,
    ];

    /// A stable name for machines.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate-entry",
            Self::DotNotADirectory => "dot-not-a-directory",
            Self::AufsBookkeeping => "aufs-bookkeeping",
            Self::WhiteoutLookalike => "whiteout-lookalike",
            Self::UserXattrDropped => "user-xattr-dropped",
            Self::TrustedXattrDropped => "trusted-xattr-dropped",
            Self::OverlayXattr => "overlay-xattr",
            Self::UnknownXattrDropped => "unknown-xattr-dropped",
            Self::InvalidXattrDropped => "invalid-xattr-dropped",
        }
    }
}

/// The tree of one layer.
#[derive(Debug)]
pub struct FileTree {
    nodes: Vec<Node>,
    sets: XattrSets,
    notes: BTreeMap<Note, u64>,
    dropped: DroppedXattrs,
}

impl Default for FileTree {
    fn default() -> Self {
        Self::new()
    }
}

impl FileTree {
    /// An empty tree: a root directory without a member.
    #[must_use]
    pub fn new() -> Self {
        let root = Node {
            meta: IMPLICIT_DIR,
            xattrs: XattrSetId::EMPTY,
            names: 1,
            kind: NodeKind::Dir(Dir::new(NodeId::ROOT, true)),
        };
        Self {
            nodes: vec![root],
            sets: XattrSets::default(),
            notes: BTreeMap::new(),
            dropped: DroppedXattrs::default(),
        }
    }

    /// The node behind an id of this tree.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// The directory behind an id; `None` when it is something else.
    #[must_use]
    pub fn dir(&self, id: NodeId) -> Option<&Dir> {
        match &self.node(id).kind {
            NodeKind::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    fn dir_mut(&mut self, id: NodeId) -> Option<&mut Dir> {
        match &mut self.node_mut(id).kind {
            NodeKind::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    /// Nodes ever made, replaced ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing but a root without a member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1 && self.dir(NodeId::ROOT).is_some_and(|d| d.implicit)
    }

    /// The extended attributes of a set, sorted by name.
    #[must_use]
    pub fn xattrs(&self, id: XattrSetId) -> &[Xattr] {
        self.sets.get(id)
    }

    /// What was noticed, and how often.
    #[must_use]
    pub fn notes(&self) -> &BTreeMap<Note, u64> {
        &self.notes
    }

    /// Which extended attributes were dropped.
    #[must_use]
    pub fn dropped_xattrs(&self) -> &DroppedXattrs {
        &self.dropped
    }

    pub(crate) fn note(&mut self, note: Note) {
        *self.notes.entry(note).or_default() += 1;
    }

    /// The child of a directory.
    #[must_use]
    pub fn child(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        self.dir(dir)?.children.get(name).copied()
    }

    /// Sets what a regular file holds.
    pub fn set_content(&mut self, id: NodeId, content: Content) {
        if let NodeKind::File { content: slot, .. } = &mut self.node_mut(id).kind {
            *slot = content;
        }
    }

    /// Puts a node without a name into the arena.
    fn push(&mut self, node: Node) -> Result<NodeId, Error> {
        // The last ids stay free, so that arithmetic on counts of nodes cannot overflow.
        let limit = u32::MAX >> 1;
        let id = u32::try_from(self.nodes.len()).unwrap_or(limit);
        if id >= limit {
            return Err(Error::TooManyEntries { limit });
        }
        self.nodes.push(node);
        Ok(NodeId(id))
    }

    /// Gives `child` a name in `dir`, where that name is free.
    fn link(&mut self, dir: NodeId, name: &[u8], child: NodeId) {
        self.node_mut(child).names += 1;
        if let Some(d) = self.dir_mut(dir) {
            d.children.insert(name.into(), child);
        }
    }

    /// Takes a name away, and with a directory everything below it.
    fn unlink(&mut self, dir: NodeId, name: &[u8]) {
        let Some(first) = self.dir_mut(dir).and_then(|d| d.children.remove(name)) else { return };
        let mut gone = vec![first];
        while let Some(id) = gone.pop() {
            let node = self.node_mut(id);
            node.names -= 1;
            if node.names > 0 {
                continue;
            }
            // What a replaced node held in memory is given back now, not at the end of the layer.
            let kind = std::mem::replace(&mut node.kind, NodeKind::Fifo);
            if let NodeKind::Dir(dir) = kind {
                gone.extend(dir.children.into_values());
            }
        }
    }

    /// Adds a node as `name` of `dir`, where that name is free.
    ///
    /// # Errors
    /// [`Error::TooManyEntries`].
    pub fn add(
        &mut self,
        dir: NodeId,
        name: &[u8],
        meta: Meta,
        xattrs: XattrSetId,
        kind: NodeKind,
    ) -> Result<NodeId, Error> {
        let id = self.push(Node { meta, xattrs, names: 0, kind })?;
        self.link(dir, name, id);
        Ok(id)
    }

    /// Gives a node of the tree one more name in `dir`, where that name is free.
    pub fn add_name(&mut self, dir: NodeId, name: &[u8], node: NodeId) {
        self.link(dir, name, node);
    }

    /// Gives the root the attributes that its source has for it.
    pub fn describe_root(&mut self, meta: Meta, xattrs: XattrSetId) {
        let root = self.node_mut(NodeId::ROOT);
        root.meta = meta;
        root.xattrs = xattrs;
        if let Some(dir) = self.dir_mut(NodeId::ROOT) {
            dir.implicit = false;
        }
    }
}
