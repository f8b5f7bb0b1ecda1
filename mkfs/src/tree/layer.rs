//! What one member of a layer's archive does to the tree: the rules of the OCI image specification
//! (`layer.md`) as containerd's `pkg/archive` applies them.

use serde::{Deserialize, Serialize};

use super::path::{Missing, Names, clean};
use super::whiteout_names::{WHITEOUT, WHITEOUT_META, WHITEOUT_OPAQUE};
use super::{Dir, Error, FileTree, Node, NodeId, NodeKind, Note, XattrPolicy};
use crate::data::Content;
use crate::format::{FileType, encode_rdev};
use crate::marks::WHITEOUT_DEVICE;
use crate::meta::Meta;
use crate::names::shown;
use crate::tar::{Entry, Kind};

/// How the members of a layer are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerOptions {
    /// `.wh.*` names are whiteouts and opaque markers; otherwise they are names like any other.
    pub whiteouts: bool,
    /// Nothing lies below this layer: whiteouts and opaque markers mean nothing and are left out.
    pub base: bool,
    /// The root directory takes the attributes of its member; otherwise they are ignored as containerd
    /// ignores them.
    pub root_meta: bool,
    /// Without a member, the root directory takes its attributes from the layers below, as every directory does;
    /// otherwise it has the default ones: a snapshot has a root of its own, and the same layer is then the same image
    /// in every chain.
    pub root_inherits: bool,
    /// A name that appears twice is an error; otherwise the last one wins.
    pub refuse_duplicates: bool,
    /// What becomes of extended attributes.
    pub xattrs: XattrPolicy,
    /// Most members of one layer.
    pub max_entries: u32,
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self {
            whiteouts: true,
            base: false,
            root_meta: true,
            root_inherits: true,
            refuse_duplicates: false,
            xattrs: XattrPolicy::default(),
            max_entries: 10_000_000,
        }
    }
}

/// What [`FileTree::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// A regular file whose content is wanted: give it to [`FileTree::set_content`].
    File(NodeId),
    /// Everything else; content, if there is any, is passed over.
    Done,
}

/// What a cleaned path says about whiteouts.
enum Meaning<'a> {
    Plain,
    Whiteout(&'a [u8]),
    Opaque,
    /// A name of AUFS itself.
    Bookkeeping,
    /// A file in a directory of AUFS. Links may lead to it: `.wh..wh.plnk` holds the first names of files with several.
    Kept,
}

fn meaning<'a>(path: &[u8], parts: &[&'a [u8]]) -> Result<Meaning<'a>, Error> {
    let bad = || Error::BadWhiteout { path: shown(path) };
    let Some((last, parents)) = parts.split_last() else { return Ok(Meaning::Plain) };
    if let Some(first) = parents.iter().find(|parent| parent.starts_with(WHITEOUT)) {
        if !first.starts_with(WHITEOUT_META) {
            return Err(bad());
        }
        let is_plain = !last.starts_with(WHITEOUT);
        return Ok(if is_plain { Meaning::Kept } else { Meaning::Bookkeeping });
    }
    if *last == WHITEOUT_OPAQUE {
        return Ok(Meaning::Opaque);
    }
    if last.starts_with(WHITEOUT_META) {
        return Ok(Meaning::Bookkeeping);
    }
    match last.strip_prefix(WHITEOUT) {
        None => Ok(Meaning::Plain),
        Some(b"" | b"." | b"..") => Err(bad()),
        Some(name) => Ok(Meaning::Whiteout(name)),
    }
}

