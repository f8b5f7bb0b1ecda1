//! The canonical description of a tree, by which all readers of an image are compared.
//!
//! A [`Listing`] is written by hand (see [`make`]), rendered from a generated tree, or taken by one of the scanners:
//! [`Listing::from_dir`] (whatever the kernel shows), [`Listing::from_erofs_rs`] (the crate `erofs-rs`) and
//! [`Listing::from_image`] (our own reader).

mod dir;
mod erofs_rs;
mod image;
pub mod make;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use sha2::{Digest as _, Sha256};

/// A path inside the tree, without a leading slash; the root is empty.
pub type Path = Vec<u8>;

/// Result of looking at a tree. The text says what was being looked at.
pub type Result<T> = std::result::Result<T, String>;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
}

/// Everything that can be seen of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Type,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds of the modification time, and nanoseconds; `None` when the reader cannot know.
    pub mtime: Option<(i64, u32)>,
    /// Bytes of a regular file or a symbolic link; 0 for everything else.
    pub size: u64,
    /// Digest of the content of a regular file, see [`digest`].
    pub content: Option<[u8; 32]>,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Device number.
    pub rdev: (u32, u32),
    /// The smallest path of those that share this inode, itself when it is alone.
    pub leader: Path,
    /// Link count; `None` when the reader cannot know.
    pub nlink: Option<u64>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A tree.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Every path of it, the root included.
    pub nodes: BTreeMap<Path, Node>,
}

/// What a reader cannot see. Each is applied to both sides of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blind {
    /// Modification times: the reader does not carry them over.
    Mtimes,
    /// Modification time of the root: extraction writes into a directory that was made for it.
    RootMtime,
    /// Everything about the root but that it is a directory: overlayfs and tar applies that never touch it.
    Root,
    /// Link counts of directories: file systems that do not count sub-directories, and overlayfs, which answers 1.
    DirLinks,
    /// Link counts of all else: overlayfs shows the count of the layer that holds the inode.
    Links,
    /// Modification times that an implicit directory got from the clock at extraction.
    ImplicitMtimes,
    /// File capabilities: `fsck.erofs` sets them before the owner, and the kernel clears them with every change of owner.
    Capabilities,
    /// ACLs: `fsck.erofs` sets the default ACL of a directory before it makes what is in there, which inherits it.
    Acls,
    /// `trusted.overlay.*`: what overlayfs consumes and what a file system that is not a layer never had.
    OverlayXattrs,
}

impl Listing {
    /// Forgets what a reader cannot know.
    #[must_use]
    pub fn blind(mut self, to: &[Blind]) -> Self {
        for what in to {
            for (path, node) in &mut self.nodes {
                what.forget(path, node);
            }
        }
        self
    }

    /// The differences, one path at a time; `None` when there are none.
    ///
    /// `names` are how the two sides are called in the text.
    pub fn diff(&self, other: &Self, names: (&str, &str)) -> Option<String> {
        let width = names.0.len().max(names.1.len());
        let mut out = String::new();
        let paths: std::collections::BTreeSet<_> =
            self.nodes.keys().chain(other.nodes.keys()).collect();
        for path in paths {
            let (a, b) = (self.nodes.get(path), other.nodes.get(path));
            if a == b {
                continue;
            }
            for (name, node) in [(names.0, a), (names.1, b)] {
                let text = node.map_or_else(|| "absent".to_owned(), ToString::to_string);
                let _ = writeln!(out, "  {name:width$}  /{}  {text}", path.escape_ascii());
            }
        }
        (!out.is_empty()).then_some(out)
    }

    /// Panics with the differences when there are any.
    ///
    /// # Panics
    /// That is its purpose.
    pub fn assert_eq(&self, other: &Self, names: (&str, &str), context: &str) {
        if let Some(text) = self.diff(other, names) {
            panic!("{context}: {} and {} differ:\n{text}", names.0, names.1);
        }
    }

    /// Link groups, link counts and sizes follow from the rest: sets them once all paths are known.
    /// `inodes` maps each path that is not a directory to anything that is equal for names of one inode.
    pub(crate) fn group<K: Ord>(&mut self, inodes: &BTreeMap<Path, K>) {
        let mut leaders: BTreeMap<&K, &Path> = BTreeMap::new();
        for (path, inode) in inodes {
            let leader = *leaders.entry(inode).or_insert(path);
            if let Some(node) = self.nodes.get_mut(path) {
                node.leader.clone_from(leader);
            }
        }
    }
}

