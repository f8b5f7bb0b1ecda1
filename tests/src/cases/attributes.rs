//! A: extended attributes.

use super::Case;
use crate::listing::make::{char, dir, fifo, file, symlink};
use crate::tarball::{Header, Tarball, record};

/// `cap_net_raw=ep`, revision 2, whose bytes include a newline: 20 bytes.
pub(crate) const CAPABILITY_V2: [u8; 20] =
    [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Revision 3, for the root of a user namespace: 24 bytes, the last four its id.
pub(crate) const CAPABILITY_V3: [u8; 24] =
    [1, 0, 0, 3, 0, 0x20, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa0, 0x86, 0x01, 0];

/// An ACL of a file with mode 0644 and a named user, in the form that the kernel stores: version 2, then tag, permissions
/// and id of each entry.
///
/// A minimal one says no more than the mode, and a file system may answer without it.
pub(crate) fn acl(named_user: u32) -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, NO_ID), (2, 4, named_user), (4, 4, NO_ID), (0x10, 4, NO_ID), (0x20, 4, NO_ID)];
    list(&entries)
}

/// A file with these attributes.
fn with(attributes: &[(&str, &[u8])]) -> Vec<u8> {
    let payload: Vec<u8> = attributes
        .iter()
        .flat_map(|(name, value)| record(format!("SCHILY.xattr.{name}"), value))
        .collect();
    Tarball::new().pax_raw(payload).file("f", b"data").end()
}

fn f() -> crate::listing::make::Item {
    file("f", b"data")
}

pub(super) fn cases() -> Vec<Case> {
    let mut out = security();
    out.extend(namespaces());
    out.extend(overlay());
    out.extend(values());
    out.extend(access_lists());
    out.extend(capabilities());
    out
}

fn security() -> Vec<Case> {
    let label: &[u8] = b"system_u:object_r:bin_t:s0";
    let label_nul: &[u8] = b"system_u:object_r:bin_t:s0\0";
    let keep = |id, variant, name: &str, value: &[u8]| {
        Case::tree(id, variant, with(&[(name, value)]), [f().xattr(name, value)])
    };
    let acls = [("system.posix_acl_access", acl(1000)), ("system.posix_acl_default", acl(2000))];
    let on_dir = acls
        .iter()
        .flat_map(|(name, value)| record(format!("SCHILY.xattr.{name}"), value))
        .collect::<Vec<_>>();
    vec![
        keep("A01", "capabilities, revision 2", "security.capability", &CAPABILITY_V2),
        keep("A01", "capabilities, revision 3", "security.capability", &CAPABILITY_V3),
        keep("A02", "SELinux label", "security.selinux", label),
        keep("A02", "SELinux label with NUL", "security.selinux", label_nul),
        keep("A06", "access ACL", "system.posix_acl_access", &acl(1000)),
        Case::tree(
            "A06",
            "access and default ACL of a directory",
            Tarball::new().pax_raw(on_dir).header(&Header::new(b'5', "d").mode(0o644)).end(),
            [acls.iter().fold(dir("d").mode(0o644), |item, (name, value)| item.xattr(name, value))],
        ),
        keep("A11", "IMA signature", "security.ima", b"\x03\x02\x04\x01\x02\x03\x04\x00"),
        keep("A11", "EVM", "security.evm", b"\x02signature"),
    ]
}

fn namespaces() -> Vec<Case> {
    let user = |tar: Tarball| tar.pax(&[("SCHILY.xattr.user.k", "v")]);
    let tar = user(Tarball::new()).symlink("l", "f");
    let tar = user(tar).header(&Header::new(b'3', "c").device(1, 3));
    let tar = user(tar).header(&Header::new(b'6', "p"));
    let tar = user(tar).dir("d");
    let refused =
        |variant, name: &str| Case::refused("A08", variant, with(&[(name, b"v")]), "bad-xattr");
    let dropped = |variant, name: &str| Case::tree("A08", variant, with(&[(name, b"v")]), [f()]);
    vec![
        Case::tree(
            "A03",
            "user attributes where the kernel takes none",
            tar.end(),
            [symlink("l", "f"), char("c", 1, 3), fifo("p"), dir("d").xattr("user.k", b"v")],
        ),
        Case::tree("A04", "trusted", with(&[("trusted.k", b"v")]), [f()]),
        dropped("no namespace", "name"),
        dropped("unknown namespace", "com.apple.quarantine"),
        dropped("of btrfs", "btrfs.compression"),
        dropped("of Lustre", "lustre.lov"),
        dropped("system attribute that is no ACL", "system.nfs4_acl"),
        dropped("system attribute that is nearly an ACL", "system.posix_acl_accessory"),
        refused("nothing behind user", "user."),
        refused("nothing behind security", "security."),
    ]
}

fn overlay() -> Vec<Case> {
    let one = |variant, name: &str, value: &[u8], escaped: &str| {
        Case::tree("A05", variant, with(&[(name, value)]), [f().xattr(escaped, value)])
    };
    vec![
        one(
            "redirect into another layer",
            "trusted.overlay.redirect",
            b"/secret",
            "trusted.overlay.overlay.redirect",
        ),
        one("opaque", "trusted.overlay.opaque", b"y", "trusted.overlay.overlay.opaque"),
        one("for user namespaces", "user.overlay.opaque", b"y", "user.overlay.overlay.opaque"),
        one(
            "escaped once already",
            "trusted.overlay.overlay.opaque",
            b"y",
            "trusted.overlay.overlay.overlay.opaque",
        ),
    ]
}

