//! Extended attributes: which ones of the input are kept, and each distinct set stored once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Error, Note, Tree, shown};
use crate::format::{NAME_MAX, prefix_of};
use crate::meta::Xattr;

/// Index of a set of xattrs in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XattrSetId(pub(crate) u32);

impl XattrSetId {
    /// No xattrs.
    pub const EMPTY: Self = Self(0);
}

/// The distinct sets of a tree. Most inodes have none and the rest share few.
#[derive(Debug)]
pub(super) struct XattrSets {
    sets: Vec<Arc<[Xattr]>>,
    index: BTreeMap<Arc<[Xattr]>, XattrSetId>,
}

impl Default for XattrSets {
    fn default() -> Self {
        let empty: Arc<[Xattr]> = Arc::from([]);
        Self { sets: vec![Arc::clone(&empty)], index: BTreeMap::from([(empty, XattrSetId::EMPTY)]) }
    }
}

impl XattrSets {
    pub(super) fn get(&self, id: XattrSetId) -> &[Xattr] {
        &self.sets[id.0 as usize]
    }

    /// The id of a set: sorted by name, names unique.
    fn intern(&mut self, set: Vec<Xattr>) -> XattrSetId {
        if let Some(&id) = self.index.get(set.as_slice()) {
            return id;
        }
        let set: Arc<[Xattr]> = set.into();
        // There are fewer sets than nodes, and those are counted with 32 bits.
        let id = XattrSetId(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        self.sets.push(Arc::clone(&set));
        self.index.insert(set, id);
        id
    }
}

/// What becomes of attributes that mean something to the mount instead of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XattrPolicy {
    /// Keep `trusted.*`; containerd cannot set them either, so they are dropped by default.
    pub keep_trusted: bool,
    /// `trusted.overlay.*` and `user.overlay.*`, with which a layer could reach into other layers.
    pub overlay: OverlayXattrs,
    /// Drop attributes in namespaces that EROFS cannot hold, instead of refusing them.
    pub drop_unknown: bool,
    /// Drop all of them.
    pub drop_all: bool,
}

/// What becomes of overlayfs' own attributes in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayXattrs {
    /// Rename to `*.overlay.overlay.*`: overlayfs shows them under their first name since 6.7, and earlier
    /// kernels hide them.
    Escape,
    /// Leave them out.
    Drop,
    /// Take them as they are: the source is a layer already, or the user's own directory.
    Keep,
}

impl Default for XattrPolicy {
    fn default() -> Self {
        Self {
            keep_trusted: false,
            overlay: OverlayXattrs::Escape,
            drop_unknown: false,
            drop_all: false,
        }
    }
}

/// Largest value: `e_value_size` has 16 bits.
const VALUE_MAX: usize = 65_535;
/// Largest area of xattrs behind an inode: `i_xattr_icount` has 16 bits.
const AREA_MAX: usize = 12 + 4 * 65_534;

const OVERLAY_PREFIXES: [(&[u8], &[u8]); 2] = [
    (b"trusted.overlay.", b"trusted.overlay.overlay."),
    (b"user.overlay.", b"user.overlay.overlay."),
];

impl Tree {
    /// The set of the attributes of one member that are kept. `takes_user` says whether the kernel allows
    /// `user.*` on it: only regular files and directories have them.
    ///
    /// # Errors
    /// [`Error::BadXattr`] for what EROFS cannot hold.
    pub fn xattr_set(
        &mut self,
        path: &[u8],
        xattrs: &[Xattr],
        takes_user: bool,
        policy: XattrPolicy,
    ) -> Result<XattrSetId, Error> {
        if xattrs.is_empty() || policy.drop_all {
            return Ok(XattrSetId::EMPTY);
        }
        let mut kept = BTreeMap::new();
        for xattr in xattrs {
            let (name, note) = match decide(path, xattr, takes_user, policy)? {
                Verdict::Keep(name, note) => (Some(name), note),
                Verdict::Drop(note) => (None, Some(note)),
            };
            if let Some(note) = note {
                self.note(note);
            }
            if let Some(name) = name {
                kept.insert(name, xattr.value.clone());
            }
        }
        let area = 12
            + kept.iter().map(|(n, v)| 4 + (n.len() + v.len()).next_multiple_of(4)).sum::<usize>();
        if area > AREA_MAX {
            return Err(bad(path, b"", "all attributes together exceed 262148 bytes"));
        }
        Ok(self.sets.intern(kept.into_iter().map(|(name, value)| Xattr { name, value }).collect()))
    }

