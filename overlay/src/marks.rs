//! What overlayfs writes into the directories it is made of (`fs/overlayfs/overlayfs.h`): whiteouts, and extended
//! attributes that say something of the overlay instead of the file.

use erolith_mkfs::format::FileType;
use erolith_mkfs::meta::Xattr;
use erolith_mkfs::tar::Problem;

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
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// The mark of overlayfs that an attribute is, without its prefix.
    fn of_kernel(self, name: &[u8]) -> Option<&[u8]> {
        name.strip_prefix(self.prefix()).filter(|mark| !mark.starts_with(ESCAPE))
    }

    /// An attribute as overlayfs shows it; nothing for its own.
    pub(super) fn visible(self, xattr: &Xattr) -> Option<Xattr> {
        let name = match xattr.name.strip_prefix(self.prefix()) {
            None => xattr.name.clone(),
            Some(mark) => [self.prefix(), mark.strip_prefix(ESCAPE)?].concat(),
        };
        Some(Xattr { name, value: xattr.value.clone() })
    }

    /// The mark that an attribute is, without its prefix.
    fn mark(self, name: &[u8]) -> Option<&[u8]> {
        let of_fuse = || name.strip_prefix(FUSE).filter(|_| self == Self::User);
        self.of_kernel(name).or_else(of_fuse)
    }

    /// Is the attribute a mark of an overlay that was mounted with the other one?
    pub(super) fn is_of_other(self, name: &[u8]) -> bool {
        let other = match self {
            Self::Trusted => Self::User,
            Self::User => Self::Trusted,
        };
        other.mark(name).is_some()
    }

    /// What to do when there are marks of an overlay that was mounted with the other one.
    pub(super) const fn other(self) -> &'static str {
        match self {
            Self::Trusted => {
                "which an overlay with the option userxattr, or fuse-overlayfs, has written, and what was removed would \
                 be lost: --userxattr reads these marks; --userxattr=false takes them for attributes of the files"
            }
            Self::User => {
                "which an overlay without the option userxattr has written, and what was removed would be lost: leave \
                 --userxattr out"
            }
        }
    }
}

/// What the marks of one inode say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OverlayXattrState {
    /// A directory hides what is below it.
    pub(super) opaque: bool,
    /// A directory, or the content of a file, is to be looked for under another name below: an absolute path, or a name
    /// in the same directory.
    pub(super) redirect: Option<Vec<u8>>,
    /// The content of a file is in a layer below.
    pub(super) metacopy: bool,
    /// What a file was copied up from is known. The root is never copied up: it has this mark once the overlay has an index.
    pub(super) origin: bool,
}

impl OverlayXattrState {
    pub(super) fn of(xattrs: &[Xattr], marks: Marks) -> Self {
        let mut said = Self::default();
        for xattr in xattrs {
            match marks.mark(&xattr.name) {
                Some(b"opaque") => said.opaque = xattr.value == b"y",
                Some(b"redirect") => said.redirect = Some(xattr.value.clone()),
                Some(b"metacopy") => said.metacopy = true,
                Some(b"origin") => said.origin = true,
                _ => {}
            }
        }
        said
    }
}

/// The two forms of a whiteout that overlayfs knows: a character device, and since 6.7 an empty file with an attribute.
pub(crate) fn is_whiteout(
    file_type: FileType,
    rdev: (u32, u32),
    size: u64,
    xattrs: &[Xattr],
    marks: Marks,
) -> bool {
    match file_type {
        FileType::Char => rdev == (0, 0),
        FileType::Regular => {
            size == 0 && xattrs.iter().any(|xattr| marks.mark(&xattr.name) == Some(b"whiteout"))
        }
        _ => false,
    }
}