impl FileTree {
    /// Makes one member of an archive part of the tree.
    ///
    /// # Errors
    /// [`Error`]: the member cannot be part of any tree, or not of one that containerd would make.
    pub fn apply(&mut self, entry: &Entry, options: &LayerOptions) -> Result<Applied, Error> {
        if self.nodes.len() > options.max_entries as usize {
            return Err(Error::TooManyEntries { limit: options.max_entries });
        }
        if entry.path.is_empty() {
            return Err(Error::BadName { path: String::new() });
        }
        let names = if options.whiteouts { Names::Whiteouts } else { Names::Plain };
        let parts = clean(&entry.path, names)?;
        let meaning =
            if options.whiteouts { meaning(&entry.path, &parts)? } else { Meaning::Plain };
        let Some((name, parents)) = parts.split_last() else {
            return self.apply_root(entry, options);
        };
        if matches!(meaning, Meaning::Bookkeeping | Meaning::Kept) {
            self.note(Note::AufsBookkeeping);
        }
        if matches!(meaning, Meaning::Bookkeeping) {
            return Ok(Applied::Done);
        }
        let Some(parent) = self.walk(&entry.path, parents, Missing::Create)? else {
            return Ok(Applied::Done);
        };
        match meaning {
            Meaning::Plain | Meaning::Kept => self.apply_plain(entry, parent, name, options),
            _ if entry.kind == Kind::Directory => {
                Err(Error::BadWhiteout { path: shown(&entry.path) })
            }
            Meaning::Whiteout(hidden) => self.apply_whiteout(entry, parent, hidden),
            Meaning::Opaque | Meaning::Bookkeeping => {
                if let Some(dir) = self.dir_mut(parent) {
                    dir.opaque = true;
                }
                Ok(Applied::Done)
            }
        }
    }

    /// Takes the directories of AUFS out again, once all members are there: what has no other name goes with them.
    pub(crate) fn drop_aufs_bookkeeping(&mut self) {
        if !self.notes.contains_key(&Note::AufsBookkeeping) {
            return;
        }
        let mut todo = vec![NodeId::ROOT];
        while let Some(id) = todo.pop() {
            let Some(dir) = self.dir(id) else { continue };
            let mut gone = Vec::new();
            for (name, &child) in &dir.children {
                if name.starts_with(WHITEOUT_META) {
                    gone.push(name.clone());
                } else if self.dir(child).is_some() {
                    todo.push(child);
                }
            }
            for name in &gone {
                self.unlink(id, name);
            }
        }
    }

    fn apply_root(&mut self, entry: &Entry, options: &LayerOptions) -> Result<Applied, Error> {
        match entry.kind {
            Kind::Directory if options.root_meta => {
                self.set_dir(entry, NodeId::ROOT, options)?;
            }
            Kind::Directory => {}
            Kind::Hardlink | Kind::Symlink => return Err(Error::RootReplaced),
            _ => self.note(Note::DotNotADirectory),
        }
        Ok(Applied::Done)
    }

    /// Gives a directory the attributes of its member.
    fn set_dir(&mut self, entry: &Entry, id: NodeId, options: &LayerOptions) -> Result<(), Error> {
        let xattrs = self.xattr_set_of_member(entry, FileType::Directory, options.xattrs)?;
        let node = self.node_mut(id);
        node.meta = entry.meta;
        node.xattrs = xattrs;
        if let Some(dir) = self.dir_mut(id) {
            dir.implicit = false;
        }
        Ok(())
    }

    /// A whiteout hides the name in the layers below; what this layer itself has under that name stays,
    /// whichever comes first.
    fn apply_whiteout(
        &mut self,
        entry: &Entry,
        parent: NodeId,
        name: &[u8],
    ) -> Result<Applied, Error> {
        match self.child(parent, name) {
            None => {
                let meta = Meta { mode: 0, ..entry.meta };
                self.add(parent, name, meta, super::XattrSetId::EMPTY, NodeKind::Whiteout)?;
            }
            Some(existing) => {
                if let Some(dir) = self.dir_mut(existing) {
                    dir.opaque = true;
                }
            }
        }
        Ok(Applied::Done)
    }

    fn apply_plain(
        &mut self,
        entry: &Entry,
        parent: NodeId,
        name: &[u8],
        options: &LayerOptions,
    ) -> Result<Applied, Error> {
        if entry.kind == Kind::Directory
            && let Some(id) = self.child(parent, name).filter(|&id| self.dir(id).is_some())
        {
            if self.dir(id).is_some_and(|d| !d.implicit) {
                self.duplicate(entry, options)?;
            }
            self.set_dir(entry, id, options)?;
            return Ok(Applied::Done);
        }
        let was_hidden = self.clear_name(entry, parent, name, options)?;
        if entry.kind == Kind::Hardlink {
            return self.apply_hardlink(entry, parent, name, options);
        }
        let kind = self.new_kind(entry, parent, was_hidden)?;
        let xattrs = self.xattr_set_of_member(entry, kind.file_type(), options.xattrs)?;
        let mut meta = entry.meta;
        if matches!(kind, NodeKind::Symlink(_)) {
            meta.mode = 0o777;
        }
        let id = self.push(Node { meta, xattrs, names: 0, kind })?;
        self.link(parent, name, id);
        Ok(if entry.kind == Kind::Regular { Applied::File(id) } else { Applied::Done })
    }

