//! Extended attributes: which ones of the input are kept, and each distinct set stored once.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::xattr_sets::XattrSetId;
use super::{Error, FileTree, Note};
use crate::format::{FileType, NAME_MAX, prefix_of};
use crate::interpreted::{self, Set};
use crate::marks::Marks;
use crate::meta::Xattr;
use crate::names::shown;
use crate::tar::Entry;

/// What becomes of attributes that mean something to the mount instead of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct XattrPolicy {
    /// Keep `trusted.*`; containerd cannot set them either, so they are dropped by default.
    pub keep_trusted: bool,
    /// `trusted.overlay.*` and `user.overlay.*`, with which a layer could reach into other layers.
    pub overlay: OverlayXattrs,
    /// Drop all of them.
    pub drop_all: bool,
}

/// What becomes of overlayfs' own attributes in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
        Self { keep_trusted: false, overlay: OverlayXattrs::Escape, drop_all: false }
    }
}

/// Largest value: `e_value_size` has 16 bits.
const VALUE_MAX: usize = 65_535;
/// Largest area of xattrs behind an inode: `i_xattr_icount` has 16 bits.
const AREA_MAX: usize = 12 + 4 * 65_534;

/// A namespace that EROFS can hold, and that Linux neither shows nor sets.
const LUSTRE: &[u8] = b"lustre.";

/// Extended attributes that were dropped from one source: those that the kernel would not set where containerd unpacks a
/// layer, and those that EROFS has no namespace for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DroppedXattrs {
    /// How many, on all files together.
    pub count: u64,
    /// The first different names, as printable ASCII.
    names: Vec<String>,
    /// Whether there were other names.
    more: bool,
}

impl DroppedXattrs {
    /// Most names that are remembered.
    const NAMES: usize = 8;
    /// Most characters of a name.
    const NAME_LEN: usize = 80;

    /// `count` attributes with these names, and others if `more`. What is beyond the bounds of this type is cut off.
    #[must_use]
    pub fn new(count: u64, names: impl IntoIterator<Item = String>, more: bool) -> Self {
        let mut dropped = Self { count, names: Vec::new(), more };
        names.into_iter().for_each(|name| dropped.remember(&name));
        dropped
    }

    /// The first different names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether there were other names.
    #[must_use]
    pub fn has_more_names(&self) -> bool {
        self.more
    }

    fn add(&mut self, name: &[u8]) {
        self.count = self.count.saturating_add(1);
        let part = name.get(..Self::NAME_LEN).unwrap_or(name);
        self.remember(&part.escape_ascii().to_string());
    }

    fn remember(&mut self, name: &str) {
        let is_plain = |c: &char| c.is_ascii_graphic() || *c == ' ';
        let name: String = name.chars().filter(is_plain).take(Self::NAME_LEN).collect();
        if self.names.contains(&name) {
            return;
        }
        if self.names.len() < Self::NAMES {
            self.names.push(name);
        } else {
            self.more = true;
        }
    }
}

/// As count, names, and whether there were others.
impl Serialize for DroppedXattrs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.count, &self.names, self.more).serialize(serializer)
    }
}

/// What is beyond the bounds of this type is cut off, as in [`DroppedXattrs::new`].
impl<'de> Deserialize<'de> for DroppedXattrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (count, names, more) = <(u64, Vec<String>, bool)>::deserialize(deserializer)?;
        Ok(Self::new(count, names, more))
    }
}

impl fmt::Display for DroppedXattrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, names) = (if self.count == 1 { "attribute" } else { "attributes" }, &self.names);
        let more = if self.more { ", ..." } else { "" };
        write!(
            f,
            "{} extended {what} dropped, which Linux cannot set on such files or EROFS ",
            self.count
        )?;
        write!(f, "cannot hold: {}{more}", names.join(", "))
    }
}

impl FileTree {
    /// The set of the attributes of a file that are kept.
    ///
    /// # Errors
    /// [`Error::BadXattr`] for what EROFS cannot hold, and for what setxattr(2) refuses.
    pub fn xattr_set(
        &mut self,
        path: &[u8],
        xattrs: &[Xattr],
        file_type: FileType,
        policy: XattrPolicy,
    ) -> Result<XattrSetId, Error> {
        let judge = |xattr: &Xattr| decide(path, xattr, file_type, policy);
        self.set_of(path, xattrs, policy, judge)
    }

