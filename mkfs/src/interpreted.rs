//! Extended attributes whose values the kernel interprets: POSIX access lists and file capabilities.
//!
//! [`set`] is what setxattr(2) makes of a value on a filesystem that has both, as ext4 does: so it is what containerd has
//! when it applies a layer. [`stored`] says whether the kernel copes with a value that an image holds already. The rules
//! are those of `fs/posix_acl.c` (`posix_acl_from_xattr`, `set_posix_acl`, `posix_acl_valid`) and of
//! `security/commoncap.c` (`cap_convert_nscap`); the structures are in `include/uapi/linux/posix_acl_xattr.h` and
//! `capability.h`.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::format::FileType;

/// The access list of a file.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The access list that new files of a directory begin with.
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// Capabilities of a program.
pub const CAPABILITY: &[u8] = b"security.capability";

/// `struct posix_acl_xattr_header`: the version.
pub const ACL_HEADER: usize = 4;
/// `struct posix_acl_xattr_entry`: tag, permissions, id.
pub const ACL_ENTRY: usize = 8;
/// `POSIX_ACL_XATTR_VERSION`.
const ACL_VERSION: u32 = 2;

const ACL_USER_OBJ: u16 = 0x01;
/// Tag of the entry of a named user.
pub const ACL_USER: u16 = 0x02;
const ACL_GROUP_OBJ: u16 = 0x04;
/// Tag of the entry of a named group.
pub const ACL_GROUP: u16 = 0x08;
const ACL_MASK: u16 = 0x10;
const ACL_OTHER: u16 = 0x20;
/// Read, write and execute.
const ACL_PERMISSIONS: u16 = 7;
/// An id that is none.
const NO_ID: u32 = u32::MAX;

/// `XATTR_CAPS_SZ_2` and `VFS_CAP_REVISION_2`: bytes and first word of capabilities.
const CAPABILITY_2: (usize, u32) = (20, 0x0200_0000);
/// The same of revision 3, which ends with the id of the root user it is for.
pub const CAPABILITY_3: (usize, u32) = (24, 0x0300_0000);
/// `VFS_CAP_FLAGS_EFFECTIVE`, the only flag of that word.
const CAPABILITY_EFFECTIVE: u32 = 1;

/// Whether the kernel looks into the value of this attribute.
pub(crate) fn is_interpreted(name: &[u8]) -> bool {
    matches!(name, ACL_ACCESS | ACL_DEFAULT | CAPABILITY)
}

/// What becomes of a value that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    /// It is stored.
    Stored,
    /// Nothing is stored and nothing is wrong: the list has no entries.
    Nothing,
    /// ENOTSUP: the kernel does not know such values, or not on such files.
    Unsupported,
    /// EINVAL or EACCES, and why.
    Refused(&'static str),
}

/// What setxattr(2) makes of `value`. Of names that the kernel does not interpret every value is stored.
///
/// A capability without a byte is the exception: setxattr(2) stores it, and from then on the kernel neither runs the file
/// nor copies it up. It is refused.
pub(crate) fn set(name: &[u8], value: &[u8], file_type: FileType) -> Set {
    let judged = match name {
        ACL_ACCESS | ACL_DEFAULT => set_acl(name == ACL_DEFAULT, value, file_type),
        CAPABILITY => capability(value).map(|()| Set::Stored),
        _ => Ok(Set::Stored),
    };
    judged.unwrap_or_else(Set::Refused)
}

/// In the order of the kernel, which parses before it looks at the file, and looks at the file before it judges the list.
fn set_acl(is_default: bool, value: &[u8], file_type: FileType) -> Result<Set, &'static str> {
    let entries = match parse(value) {
        Ok(entries) => entries,
        Err(Unparsed::Version) => return Ok(Set::Unsupported),
        Err(Unparsed::Malformed(why)) => return Err(why),
    };
    if file_type == FileType::Symlink {
        return Ok(Set::Unsupported);
    }
    if entries.is_empty() {
        return Ok(Set::Nothing);
    }
    if is_default && file_type != FileType::Directory {
        return Err("a default ACL on something else than a directory");
    }
    judge(&entries)?;
    Ok(Set::Stored)
}

