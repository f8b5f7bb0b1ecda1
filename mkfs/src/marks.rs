//! What overlayfs writes into the directories it is made of (`fs/overlayfs/overlayfs.h`): whiteouts, and extended
//! attributes that say something of the overlay instead of the file. What they are called stands here, and nowhere else.

use crate::format::FileType;
use crate::meta::Xattr;
use crate::tar::Problem;

/// The mark of an image that hides the same directory of the layers below; its value is [`YES`].
pub const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// An empty one makes overlayfs look for whiteouts in a directory that only one layer has.
pub const ORIGIN: &[u8] = b"trusted.overlay.origin";
/// The mark of an empty file that is a whiteout (6.7), in a directory with [`OPAQUE`] of the value [`HOLDS_WHITEOUTS`].
pub const WHITEOUT: &[u8] = b"trusted.overlay.whiteout";
/// [`OPAQUE`] as an attribute that overlayfs shows as the mark (6.7).
pub const ESCAPED_OPAQUE: &[u8] = b"trusted.overlay.overlay.opaque";
/// The value of [`OPAQUE`] that hides.
pub const YES: &[u8] = b"y";
/// The value of [`OPAQUE`] that announces whiteouts with [`WHITEOUT`] (6.7).
pub const HOLDS_WHITEOUTS: &[u8] = b"x";

/// The character device, by major and minor number, that hides a name of the layers below.
pub const WHITEOUT_DEVICE: (u32, u32) = (0, 0);
/// [`WHITEOUT_DEVICE`] as an inode stores it.
pub const WHITEOUT_RDEV: u32 = 0;

/// Names of marks behind the prefix.
pub mod name {
    /// A directory hides what is below it (`OVL_XATTR_OPAQUE`).
    pub const OPAQUE: &[u8] = b"opaque";
    /// Where else a directory, or the content of a file, is below (`OVL_XATTR_REDIRECT`).
    pub const REDIRECT: &[u8] = b"redirect";
    /// The content of a file is below (`OVL_XATTR_METACOPY`).
    pub const METACOPY: &[u8] = b"metacopy";
    /// What a file was copied up from; of the root of an upper directory, that there is an index (`OVL_XATTR_ORIGIN`).
    pub const ORIGIN: &[u8] = b"origin";
    /// An empty file is a whiteout (`OVL_XATTR_XWHITEOUT`).
    pub const WHITEOUT: &[u8] = b"whiteout";
    /// Of which upper directory an index is (`OVL_XATTR_UPPER`).
    pub const UPPER: &[u8] = b"upper";
    /// A directory has files that were copied up or moved (`OVL_XATTR_IMPURE`).
    pub(super) const IMPURE: &[u8] = b"impure";
    /// The number of links of a file in the overlay (`OVL_XATTR_NLINK`).
    pub(super) const NLINK: &[u8] = b"nlink";
    /// The UUID of the overlay (`OVL_XATTR_UUID`).
    pub(super) const UUID: &[u8] = b"uuid";
    /// Flags of a file (`OVL_XATTR_PROTATTR`).
    pub(super) const PROTATTR: &[u8] = b"protattr";
}

/// What the marks of an overlayfs are called: by the mount option `userxattr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Marks {
    /// `trusted.overlay.*`.
    #[default]
    Trusted,
    /// `user.overlay.*`, and `user.fuseoverlayfs.*` of fuse-overlayfs.
    User,
}

/// What fuse-overlayfs puts before its marks where it may not set those of the kernel.
const FUSE: &[u8] = b"user.fuseoverlayfs.";

/// With this behind the prefix, a mark is one of a nested overlay: an attribute like others.
const ESCAPE: &[u8] = b"overlay.";

impl Marks {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Trusted, Self::User];

    /// What every mark begins with.
    #[must_use]
    pub fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// The attribute that is the mark `name`, which is one of [`name`](mod@name).
    #[must_use]
    pub fn attribute(self, name: &[u8]) -> Vec<u8> {
        [self.prefix(), name].concat()
    }

    /// The attribute that overlayfs shows as the attribute `name`, if that would be a mark.
    #[must_use]
    pub fn escaped(self, name: &[u8]) -> Option<Vec<u8>> {
        Some([self.prefix(), ESCAPE, name.strip_prefix(self.prefix())?].concat())
    }

    /// Whether an attribute is one of overlayfs or of fuse-overlayfs, a mark or not.
    #[must_use]
    pub fn has_name(self, name: &[u8]) -> bool {
        name.starts_with(self.prefix()) || (self == Self::User && name.starts_with(FUSE))
    }

    /// The mark of overlayfs that an attribute is, without its prefix.
    #[must_use]
    pub fn of_kernel(self, name: &[u8]) -> Option<&[u8]> {
        name.strip_prefix(self.prefix()).filter(|mark| !mark.starts_with(ESCAPE))
    }

    /// An attribute as overlayfs shows it; nothing for its own.
    #[must_use]
    pub fn visible(self, xattr: &Xattr) -> Option<Xattr> {
        let name = match xattr.name.strip_prefix(self.prefix()) {
            None => xattr.name.clone(),
            Some(mark) => self.attribute(mark.strip_prefix(ESCAPE)?),
        };
        Some(Xattr { name, value: xattr.value.clone() })
    }

    /// The mark that an attribute is, without its prefix.
    fn mark(self, name: &[u8]) -> Option<&[u8]> {
        let of_fuse = || name.strip_prefix(FUSE).filter(|_| self == Self::User);
        self.of_kernel(name).or_else(of_fuse)
    }

    /// Whether the attribute is a mark of an overlay that was mounted with the other one.
    #[must_use]
    pub fn is_of_other(self, name: &[u8]) -> bool {
        let other = match self {
            Self::Trusted => Self::User,
            Self::User => Self::Trusted,
        };
        other.mark(name).is_some()
    }
}