    /// The set with `extra` added to `base`, or put in the place of the same names.
    pub fn merge_xattrs(&mut self, base: XattrSetId, extra: XattrSetId) -> XattrSetId {
        if extra == XattrSetId::EMPTY || base == extra {
            return base;
        }
        let all = self.sets.get(base).iter().chain(self.sets.get(extra));
        let merged: BTreeMap<_, _> = all.map(|x| (x.name.clone(), x.value.clone())).collect();
        self.sets.intern(merged.into_iter().map(|(name, value)| Xattr { name, value }).collect())
    }

    /// The set with one attribute more.
    pub(super) fn with_xattr(&mut self, base: XattrSetId, name: &[u8], value: &[u8]) -> XattrSetId {
        let one = Xattr { name: name.to_vec(), value: value.to_vec() };
        let extra = self.sets.intern(vec![one]);
        self.merge_xattrs(base, extra)
    }

    /// The set of another tree, in this one.
    pub(super) fn adopt_xattrs(&mut self, xattrs: &[Xattr]) -> XattrSetId {
        self.sets.intern(xattrs.to_vec())
    }
}

enum Verdict {
    Keep(Vec<u8>, Option<Note>),
    Drop(Note),
}

fn bad(path: &[u8], name: &[u8], why: &'static str) -> Error {
    Error::BadXattr { path: shown(path), name: shown(name), why }
}

/// What becomes of one attribute.
fn decide(
    path: &[u8],
    xattr: &Xattr,
    takes_user: bool,
    policy: XattrPolicy,
) -> Result<Verdict, Error> {
    let name = xattr.name.as_slice();
    let Some((_, rest)) = prefix_of(name) else {
        if policy.drop_unknown {
            return Ok(Verdict::Drop(Note::UnknownXattrDropped));
        }
        return Err(bad(path, name, "no namespace that EROFS can hold"));
    };
    if name.contains(&0) {
        return Err(bad(path, name, "NUL byte in the name"));
    }
    if name.len() > NAME_MAX || rest.len() > NAME_MAX {
        return Err(bad(path, name, "name longer than 255 bytes"));
    }
    if xattr.value.len() > VALUE_MAX {
        return Err(bad(path, name, "value longer than 65535 bytes"));
    }
    if name.starts_with(b"user.") && !takes_user {
        return Ok(Verdict::Drop(Note::UserXattrDropped));
    }
    for (prefix, escaped) in OVERLAY_PREFIXES {
        if let Some(rest) = name.strip_prefix(prefix) {
            return Ok(match policy.overlay {
                OverlayXattrs::Keep => Verdict::Keep(name.to_vec(), None),
                OverlayXattrs::Drop => Verdict::Drop(Note::OverlayXattr),
                OverlayXattrs::Escape => escape(path, escaped, rest)?,
            });
        }
    }
    if name.starts_with(b"trusted.") && !policy.keep_trusted {
        return Ok(Verdict::Drop(Note::TrustedXattrDropped));
    }
    Ok(Verdict::Keep(name.to_vec(), None))
}

fn escape(path: &[u8], escaped: &[u8], rest: &[u8]) -> Result<Verdict, Error> {
    let name = [escaped, rest].concat();
    if name.len() > NAME_MAX {
        return Err(bad(path, &name, "name longer than 255 bytes once escaped"));
    }
    Ok(Verdict::Keep(name, Some(Note::OverlayXattr)))
}