/// Why the kernel stumbles over `value` when an image holds it: it cannot be read, permissions cannot be checked, the file
/// cannot be run or copied up. `None` when nothing of that fails, as it was tried with EROFS below overlayfs on Linux 6.18:
/// access lists on symbolic links are never looked at, and a default list of an unknown version counts as none.
pub(crate) fn stored(name: &[u8], value: &[u8], file_type: FileType) -> Option<&'static str> {
    let is_acl = matches!(name, ACL_ACCESS | ACL_DEFAULT);
    if is_acl && file_type == FileType::Symlink {
        return None;
    }
    // setxattr(2) takes this for "none". What is stored is parsed, and has to have a header.
    if is_acl && value.is_empty() {
        return Some("an ACL without a byte");
    }
    match set(name, value, file_type) {
        Set::Unsupported if name == ACL_ACCESS => Some("an ACL of another version than 2"),
        Set::Refused(why) => Some(why),
        Set::Unsupported | Set::Stored | Set::Nothing => None,
    }
}

/// One entry of an access list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// Why a value is no access list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unparsed {
    Version,
    Malformed(&'static str),
}

/// The entries of a list, each of which means something (`posix_acl_from_xattr`).
fn parse(value: &[u8]) -> Result<Vec<Entry>, Unparsed> {
    let malformed = |why| Err(Unparsed::Malformed(why));
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let Some((version, entries)) = value.split_first_chunk::<ACL_HEADER>() else {
        return malformed("an ACL that ends in its header");
    };
    if u32::from_le_bytes(*version) != ACL_VERSION {
        return Err(Unparsed::Version);
    }
    let (entries, rest) = entries.as_chunks::<ACL_ENTRY>();
    if !rest.is_empty() {
        return malformed("an ACL that ends in an entry");
    }
    let mut out = Vec::with_capacity(entries.len());
    for &[t0, t1, p0, p1, i0, i1, i2, i3] in entries {
        let entry = Entry {
            tag: u16::from_le_bytes([t0, t1]),
            permissions: u16::from_le_bytes([p0, p1]),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        };
        match entry.tag {
            ACL_USER_OBJ | ACL_GROUP_OBJ | ACL_MASK | ACL_OTHER => {}
            ACL_USER | ACL_GROUP if entry.id != NO_ID => {}
            ACL_USER | ACL_GROUP => {
                return malformed("an ACL that names a user or group without an id");
            }
            _ => return malformed("an ACL with an unknown tag"),
        }
        out.push(entry);
    }
    Ok(out)
}

/// Which entries may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Owner,
    Users,
    Groups,
    Other,
    End,
}

/// Whether the entries are complete and in their order (`posix_acl_valid`).
fn judge(entries: &[Entry]) -> Result<(), &'static str> {
    let mut state = State::Owner;
    let mut needs_mask = false;
    for entry in entries {
        if entry.permissions & !ACL_PERMISSIONS != 0 {
            return Err("an ACL with undefined permissions");
        }
        state = match (entry.tag, state) {
            (ACL_USER_OBJ, State::Owner) => State::Users,
            (ACL_USER, State::Users) => {
                needs_mask = true;
                State::Users
            }
            (ACL_GROUP_OBJ, State::Users) => State::Groups,
            (ACL_GROUP, State::Groups) => {
                needs_mask = true;
                State::Groups
            }
            (ACL_MASK, State::Groups) => State::Other,
            (ACL_OTHER, State::Groups) if needs_mask => {
                return Err("an ACL that names users or groups and has no mask");
            }
            (ACL_OTHER, State::Groups | State::Other) => State::End,
            _ => return Err("an ACL whose entries are out of order"),
        };
    }
    if state == State::End { Ok(()) } else { Err("an ACL that lacks entries") }
}

/// Whether the value is one that can be set: revision 2 or 3, of the right length, for a user that can be.
fn capability(value: &[u8]) -> Result<(), &'static str> {
    let (Some(magic), Some(id)) = (value.first_chunk::<4>(), value.last_chunk::<4>()) else {
        return Err("a capability that ends in its first word");
    };
    let revision = u32::from_le_bytes(*magic) & !CAPABILITY_EFFECTIVE;
    match (value.len(), revision) {
        CAPABILITY_2 => Ok(()),
        CAPABILITY_3 if u32::from_le_bytes(*id) == NO_ID => Err("a capability for no user"),
        CAPABILITY_3 => Ok(()),
        _ => Err("a capability that is neither of revision 2 nor of revision 3"),
    }
}

