//! What one stack of layers shows that another does not: DiffDirChanges where one is the other with an upper directory
//! over it, and a walk over both elsewhere.

use super::change::{Change, ChangeKind, Differences};
use super::links::{self, Aliases};
use super::{Attributes, Marks, Node, Owners, Shown, Stack};
use crate::Error;
use erolith_mkfs::format::FileType;
use erolith_mkfs::image::DEPTH_MAX;
use erolith_mkfs::meta::IMPLICIT_DIR;
use erolith_mkfs::meta::{Meta, Xattr};
use erolith_mkfs::names;
use erolith_mkfs::names::shown;

/// Bytes of two files that are compared at a time.
const PIECE: usize = 128 << 10;

/// How two stacks are compared.
#[derive(Debug, Clone, Default)]
pub struct DiffOptions {
    /// What is part of a layer.
    pub attributes: Attributes,
    /// The maps of the container that wrote to the upper directory.
    pub owners: Owners,
    /// Everything that differs is said, not only that something does.
    pub thorough: bool,
    /// How the overlay was mounted is not known for certain: marks of the other kind in the upper directory are an error.
    pub refuse_other_marks: bool,
}

/// What `new` has that `old` has not. The root is always the first; each directory comes before what is in it, names in
/// the order of their bytes. A directory goes with every change in it, so that no reader has to guess its attributes.
///
/// Where `new` is `old` with an upper directory over it, only that is listed. `go_on` is asked before each name.
///
/// # Errors
/// What `go_on` says; [`Error::Overlay`], [`Error::Index`], [`Error::Marks`], [`Error::Owner`], [`Error::Changed`]; what the storage reports, and any fault
/// of an image.
pub fn changes<E: From<Error>>(
    old: &Stack,
    new: &Stack,
    how: &DiffOptions,
    mut go_on: impl FnMut() -> Result<(), E>,
) -> Result<Vec<Change>, E> {
    let new = &new.with_index(&mut go_on)?;
    let mut comparison = Comparison::new(old, new, how);
    let mut list = comparison.walk(&mut go_on)?;
    // Where both sides are walked, every name is looked at anyway.
    if comparison.is_upper {
        let aliases = links::aliases(new, &list, &mut go_on)?;
        if !aliases.is_empty() {
            comparison.aliases = aliases;
            list = comparison.walk(&mut go_on)?;
        }
    }
    links::settle(&mut list, comparison.is_upper);
    Ok(prune(list))
}

/// Leaves out what did not change and is on the way to nothing.
fn prune(mut list: Vec<Change>) -> Vec<Change> {
    let mut wanted: Vec<bool> = list.iter().map(|change| change.what != ChangeKind::Kept).collect();
    for (index, change) in list.iter().enumerate().rev() {
        let is_wanted = wanted.get(index).copied().unwrap_or_default() || index == 0;
        for index in [index, change.parent] {
            if let (true, Some(wanted)) = (is_wanted, wanted.get_mut(index)) {
                *wanted = true;
            }
        }
    }
    let mut wanted = wanted.into_iter();
    list.retain(|_| wanted.next().unwrap_or_default());
    list
}

struct Comparison<'a> {
    old: &'a Stack,
    new: &'a Stack,
    how: &'a DiffOptions,
    /// Only the upper directory is listed.
    is_upper: bool,
    aliases: Aliases,
}

/// A directory whose names are being looked at.
struct Frame {
    old: Option<Shown>,
    new: Shown,
    names: std::vec::IntoIter<Vec<u8>>,
    /// Its number in the list.
    index: usize,
}

impl<'a> Comparison<'a> {
    fn new(old: &'a Stack, new: &'a Stack, how: &'a DiffOptions) -> Self {
        Self { old, new, how, is_upper: new.is_over(old), aliases: Aliases::default() }
    }

