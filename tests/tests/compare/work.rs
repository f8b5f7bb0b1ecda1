//! What containers change, as a differ is asked about it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

use super::container::Container;

pub fn write(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

pub fn set(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// An access list with an entry for a user, as the kernel keeps it (`struct posix_acl_xattr_entry`).
fn acl() -> Vec<u8> {
    let mut acl = 2u32.to_le_bytes().to_vec();
    let entries = [
        (1u16, 6u16, u32::MAX),
        (2, 6, 1000),
        (4, 4, u32::MAX),
        (16, 6, u32::MAX),
        (32, 4, u32::MAX),
    ];
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// `cap_net_raw+ep` (`struct vfs_cap_data`, revision 2).
fn capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 13, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}

/// What is there before.
pub fn prepare(container: &Container) {
    let at = |name: &str| container.path("lower").join(name);
    fs::create_dir(container.path("base").join("etc")).unwrap();
    write(&container.path("base").join("etc/base"), b"base");
    write(&container.path("base").join("etc/hosts"), b"hidden");
    for dir in ["etc", "gone", "gone/deep", "replaced", "emptied", "moved", "kept"] {
        fs::create_dir(at(dir)).unwrap();
    }
    for file in
        ["etc/hosts", "etc/passwd", "gone/deep/file", "replaced/old", "emptied/a", "emptied/b"]
    {
        write(&at(file), file.as_bytes());
    }
    write(&at("kept/big"), &b"lower".repeat(50_000));
    fs::hard_link(at("kept/big"), at("kept/link")).unwrap();
    write(&at("file-becomes-dir"), b"");
    symlink("/etc/hosts", at("link")).unwrap();
}

/// What containers do.
pub fn work(root: &Path) {
    let at = |name: &str| root.join(name);
    // Whiteouts: a file, a tree, everything of a directory.
    fs::remove_file(at("etc/passwd")).unwrap();
    fs::remove_dir_all(at("gone")).unwrap();
    for name in ["emptied/a", "emptied/b"] {
        fs::remove_file(at(name)).unwrap();
    }
    // Opaque: what replaces a directory hides what was in it.
    fs::remove_dir_all(at("replaced")).unwrap();
    fs::create_dir(at("replaced")).unwrap();
    write(&at("replaced/new"), b"new");
    fs::remove_file(at("file-becomes-dir")).unwrap();
    fs::create_dir(at("file-becomes-dir")).unwrap();
    fs::remove_file(at("link")).unwrap();
    write(&at("link"), b"no longer one");
    // Copied up: content, permissions, one of two names.
    File::options().append(true).open(at("etc/hosts")).unwrap().write_all(b"more").unwrap();
    fs::set_permissions(at("kept"), fs::Permissions::from_mode(0o2750)).unwrap();
    File::options().write(true).open(at("kept/big")).unwrap().write_at(b"UPPER", 70_000).unwrap();
    // New: links, devices, holes, names that need a pax record.
    write(&at("one"), b"three names");
    fs::hard_link(at("one"), at("two")).unwrap();
    fs::hard_link(at("one"), at("kept/three")).unwrap();
    let dev = |name: &str, kind, major, minor| {
        let dev = rustix::fs::makedev(major, minor);
        mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), dev).unwrap();
    };
    dev("null", FileType::CharacterDevice, 1, 3);
    dev("disk", FileType::BlockDevice, 259, 1_000_000);
    dev("fifo", FileType::Fifo, 0, 0);
    let sparse = File::create(at("sparse")).unwrap();
    sparse.write_at(b"x", 3 << 20).unwrap();
    sparse.set_len(5 << 20).unwrap();
    let long = "n".repeat(255);
    fs::create_dir(at(&long)).unwrap();
    write(&at(&format!("{long}/{long}")), b"deep");
    write(&at("\u{e4}\n=name"), b"odd");
    symlink("t".repeat(300), at("long-link")).unwrap();
    attributes(root);
}

fn attributes(root: &Path) {
    let at = |name: &str| root.join(name);
    write(&at("attributes"), b"");
    rustix::fs::chown(
        at("attributes"),
        Some(rustix::fs::Uid::from_raw(3_000_000_000)),
        Some(rustix::fs::Gid::from_raw(77)),
    )
    .unwrap();
    fs::set_permissions(at("attributes"), fs::Permissions::from_mode(0o4755)).unwrap();
    for (name, value) in [
        ("user.key", b"a\0b\n=".as_slice()),
        ("user.empty", b""),
        ("user.a=b", b"equals"),
        ("security.capability", &capability()),
        ("system.posix_acl_access", &acl()),
    ] {
        set(&at("attributes"), name, value);
    }
    fs::create_dir(at("defaults")).unwrap();
    set(&at("defaults"), "system.posix_acl_default", &acl());
}

/// What only an overlayfs does that refers to its lower layers instead of copying them.
pub fn work_by_reference(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::rename(at("moved"), at("replaced/moved")).unwrap();
    write(&at("replaced/moved/new"), b"in a directory that was moved");
    fs::remove_file(at("replaced/moved/gone")).unwrap();
    fs::rename(at("replaced/moved/sub"), at("sub")).unwrap();
    fs::create_dir(at("moved")).unwrap();
    write(&at("moved/other"), b"in the place of one that was moved");
    fs::set_permissions(at("meta"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::rename(at("meta"), at("etc/meta")).unwrap();
    // One of two names: the other one shows it too.
    File::options().append(true).open(at("linked/a")).unwrap().write_all(b" and more").unwrap();
}

/// What [`work_by_reference`] starts with.
pub fn prepare_references(container: &Container) {
    let at = |name: &str| container.path("lower").join(name);
    for dir in ["moved/sub", "linked", "elsewhere"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for file in ["moved/kept", "moved/gone", "moved/sub/file", "linked/a"] {
        write(&at(file), file.as_bytes());
    }
    write(&at("meta"), &b"only its permissions change".repeat(10_000));
    fs::hard_link(at("linked/a"), at("elsewhere/b")).unwrap();
}