    /// The set of the attributes of a member that are kept. What only libarchive's records say, which containerd does not
    /// read, never speaks against the member.
    pub(super) fn xattr_set_of_member(
        &mut self,
        entry: &Entry,
        file_type: FileType,
        policy: XattrPolicy,
    ) -> Result<XattrSetId, Error> {
        let undecoded = entry.libarchive.undecoded.iter().filter(|_| !policy.drop_all);
        for name in undecoded {
            self.note(Note::InvalidXattrDropped);
            self.dropped.add(name);
        }
        let is_optional = |name: &Vec<u8>| entry.libarchive.only.binary_search(name).is_ok();
        let judge = |xattr: &Xattr| match decide(&entry.path, xattr, file_type, policy) {
            Err(_) if is_optional(&xattr.name) => Ok(Verdict::Drop(Note::InvalidXattrDropped)),
            verdict => verdict,
        };
        self.set_of(&entry.path, &entry.xattrs, policy, judge)
    }

    fn set_of(
        &mut self,
        path: &[u8],
        xattrs: &[Xattr],
        policy: XattrPolicy,
        judge: impl Fn(&Xattr) -> Result<Verdict, Error>,
    ) -> Result<XattrSetId, Error> {
        if xattrs.is_empty() || policy.drop_all {
            return Ok(XattrSetId::EMPTY);
        }
        let mut kept = BTreeMap::new();
        for xattr in xattrs {
            match judge(xattr)? {
                Verdict::Keep(name) => {
                    kept.insert(name, xattr.value.clone());
                }
                Verdict::Escape(name) => {
                    self.note(Note::OverlayXattr);
                    kept.insert(name, xattr.value.clone());
                }
                Verdict::LeaveOut => self.note(Note::OverlayXattr),
                Verdict::Nothing => {}
                Verdict::Drop(note) => {
                    self.note(note);
                    self.dropped.add(&xattr.name);
                }
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
    /// It stays under this name.
    Keep(Vec<u8>),
    /// It is overlayfs', and stays under another name.
    Escape(Vec<u8>),
    /// It is overlayfs', and is not wanted.
    LeaveOut,
    /// Its value says that there is no such attribute.
    Nothing,
    /// The kernel would not set it.
    Drop(Note),
}

fn bad(path: &[u8], name: &[u8], why: &'static str) -> Error {
    Error::BadXattr { path: shown(path), name: shown(name), why }
}

/// What becomes of one attribute.
fn decide(
    path: &[u8],
    xattr: &Xattr,
    file_type: FileType,
    policy: XattrPolicy,
) -> Result<Verdict, Error> {
    let name = xattr.name.as_slice();
    if matches!(name, b"user." | b"security.") {
        return Err(bad(path, name, "nothing behind the namespace"));
    }
    let Some((_, rest)) = prefix_of(name).filter(|_| !name.starts_with(LUSTRE)) else {
        return Ok(Verdict::Drop(Note::UnknownXattrDropped));
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
    if name.starts_with(b"user.") && !matches!(file_type, FileType::Regular | FileType::Directory) {
        return Ok(Verdict::Drop(Note::UserXattrDropped));
    }
    if let Some(escaped) = Marks::ALL.into_iter().find_map(|marks| marks.escaped(name)) {
        return Ok(match policy.overlay {
            OverlayXattrs::Keep => Verdict::Keep(name.to_vec()),
            OverlayXattrs::Drop => Verdict::LeaveOut,
            OverlayXattrs::Escape if escaped.len() > NAME_MAX => {
                return Err(bad(path, &escaped, "name longer than 255 bytes once escaped"));
            }
            OverlayXattrs::Escape => Verdict::Escape(escaped),
        });
    }
    if name.starts_with(b"trusted.") && !policy.keep_trusted {
        return Ok(Verdict::Drop(Note::TrustedXattrDropped));
    }
    match interpreted::set(name, &xattr.value, file_type) {
        Set::Stored => Ok(Verdict::Keep(name.to_vec())),
        Set::Nothing => Ok(Verdict::Nothing),
        Set::Unsupported => Ok(Verdict::Drop(Note::InvalidXattrDropped)),
        Set::Refused(why) => Err(bad(path, name, why)),
    }
}