    fn walk<E: From<Error>>(
        &self,
        go_on: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<Change>, E> {
        let mut list = Vec::new();
        let mut frames = Vec::from_iter(self.root(&mut list)?);
        while let Some(frame) = frames.last_mut() {
            let Some(name) = frame.names.next() else {
                frames.pop();
                continue;
            };
            go_on()?;
            let dir = list.get(frame.index).map_or(&[][..], |change: &Change| &change.path);
            let path = names::join(dir, &name);
            let old = match &frame.old {
                Some(dir) => self.old.child(dir, &path)?,
                None => None,
            };
            let new = self.new.child(&frame.new, &path)?;
            let parent = frame.index;
            if let Some(frame) = self.name(path, parent, old, new, &mut list)? {
                if frames.len() > DEPTH_MAX {
                    let why = "directories are nested deeper than any path can be long";
                    return Err(Error::Overlay { what: shown(&name), why }.into());
                }
                frames.push(frame);
            }
        }
        Ok(list)
    }

    fn root(&self, list: &mut Vec<Change>) -> Result<Option<Frame>, Error> {
        let Some(new) = self.new.root()? else { return Ok(None) };
        let old = self.old.root()?;
        let (what, meta, xattrs) = self.root_attributes(old.as_ref(), &new)?;
        list.push(Change {
            path: Vec::new(),
            what,
            hides: false,
            meta,
            xattrs,
            first: None,
            old: old.as_ref().and_then(Shown::node).cloned(),
            new: Some(new.clone()),
            parent: 0,
        });
        Ok(Some(self.frame(&[], old, new, 0)?))
    }

    /// The attributes of the root in the layer. The upper directory of a snapshot is made, not copied up from the layers
    /// below; so where it has the attributes that it is made with, they say nothing, and neither does its time.
    fn root_attributes(
        &self,
        old: Option<&Shown>,
        new: &Shown,
    ) -> Result<(ChangeKind, Meta, Vec<Xattr>), Error> {
        let (meta, xattrs) = self.attributes(self.new, new, &[])?;
        if self.how.attributes == Attributes::Local {
            return Ok((ChangeKind::Kept, meta, xattrs));
        }
        let said = |meta: Meta| (meta.mode, meta.uid, meta.gid);
        let is_default = said(meta) == said(IMPLICIT_DIR) && xattrs.is_empty();
        let Some(old) = old else {
            let what = if is_default { ChangeKind::Kept } else { ChangeKind::Added };
            let meta = if is_default { IMPLICIT_DIR } else { meta };
            return Ok((what, meta, xattrs));
        };
        let (was, had) = self.attributes(self.old, old, &[])?;
        let found = Differences {
            mode: was.mode != meta.mode,
            owner: (was.uid, was.gid) != (meta.uid, meta.gid),
            xattrs: had != xattrs,
            ..Differences::default()
        };
        if (is_default && self.is_upper) || found == Differences::default() {
            return Ok((ChangeKind::Kept, was, had));
        }
        Ok((ChangeKind::Modified(found), meta, xattrs))
    }

    /// Compares what has one name. Returns a directory, to be entered.
    fn name(
        &self,
        path: Vec<u8>,
        parent: usize,
        old: Option<Shown>,
        new: Option<Shown>,
        list: &mut Vec<Change>,
    ) -> Result<Option<Frame>, Error> {
        let takes = |node: &Node| self.how.attributes.takes(node.file_type());
        let new = new.filter(|new| new.node().is_some_and(takes));
        let (mut meta, mut xattrs) = (Meta::default(), Vec::new());
        let (mut what, mut hides) = (ChangeKind::Removed, false);
        match (&old, &new) {
            (None, None) => return Ok(None),
            (Some(old), Some(new)) if old.is_same(new) && !self.is_alias(&path) => return Ok(None),
            (_, None) => {}
            (old, Some(new)) => {
                (meta, xattrs) = self.attributes(self.new, new, &path)?;
                hides = old.as_ref().is_some_and(|old| self.hides(new, old));
                what = match old {
                    None => ChangeKind::Added,
                    Some(old) => {
                        let start = Differences { content: hides, ..Differences::default() };
                        self.compare(old, new, (meta, &xattrs), &path, start)?
                    }
                };
            }
        }
        let old_node = old.as_ref().and_then(Shown::node).cloned();
        let dir = new.clone().filter(Shown::is_dir);
        let enter = |dir| self.frame(&path, old.filter(|_| !hides), dir, list.len());
        let frame = dir.map(enter).transpose()?;
        list.push(Change {
            path,
            what,
            hides,
            meta,
            xattrs,
            first: None,
            old: old_node,
            new,
            parent,
        });
        Ok(frame)
    }

    /// Whether it is compared whatever it shows, or is on the way to such a name.
    fn is_alias(&self, path: &[u8]) -> bool {
        self.aliases.contains(path) || self.aliases.are_below(path)
    }

    /// Whether a directory hides what was there, instead of being laid over it.
    fn hides(&self, new: &Shown, old: &Shown) -> bool {
        let is_both = new.is_dir() && old.is_dir();
        is_both && self.is_upper && !new.is_over(old) && !new.is_same(old)
    }

    fn frame(
        &self,
        path: &[u8],
        old: Option<Shown>,
        new: Shown,
        index: usize,
    ) -> Result<Frame, Error> {
        let old = old.filter(Shown::is_dir);
        let mut names = match &old {
            Some(old) if new.is_same(old) => Vec::new(),
            Some(old) if self.is_upper && new.is_over(old) => {
                new.node().map(Node::names).transpose()?.unwrap_or_default()
            }
            None => self.new.names(&new)?,
            Some(old) => [self.old.names(old)?, self.new.names(&new)?].concat(),
        };
        names.extend(self.aliases.names_in(path));
        names.sort_unstable();
        names.dedup();
        Ok(Frame { old, new, names: names.into_iter(), index })
    }

    /// The attributes of what a stack shows, as they are part of a layer.
    fn attributes(
        &self,
        stack: &Stack,
        shown: &Shown,
        path: &[u8],
    ) -> Result<(Meta, Vec<Xattr>), Error> {
        let meta = shown.node().map(Node::meta).unwrap_or_default();
        if self.how.refuse_other_marks && stack.is_upper(shown.layer()) {
            refuse_other_marks(stack.marks(), shown.xattrs(), path)?;
        }
        let keep = |xattr: &&Xattr| self.how.attributes.keep(&xattr.name);
        let xattrs = shown.xattrs().iter().filter(keep);
        if !stack.is_upper(shown.layer()) {
            return Ok((meta, xattrs.cloned().collect()));
        }
        let owners = &self.how.owners;
        let xattrs = xattrs.map(|xattr| owners.xattr(xattr, path)).collect::<Result<_, _>>()?;
        Ok((owners.meta(meta, path)?, xattrs))
    }

    /// Tells a change from a copy, by what is known already and by what else differs.
    fn compare(
        &self,
        old: &Shown,
        new: &Shown,
        (meta, xattrs): (Meta, &[Xattr]),
        path: &[u8],
        known: Differences,
    ) -> Result<ChangeKind, Error> {
        let (Some(one), Some(other)) = (old.node(), new.node()) else {
            return Ok(ChangeKind::Added);
        };
        let (was, had) = self.attributes(self.old, old, path)?;
        let mut found = Differences {
            kind: one.file_type() != other.file_type(),
            mode: was.mode != meta.mode,
            owner: (was.uid, was.gid) != (meta.uid, meta.gid),
            time: was.mtime != meta.mtime,
            xattrs: had != xattrs,
            ..known
        };
        if !found.kind && (self.how.thorough || found == Differences::default()) {
            found.content |= !is_same_content(old, new, one, other)?;
        }
        Ok(if found == Differences::default() {
            ChangeKind::Kept
        } else {
            ChangeKind::Modified(found)
        })
    }
}

fn refuse_other_marks(marks: Marks, xattrs: &[Xattr], path: &[u8]) -> Result<(), Error> {
    let Some(found) = xattrs.iter().find(|xattr| marks.is_of_other(&xattr.name)) else {
        return Ok(());
    };
    let what = shown(if path.is_empty() { b"." } else { path });
    Err(Error::Marks { what, mark: shown(&found.name), why: other_marks_advice(marks) })
}

/// What to do when there are marks of an overlay that was mounted with the other one.
const fn other_marks_advice(marks: Marks) -> &'static str {
    match marks {
        Marks::Trusted => {
            "which an overlay with the option userxattr, or fuse-overlayfs, has written, and what was removed would \
             be lost: --userxattr reads these marks; --userxattr=false takes them for attributes of the files"
        }
        Marks::User => {
            "which an overlay without the option userxattr has written, and what was removed would be lost: leave \
             --userxattr out"
        }
    }
}