impl Blind {
    fn forget(self, path: &[u8], node: &mut Node) {
        let root = path.is_empty();
        match self {
            Self::Mtimes => node.mtime = None,
            Self::RootMtime if root => node.mtime = None,
            Self::Root if root => {
                (node.mode, node.uid, node.gid) = (0, 0, 0);
                (node.mtime, node.nlink) = (None, None);
                node.xattrs.clear();
            }
            Self::DirLinks if node.kind == Type::Dir => node.nlink = None,
            Self::Links if node.kind != Type::Dir => node.nlink = None,
            Self::ImplicitMtimes if node.kind == Type::Dir && node.mtime == Some((0, 0)) => {
                node.mtime = None;
            }
            Self::Capabilities => {
                node.xattrs.remove(b"security.capability".as_slice());
            }
            Self::Acls => node.xattrs.retain(|name, _| !name.starts_with(b"system.posix_acl_")),
            Self::OverlayXattrs => {
                node.xattrs.retain(|name, _| !name.starts_with(b"trusted.overlay."));
            }
            Self::RootMtime | Self::Root | Self::DirLinks | Self::Links | Self::ImplicitMtimes => {}
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:04o} {}:{}", self.kind, self.mode, self.uid, self.gid)?;
        match self.mtime {
            Some((sec, 0)) => write!(f, " mtime={sec}")?,
            Some((sec, nsec)) => write!(f, " mtime={sec}+{nsec}ns")?,
            None => {}
        }
        match self.kind {
            Type::File => write!(f, " size={}", self.size)?,
            Type::Symlink => write!(f, " -> {}", self.target.escape_ascii())?,
            Type::Char | Type::Block => write!(f, " rdev={}:{}", self.rdev.0, self.rdev.1)?,
            Type::Dir | Type::Fifo | Type::Socket => {}
        }
        if let Some([a, b, c, d, ..]) = self.content {
            write!(f, " sha256={a:02x}{b:02x}{c:02x}{d:02x}..")?;
        }
        if let Some(nlink) = self.nlink {
            write!(f, " nlink={nlink}")?;
        }
        if !self.leader.is_empty() {
            write!(f, " inode-of=/{}", self.leader.escape_ascii())?;
        }
        for (name, value) in &self.xattrs {
            match value.get(..32) {
                Some(head) if value.len() > 32 => {
                    let (head, len) = (head.escape_ascii(), value.len());
                    write!(f, " {}={head}..[{len}]", name.escape_ascii())?;
                }
                _ => write!(f, " {}={}", name.escape_ascii(), value.escape_ascii())?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, node) in &self.nodes {
            writeln!(f, "/{}  {node}", path.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Files up to this size are read whole; of larger ones (all of them sparse, in tests) windows are.
pub const WHOLE: u64 = 1 << 30;

/// Bytes of each window of a file that is too large to read whole.
const WINDOW: u64 = 64 << 10;

/// Windows of such a file: the first, the last, and those evenly between.
const WINDOWS: u64 = 64;

/// Digest of a file of `size` bytes whose bytes at an offset `read` yields.
///
/// SHA-256 of all bytes up to [`WHOLE`]; beyond, of evenly spread windows that are the same for every reader.
///
/// # Errors
/// What `read` says.
pub fn digest(size: u64, mut read: impl FnMut(&mut [u8], u64) -> Result<()>) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; usize::try_from(WINDOW).unwrap_or(usize::MAX)];
    let step = if size <= WHOLE { WINDOW } else { (size - WINDOW) / (WINDOWS - 1) };
    let mut at = 0;
    while at < size {
        let len = usize::try_from((size - at).min(WINDOW)).unwrap_or(usize::MAX);
        let window = buf.get_mut(..len).unwrap_or_default();
        read(window, at)?;
        hash.update(&*window);
        at += step;
    }
    Ok(hash.finalize().into())
}

/// Joins a directory and a name of it.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Path {
    let mut path = dir.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Everything before the last slash; `None` for the root.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    let cut = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
    path.get(..cut)
}