/// An access list in the short text form of acl(5), with numbers for names. `None` for what is no list, or has no entries.
#[must_use]
pub fn acl_text(value: &[u8]) -> Option<String> {
    let entries = parse(value).ok().filter(|entries| !entries.is_empty())?;
    if entries.iter().any(|entry| entry.permissions & !ACL_PERMISSIONS != 0) {
        return None;
    }
    let text = |entry: &Entry| {
        let tag = match entry.tag {
            ACL_USER_OBJ | ACL_USER => "user",
            ACL_GROUP_OBJ | ACL_GROUP => "group",
            ACL_MASK => "mask",
            _ => "other",
        };
        let id = match entry.tag {
            ACL_USER | ACL_GROUP => entry.id.to_string(),
            _ => String::new(),
        };
        let bit = |bit, letter| if entry.permissions & bit != 0 { letter } else { '-' };
        format!("{tag}:{id}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'))
    };
    Some(entries.iter().map(text).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    const N: u32 = NO_ID;
    const OWNER: (u16, u16, u32) = (ACL_USER_OBJ, 6, N);
    const GROUP: (u16, u16, u32) = (ACL_GROUP_OBJ, 4, N);
    const MASK: (u16, u16, u32) = (ACL_MASK, 7, N);
    const OTHER: (u16, u16, u32) = (ACL_OTHER, 4, N);
    const USER: (u16, u16, u32) = (ACL_USER, 7, 5);

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = ACL_VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(permissions.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    /// As one letter: stored, nothing, unsupported, refused.
    fn letter(set: Set) -> char {
        match set {
            Set::Stored => 's',
            Set::Nothing => 'n',
            Set::Unsupported => 'u',
            Set::Refused(_) => 'r',
        }
    }

    #[test]
    fn access_lists_are_taken_as_ext4_takes_them() {
        let version_1 = [&1u32.to_le_bytes()[..], &acl(&[OWNER, GROUP, OTHER])[4..]].concat();
        // What ext4 of Linux 6.18 answers. Access list of a file, a symbolic link, a FIFO; default list of a directory, a file, a symbolic link.
        let table: [(&str, Vec<u8>, &str); 22] = [
            ("empty", vec![], "nunnnu"),
            ("one byte", b"j".to_vec(), "rrrrrr"),
            ("junk", b"junk".to_vec(), "uuuuuu"),
            ("only a header", acl(&[]), "nunnnu"),
            ("a header and junk", b"\x02\0\0\0junk".to_vec(), "rrrrrr"),
            ("version 1", version_1, "uuuuuu"),
            ("a byte too many", [acl(&[OWNER, GROUP, OTHER]), vec![0]].concat(), "rrrrrr"),
            ("minimal", acl(&[OWNER, GROUP, OTHER]), "sussru"),
            ("named user", acl(&[OWNER, USER, GROUP, MASK, OTHER]), "sussru"),
            ("named user twice", acl(&[OWNER, USER, USER, GROUP, MASK, OTHER]), "sussru"),
            ("a mask for nothing", acl(&[OWNER, GROUP, MASK, OTHER]), "sussru"),
            ("named group", acl(&[OWNER, GROUP, (ACL_GROUP, 1, 0), MASK, OTHER]), "sussru"),
            ("no mask", acl(&[OWNER, USER, GROUP, OTHER]), "rurrru"),
            ("no owner", acl(&[GROUP, OTHER]), "rurrru"),
            ("no others", acl(&[OWNER, GROUP]), "rurrru"),
            ("out of order", acl(&[GROUP, OWNER, OTHER]), "rurrru"),
            ("two owners", acl(&[OWNER, OWNER, GROUP, OTHER]), "rurrru"),
            ("behind the end", acl(&[OWNER, GROUP, OTHER, (ACL_GROUP, 7, 5)]), "rurrru"),
            ("permission 8", acl(&[(ACL_USER_OBJ, 14, N), GROUP, OTHER]), "rurrru"),
            ("unknown tag", acl(&[OWNER, GROUP, (64, 4, N), OTHER]), "rrrrrr"),
            ("tag 0", acl(&[(0, 6, N)]), "rrrrrr"),
            ("an id that is none", acl(&[OWNER, (ACL_USER, 7, N), GROUP, MASK, OTHER]), "rrrrrr"),
        ];
        for (what, value, expected) in table {
            let of = |name, file_type| letter(set(name, &value, file_type));
            let got: String = [
                of(ACL_ACCESS, FileType::Regular),
                of(ACL_ACCESS, FileType::Symlink),
                of(ACL_ACCESS, FileType::Fifo),
                of(ACL_DEFAULT, FileType::Directory),
                of(ACL_DEFAULT, FileType::Regular),
                of(ACL_DEFAULT, FileType::Symlink),
            ]
            .into_iter()
            .collect();
            assert_eq!(got, expected, "{what}");
            let valid = expected.starts_with('s');
            assert!(acl_text(&value).is_some() || !valid, "{what}");
        }
    }

    #[test]
    fn access_lists_in_an_image_are_judged_by_what_fails() {
        let version_1 = [&1u32.to_le_bytes()[..], &acl(&[OWNER, GROUP, OTHER])[4..]].concat();
        // Whether the kernel refuses an access list of a file, a default list of a directory, a default list of a file.
        for (what, value, expected) in [
            ("empty", vec![], [true, true, true]),
            ("one byte", b"j".to_vec(), [true, true, true]),
            ("junk", b"junk".to_vec(), [true, false, false]),
            ("version 1", version_1, [true, false, false]),
            ("only a header", acl(&[]), [false, false, false]),
            ("minimal", acl(&[OWNER, GROUP, OTHER]), [false, false, true]),
            ("named user", acl(&[OWNER, USER, GROUP, MASK, OTHER]), [false, false, true]),
            ("no mask", acl(&[OWNER, USER, GROUP, OTHER]), [true, true, true]),
            ("unknown tag", acl(&[OWNER, GROUP, (64, 4, N), OTHER]), [true, true, true]),
        ] {
            let of = |name, file_type| stored(name, &value, file_type).is_some();
            let got = [
                of(ACL_ACCESS, FileType::Regular),
                of(ACL_DEFAULT, FileType::Directory),
                of(ACL_DEFAULT, FileType::Regular),
            ];
            assert_eq!(got, expected, "{what}");
            for name in [ACL_ACCESS, ACL_DEFAULT] {
                assert!(!of(name, FileType::Symlink), "{what}");
            }
        }
    }

    #[test]
    fn capabilities_are_taken_as_the_kernel_takes_them() {
        let value = |magic: u32, len: usize, last: u32| {
            let mut out = magic.to_le_bytes().to_vec();
            out.resize(len.saturating_sub(4), 0x20);
            out.extend(last.to_le_bytes());
            out
        };
        for (value, taken) in [
            (value(0x0200_0001, 20, 0), true),
            (value(0x0200_0000, 20, N), true),
            (value(0x0300_0001, 24, 1000), true),
            (value(0x0300_0000, 24, 0), true),
            (value(0x0300_0001, 24, N), false),
            (value(0x0300_0001, 20, 0), false),
            (value(0x0200_0001, 24, 0), false),
            (value(0x0200_0002, 20, 0), false),
            (value(0x0100_0001, 12, 0), false),
            (value(0x0400_0001, 24, 0), false),
            (value(0x0200_0001, 20, 0)[..19].to_vec(), false),
            (b"junk".to_vec(), false),
            (b"\0\0\0".to_vec(), false),
            (vec![], false),
        ] {
            for file_type in [FileType::Regular, FileType::Directory, FileType::Symlink] {
                let got = set(CAPABILITY, &value, file_type) == Set::Stored;
                assert_eq!(got, taken, "{}", value.escape_ascii());
                assert_eq!(stored(CAPABILITY, &value, file_type).is_none(), taken);
            }
        }
        assert_eq!(set(b"security.other", b"junk", FileType::Regular), Set::Stored);
    }

    #[test]
    fn access_lists_have_a_text() {
        let list = acl(&[OWNER, USER, (ACL_USER, 0, 7), GROUP, MASK, (ACL_OTHER, 1, N)]);
        let expected = "user::rw-,user:5:rwx,user:7:---,group::r--,mask::rwx,other::--x";
        assert_eq!(acl_text(&list).unwrap(), expected);
    }
}