fn is_same_content(old: &Shown, new: &Shown, one: &Node, other: &Node) -> Result<bool, Error> {
    Ok(match one.file_type() {
        FileType::Regular => {
            let (old, new) = (old.data().unwrap_or(one), new.data().unwrap_or(other));
            old.is_same(new) || (old.size() == new.size() && is_same_bytes(old, new)?)
        }
        FileType::Symlink => one.read_link()? == other.read_link()?,
        FileType::Char | FileType::Block => one.rdev() == other.rdev(),
        FileType::Directory | FileType::Fifo | FileType::Socket => true,
    })
}

fn is_same_bytes(one: &Node, other: &Node) -> Result<bool, Error> {
    let len = usize::try_from(one.size()).map_or(PIECE, |size| size.clamp(1, PIECE));
    let mut contents = [one.content()?, other.content()?];
    let mut bufs = [vec![0; len], vec![0; len]];
    loop {
        let mut filled = 0;
        for (content, buf) in contents.iter_mut().zip(&mut bufs) {
            filled = 0;
            while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match content.read(rest)? {
                    0 => break,
                    n => filled += n,
                }
            }
        }
        let [one, other] = &bufs;
        if one.get(..filled) != other.get(..filled) {
            return Ok(false);
        }
        if filled < len {
            return Ok(true);
        }
    }
}