/// An ACL of these entries: tag, permissions, id.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&permissions.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

fn access_lists() -> Vec<Case> {
    const NO_ID: u32 = u32::MAX;
    let (owner, user, group) = ((1, 6, NO_ID), (2, 7, 5), (4, 4, NO_ID));
    let (mask, other) = ((0x10, 7, NO_ID), (0x20, 4, NO_ID));
    let access = "system.posix_acl_access";
    let none = |variant, value: &[u8]| {
        Case::tree(
            "A12",
            variant,
            with(&[(access, value), ("user.k", b"v")]),
            [f().xattr("user.k", b"v")],
        )
    };
    let refused = |variant, name: &str, value: &[u8]| {
        Case::refused("A12", variant, with(&[(name, value)]), "bad-xattr")
    };
    let on = |tar: Tarball, name: &str, value: &[u8]| {
        tar.pax_raw(record(format!("SCHILY.xattr.{name}"), value))
    };
    let version_1 = [&[1, 0, 0, 0], &list(&[owner, group, other])[4..]].concat();
    let good = list(&[owner, user, group, mask, other]);
    let default = "system.posix_acl_default";
    vec![
        none("no bytes: there is none", b""),
        none("no entries: there is none", &list(&[])),
        none("junk is dropped", b"junk"),
        none("version 1 is dropped", &version_1),
        Case::tree(
            "A12",
            "on a symbolic link it is dropped",
            on(Tarball::new(), access, &good).symlink("l", "f").end(),
            [symlink("l", "f")],
        ),
        Case::tree(
            "A12",
            "on a FIFO it is kept",
            on(Tarball::new(), access, &good).header(&Header::new(b'6', "p").mode(0o674)).end(),
            [fifo("p").mode(0o674).xattr(access, &good)],
        ),
        refused("one byte", access, b"j"),
        refused("a header and junk", access, b"\x02\0\0\0junk"),
        refused("no mask", access, &list(&[owner, user, group, other])),
        refused("no others", access, &list(&[owner, group])),
        refused("out of order", access, &list(&[group, owner, other])),
        refused("undefined permissions", access, &list(&[(1, 14, NO_ID), group, other])),
        refused("an unknown tag", access, &list(&[owner, group, (0x40, 4, NO_ID), other])),
        refused(
            "a user that cannot be",
            access,
            &list(&[owner, (2, 7, NO_ID), group, mask, other]),
        ),
        refused("a default list of a file", default, &good),
        Case::refused(
            "A12",
            "a default list without a mask",
            on(Tarball::new(), default, &list(&[owner, user, group, other])).dir("d").end(),
            "bad-xattr",
        ),
    ]
}

fn capabilities() -> Vec<Case> {
    let refused = |variant, value: &[u8]| {
        Case::refused("A13", variant, with(&[("security.capability", value)]), "bad-xattr")
    };
    let changed = |at: usize, byte: u8| {
        let mut value = CAPABILITY_V2;
        if let Some(to) = value.get_mut(at) {
            *to = byte;
        }
        value
    };
    let mut no_user = CAPABILITY_V3.to_vec();
    no_user.truncate(20);
    no_user.extend([0xff; 4]);
    vec![
        refused("without a byte", b""),
        refused("junk", b"junk"),
        refused("cut off", CAPABILITY_V2.split_last().map_or(&[], |(_, rest)| rest)),
        refused("revision 1", &changed(3, 1)),
        refused("revision 3 without its user", &changed(3, 3)),
        refused("an unknown flag", &changed(0, 2)),
        refused("for a user that cannot be", &no_user),
    ]
}

fn values() -> Vec<Case> {
    let longest = format!("user.{}", "n".repeat(250));
    let too_long = format!("user.{}", "n".repeat(251));
    let full = vec![b'v'; 65_535];
    let over = vec![b'v'; 65_536];
    let many: Vec<(String, Vec<u8>)> =
        (0..4).map(|i| (format!("user.k{i}"), vec![b'v'; 65_535])).collect();
    let many: Vec<(&str, &[u8])> =
        many.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    vec![
        Case::tree("A07", "empty value", with(&[("user.k", b"")]), [f().xattr("user.k", b"")]),
        Case::tree(
            "A08",
            "a name of 255 bytes",
            with(&[(&longest, b"v")]),
            [f().xattr(&longest, b"v")],
        ),
        Case::refused("A08", "a name of 256 bytes", with(&[(&too_long, b"v")]), "tar-bad-xattr"),
        Case::tree(
            "A08",
            "a value of 65535 bytes",
            with(&[("user.k", &full)]),
            [f().xattr("user.k", &full)],
        ),
        Case::refused("A08", "a value of 65536 bytes", with(&[("user.k", &over)]), "tar-bad-xattr"),
        Case::refused("A08", "no name", with(&[("", b"v")]), "tar-bad-xattr"),
        Case::refused("A08", "a name with NUL", with(&[("user.a\0b", b"v")]), "tar-nul-byte"),
        Case::refused("A08", "more than an inode can hold", with(&many), "bad-xattr"),
        Case::tree(
            "A09",
            "one name twice",
            with(&[("user.k", b"1"), ("user.k", b"2")]),
            [f().xattr("user.k", b"2")],
        ),
    ]
}