/// Takes overlayfs' own attributes out, and the escape from those that are meant to be seen. Returns whether the directory
/// is opaque.
///
/// # Errors
/// [`Problem::NoForm`] for a file whose content, or a directory whose names, are elsewhere.
pub(crate) fn undo_marks(xattrs: &mut Vec<Xattr>, marks: Marks) -> Result<bool, Problem> {
    let mut opaque = false;
    let mut kept = Vec::with_capacity(xattrs.len());
    for xattr in xattrs.drain(..) {
        if let Some(name) = unescaped(&xattr.name) {
            kept.push(Xattr { name, value: xattr.value });
            continue;
        }
        match xattr.name.strip_prefix(marks.prefix()) {
            None => kept.push(xattr),
            Some(b"opaque") => opaque |= xattr.value == b"y",
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
    matches!(mark, b"origin" | b"impure" | b"nlink" | b"uuid" | b"upper" | b"protattr")
}

/// The name that overlayfs shows for one it would otherwise take as its own: one `overlay.` less.
fn unescaped(name: &[u8]) -> Option<Vec<u8>> {
    [Marks::Trusted, Marks::User].into_iter().find_map(|marks| {
        let hidden = name.strip_prefix(marks.prefix())?.strip_prefix(ESCAPE)?;
        Some([marks.prefix(), hidden].concat())
    })
}

/// For whom a layer is made, which decides about the attributes and the sockets in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attributes {
    /// For everybody. What says something of the host or of another mount stays behind: labels of SELinux, which the
    /// next host gives itself, access lists of NFS, `trusted.*`, which no container sees, and marks of any overlayfs,
    /// with which the layer could reach into others. So do sockets, which an archive has no form for.
    #[default]
    Portable,
    /// For this host: all but the marks of overlayfs, as they are on disk.
    Local,
}

impl Attributes {
    /// Is the attribute one of the file, and wanted?
    pub(super) fn keep(self, name: &[u8]) -> bool {
        if self == Self::Local {
            return [Marks::Trusted, Marks::User].iter().all(|m| m.of_kernel(name).is_none());
        }
        let of_users = [Marks::User.prefix(), FUSE];
        if name.starts_with(b"trusted.") || of_users.iter().any(|prefix| name.starts_with(prefix)) {
            return false;
        }
        match name {
            b"security.selinux" => false,
            b"system.posix_acl_access" | b"system.posix_acl_default" => true,
            _ => name.starts_with(b"user.") || name.starts_with(b"security."),
        }
    }

    /// Is a file of this type part of the layer?
    pub(super) fn takes(self, file_type: FileType) -> bool {
        self == Self::Local || file_type != FileType::Socket
    }
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
            let got = [Marks::Trusted, Marks::User].map(|m| m.is_of_other(name.as_bytes()));
            assert_eq!(got, [of_trusted, of_user], "{name}");
        }
        let opaque = |name: &str| [Xattr { name: name.into(), value: b"y".to_vec() }];
        for (name, of_trusted, of_user) in [
            ("trusted.overlay.opaque", true, false),
            ("user.overlay.opaque", false, true),
            ("user.fuseoverlayfs.opaque", false, true),
        ] {
            let got = [Marks::Trusted, Marks::User]
                .map(|m| OverlayXattrState::of(&opaque(name), m).opaque);
            assert_eq!(got, [of_trusted, of_user], "{name}");
        }
    }

    #[test]
    fn attributes_of_files_are_kept_and_those_of_hosts_and_mounts_are_not() {
        const BOTH: [bool; 2] = [true; 2];
        const LOCAL: [bool; 2] = [false, true];
        const NONE: [bool; 2] = [false; 2];
        for (name, expected) in [
            ("user.key", BOTH),
            ("security.capability", BOTH),
            ("security.ima", BOTH),
            ("system.posix_acl_access", BOTH),
            ("system.posix_acl_default", BOTH),
            ("security.selinux", LOCAL),
            ("system.nfs4_acl", LOCAL),
            ("trusted.key", LOCAL),
            ("btrfs.compression", LOCAL),
            ("trusted.overlay.opaque", NONE),
            ("trusted.overlay.overlay.opaque", LOCAL),
            ("user.overlay.opaque", NONE),
            ("user.overlay.overlay.opaque", LOCAL),
            ("user.overlayfs", BOTH),
            ("user.fuseoverlayfs.opaque", LOCAL),
            ("user.fuseoverlay", BOTH),
        ] {
            let got = [Attributes::Portable, Attributes::Local]
                .map(|attributes| attributes.keep(name.as_bytes()));
            assert_eq!(got, expected, "{name}");
        }
    }
}