    /// Frees a name for a new member. Returns whether a whiteout was there.
    fn clear_name(
        &mut self,
        entry: &Entry,
        parent: NodeId,
        name: &[u8],
        options: &LayerOptions,
    ) -> Result<bool, Error> {
        let Some(existing) = self.child(parent, name) else { return Ok(false) };
        let was_hidden = matches!(self.node(existing).kind, NodeKind::Whiteout);
        if !was_hidden {
            self.duplicate(entry, options)?;
        }
        self.unlink(parent, name);
        Ok(was_hidden)
    }

    fn duplicate(&mut self, entry: &Entry, options: &LayerOptions) -> Result<(), Error> {
        if options.refuse_duplicates {
            return Err(Error::Duplicate { path: shown(&entry.path) });
        }
        self.note(Note::Duplicate);
        Ok(())
    }

    fn new_kind(
        &mut self,
        entry: &Entry,
        parent: NodeId,
        was_hidden: bool,
    ) -> Result<NodeKind, Error> {
        Ok(match entry.kind {
            Kind::Directory => {
                let mut dir = Dir::new(parent, false);
                dir.opaque = was_hidden;
                NodeKind::Dir(dir)
            }
            Kind::Symlink => {
                let len = entry.link.len();
                if !(1..=4095).contains(&len) {
                    return Err(Error::BadSymlink { path: shown(&entry.path), len });
                }
                NodeKind::Symlink(entry.link.as_slice().into())
            }
            Kind::Char => {
                if entry.rdev == WHITEOUT_DEVICE {
                    self.note(Note::WhiteoutLookalike);
                }
                NodeKind::Char(device(entry)?)
            }
            Kind::Block => NodeKind::Block(device(entry)?),
            Kind::Fifo => NodeKind::Fifo,
            Kind::Regular | Kind::Hardlink => {
                NodeKind::File { size: entry.size, content: Content::default() }
            }
        })
    }

    /// A hard link shares the inode of an earlier member, and its header describes that inode anew.
    fn apply_hardlink(
        &mut self,
        entry: &Entry,
        parent: NodeId,
        name: &[u8],
        options: &LayerOptions,
    ) -> Result<Applied, Error> {
        let target_parts = clean(&entry.link, Names::Plain)?;
        let missing =
            || Error::MissingLinkTarget { path: shown(&entry.path), target: shown(&entry.link) };
        let to_directory =
            || Error::LinkToDirectory { path: shown(&entry.path), target: shown(&entry.link) };
        let Some((base, parents)) = target_parts.split_last() else { return Err(to_directory()) };
        let dir = self.walk(&entry.link, parents, Missing::Stop)?.ok_or_else(missing)?;
        let target = self.child(dir, base).ok_or_else(missing)?;
        let file_type = match &self.node(target).kind {
            NodeKind::Whiteout => return Err(missing()),
            NodeKind::Dir(_) => return Err(to_directory()),
            kind => kind.file_type(),
        };
        let extra = self.xattr_set_of_member(entry, file_type, options.xattrs)?;
        let xattrs = self.merge_xattrs(self.node(target).xattrs, extra);
        let node = self.node_mut(target);
        node.xattrs = xattrs;
        node.meta = entry.meta;
        if matches!(node.kind, NodeKind::Symlink(_)) {
            node.meta.mode = 0o777;
        }
        self.link(parent, name, target);
        Ok(Applied::Done)
    }
}

fn device(entry: &Entry) -> Result<u32, Error> {
    let (major, minor) = entry.rdev;
    encode_rdev(major, minor).ok_or_else(|| Error::BadDevice {
        path: shown(&entry.path),
        major,
        minor,
    })
}