/// What the marks of one inode say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OverlayXattrState {
    /// A directory hides what is below it.
    pub opaque: bool,
    /// A directory, or the content of a file, is to be looked for under another name below: an absolute path, or a name
    /// in the same directory.
    pub redirect: Option<Vec<u8>>,
    /// The content of a file is in a layer below.
    pub metacopy: bool,
    /// What a file was copied up from is known. The root is never copied up: it has this mark once the overlay has an index.
    pub origin: bool,
}

impl OverlayXattrState {
    /// Of an inode with these attributes, in an overlay whose marks are called so.
    #[must_use]
    pub fn of(xattrs: &[Xattr], marks: Marks) -> Self {
        let mut said = Self::default();
        for xattr in xattrs {
            match marks.mark(&xattr.name) {
                Some(name::OPAQUE) => said.opaque = xattr.value == YES,
                Some(name::REDIRECT) => said.redirect = Some(xattr.value.clone()),
                Some(name::METACOPY) => said.metacopy = true,
                Some(name::ORIGIN) => said.origin = true,
                _ => {}
            }
        }
        said
    }
}

/// The two forms of a whiteout that overlayfs knows: a character device, and since 6.7 an empty file with an attribute.
#[must_use]
pub fn is_whiteout(
    file_type: FileType,
    rdev: (u32, u32),
    size: u64,
    xattrs: &[Xattr],
    marks: Marks,
) -> bool {
    match file_type {
        FileType::Char => rdev == WHITEOUT_DEVICE,
        FileType::Regular => {
            size == 0 && xattrs.iter().any(|xattr| marks.mark(&xattr.name) == Some(name::WHITEOUT))
        }
        _ => false,
    }
}

/// Takes overlayfs' own attributes out, and the escape from those that are meant to be seen. Returns whether the directory
/// is opaque.
///
/// # Errors
/// [`Problem::NoForm`] for a file whose content, or a directory whose names, are elsewhere.
pub fn undo_marks(xattrs: &mut Vec<Xattr>, marks: Marks) -> Result<bool, Problem> {
    let mut opaque = false;
    let mut kept = Vec::with_capacity(xattrs.len());
    for xattr in xattrs.drain(..) {
        if let Some(name) = unescaped(&xattr.name) {
            kept.push(Xattr { name, value: xattr.value });
            continue;
        }
        match xattr.name.strip_prefix(marks.prefix()) {
            None => kept.push(xattr),
            Some(name::OPAQUE) => opaque |= xattr.value == YES,
            Some(mark) if is_bookkeeping(mark) => {}
            Some(_) => return Err(Problem::NoForm { name: xattr.name }),
        }
    }
    kept.sort_unstable();
    *xattrs = kept;
    Ok(opaque)
}

/// Marks that say where a file came from and how it is kept, which no layer needs.
fn is_bookkeeping(mark: &[u8]) -> bool {
    matches!(
        mark,
        name::ORIGIN | name::IMPURE | name::NLINK | name::UUID | name::UPPER | name::PROTATTR
    )
}

/// The name that overlayfs shows for one it would otherwise take as its own: one `overlay.` less.
fn unescaped(name: &[u8]) -> Option<Vec<u8>> {
    Marks::ALL.into_iter().find_map(|marks| {
        let hidden = name.strip_prefix(marks.prefix())?.strip_prefix(ESCAPE)?;
        Some(marks.attribute(hidden))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_other_mounts_are_known_by_their_names() {
        for (name, of_trusted, of_user) in [
            ("trusted.overlay.opaque", false, true),
            ("trusted.overlay.impure", false, true),
            ("trusted.overlay.overlay.opaque", false, false),
            ("user.overlay.opaque", true, false),
            ("user.overlay.origin", true, false),
            ("user.overlay.overlay.opaque", false, false),
            ("user.fuseoverlayfs.opaque", true, false),
            ("user.key", false, false),
            ("user.overlayfs", false, false),
        ] {
            let got = Marks::ALL.map(|m| m.is_of_other(name.as_bytes()));
            assert_eq!(got, [of_trusted, of_user], "{name}");
        }
        let opaque = |name: &str| [Xattr { name: name.into(), value: b"y".to_vec() }];
        for (name, of_trusted, of_user) in [
            ("trusted.overlay.opaque", true, false),
            ("user.overlay.opaque", false, true),
            ("user.fuseoverlayfs.opaque", false, true),
        ] {
            let got = Marks::ALL.map(|m| OverlayXattrState::of(&opaque(name), m).opaque);
            assert_eq!(got, [of_trusted, of_user], "{name}");
        }
    }
}
