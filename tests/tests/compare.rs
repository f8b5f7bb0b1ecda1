//! Writable layers of real overlayfs mounts, written as layers and applied again: the stack of images shows what the
//! container saw.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use erolith_differ::Compression;
use erolith_differ::compare::{Compare, Compared, Kind, Marks};
use erolith_mkfs::build::Options;
use erolith_mkfs::io::Stream;
use erolith_tests::listing::{Blind, Listing};
use erolith_tests::mount::{self, Mounted};
use erolith_tests::{build, need};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use tempfile::TempDir;

/// A container: a lower directory, an upper one, and what an overlayfs shows of both.
struct Container {
    dir: TempDir,
    marks: Marks,
    mount: Option<OwnedFd>,
}

impl Container {
    /// On disk, where an overlayfs may have its upper.
    fn new(marks: Marks) -> Self {
        let dir = TempDir::with_prefix_in("erolith-compare-", "/var/tmp").unwrap();
        for name in ["lower", "upper", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, marks, mount: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn lower(&self, name: &str) -> PathBuf {
        self.path("lower").join(name)
    }

    /// The running container: changes go to the upper.
    fn start(&mut self) -> Result<PathBuf, String> {
        let fail = |e: rustix::io::Errno| format!("an overlayfs on disk: {e}");
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail)?;
        for (key, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
            fsconfig_set_string(&fs, key, self.path(name)).map_err(fail)?;
        }
        match self.marks {
            Marks::User => fsconfig_set_flag(&fs, "userxattr").map_err(fail)?,
            Marks::Trusted => {
                for (key, value) in [("redirect_dir", "nofollow"), ("metacopy", "off")] {
                    fsconfig_set_string(&fs, key, value).map_err(fail)?;
                }
            }
        }
        fsconfig_create(&fs).map_err(fail)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        let fd = fsmount(fs.as_fd(), flags, MountAttrFlags::empty()).map_err(fail)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()));
        self.mount = Some(fd);
        Ok(path)
    }

    fn compare(&self) -> (Compared, Vec<u8>) {
        let how = Compare { marks: self.marks, ..Compare::new(Kind::Upper, Compression::None) };
        let upper = File::open(self.path("upper")).unwrap();
        let mut archive = Vec::new();
        (how.write(upper.as_fd(), &mut archive).unwrap(), archive)
    }

    /// What the container sees, and what a stack of images shows of its lower and of the layer that was written.
    fn both(&self) -> (Listing, Listing) {
        let root = format!("/proc/self/fd/{}/.", self.mount.as_ref().unwrap().as_raw_fd());
        let seen = Listing::from_dir(Path::new(&root)).unwrap();
        let (lower, layer) = (self.path("lower.erofs"), self.path("layer.erofs"));
        let mut options = Options::default();
        options.layer.xattrs.keep_trusted = true;
        build::from_dir(&self.path("lower"), &lower, &options).unwrap();
        let (_, archive) = self.compare();
        build::from_tar(Stream(archive.as_slice()), &layer, &Options::default()).unwrap();
        let layers = [lower, layer].map(|image| Mounted::erofs(&image, &[]).unwrap());
        let stack = Mounted::overlay(&layers).unwrap();
        (seen, Listing::from_dir(&stack.path()).unwrap())
    }

    /// Sees to it that both are the same, but for what an overlayfs answers of its own accord.
    fn judge(&self, context: &str) -> Listing {
        let (seen, shown) = self.both();
        let blind = [Blind::Root, Blind::DirLinks, Blind::Links];
        let [seen, shown] = [seen, shown].map(|listing| listing.blind(&blind));
        seen.assert_eq(&shown, ("container", "layers"), context);
        seen
    }
}

fn write(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

fn set(path: &Path, name: &str, value: &[u8]) {
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

fn lower(container: &Container) {
    let at = |name: &str| container.lower(name);
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
fn work(root: &Path) {
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

#[test]
fn the_layers_show_what_the_container_saw() {
    need!(mount::available());
    for marks in [Marks::Trusted, Marks::User] {
        let mut container = Container::new(marks);
        lower(&container);
        let root = need!(container.start());
        work(&root);
        let seen = container.judge(&format!("{marks:?}"));
        assert!(!seen.nodes.contains_key(b"gone".as_slice()));
        let (compared, archive) = container.compare();
        let again = container.compare();
        assert_eq!((&compared, &archive), (&again.0, &again.1), "{marks:?}: not reproducible");
        let names = names(&archive);
        assert_eq!(names.len() as u64, compared.entries);
        for name in [".wh.gone", "etc/.wh.passwd", "replaced/.wh..wh..opq", "emptied/.wh.a"] {
            assert!(names.iter().any(|n| n == name), "{marks:?}: {name} is missing: {names:?}");
        }
        let opaque = names.iter().position(|n| n == "replaced/.wh..wh..opq").unwrap();
        assert_eq!(names[opaque - 1], "replaced/", "first in its directory");
    }
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap();
    entries.map(|e| String::from_utf8_lossy(&e.unwrap().path_bytes()).into_owned()).collect()
}

#[test]
fn a_socket_is_left_out_and_nothing_else() {
    need!(mount::available());
    let mut container = Container::new(Marks::Trusted);
    let root = need!(container.start());
    std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    write(&root.join("file"), b"");
    assert_eq!(names(&container.compare().1), ["file"]);
}

/// A container that is root in its own mount may leave marks of overlayfs in what it writes.
#[test]
fn marks_that_a_container_made_itself_say_nothing() {
    need!(mount::available());
    let mut container = Container::new(Marks::Trusted);
    for (dir, file) in [("a", "a/file"), ("b", "b/file")] {
        fs::create_dir(container.lower(dir)).unwrap();
        write(&container.lower(file), b"lower");
    }
    let root = need!(container.start());
    // Those of user.* are attributes like others in this mount; those of trusted.* are escaped by the kernel.
    set(&root.join("a"), "user.overlay.opaque", b"y");
    let escaped = setxattr(root.join("b"), "trusted.overlay.opaque", b"y", XattrFlags::empty());
    let (seen, shown) = container.both();
    for file in [b"a/file".as_slice(), b"b/file"] {
        assert!(seen.nodes.contains_key(file) && shown.nodes.contains_key(file), "{escaped:?}");
    }
    for (path, node) in &shown.nodes {
        assert_eq!(node.xattrs.len(), 0, "{}", path.escape_ascii());
    }
}

#[test]
fn a_directory_that_was_renamed_by_reference_is_refused() {
    let dir = TempDir::with_prefix_in("erolith-compare-", "/var/tmp").unwrap();
    for (name, attribute) in
        [("moved", "trusted.overlay.redirect"), ("meta", "trusted.overlay.metacopy")]
    {
        write(&dir.path().join(name), b"");
        let set = setxattr(dir.path().join(name), attribute, b"/x", XattrFlags::empty());
        need!(set.map_err(|e| format!("trusted.* attributes: {e}")));
        let upper = File::open(dir.path()).unwrap();
        let how = Compare::new(Kind::Upper, Compression::None);
        let error = how.write(upper.as_fd(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.code(), "tar-no-form", "{error}");
        assert!(error.to_string().contains(attribute), "{error}");
        fs::remove_file(dir.path().join(name)).unwrap();
    }
}

/// A base layer has no marks, and its image alone shows what the directory holds.
#[test]
fn a_base_layer_is_what_the_directory_holds() {
    need!(mount::available());
    let dir = TempDir::with_prefix_in("erolith-compare-", "/var/tmp").unwrap();
    let root = dir.path().join("fs");
    fs::create_dir(&root).unwrap();
    for name in ["etc", "kept", "gone", "replaced", "emptied"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    for name in [
        "etc/passwd",
        "etc/hosts",
        "kept/big",
        "link",
        "file-becomes-dir",
        "emptied/a",
        "emptied/b",
    ] {
        write(&root.join(name), &b"base".repeat(20_000));
    }
    work(&root);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).unwrap();
    let how = Compare::new(Kind::Base, Compression::Zstd);
    let mut blob = tempfile::tempfile().unwrap();
    how.write(File::open(&root).unwrap().as_fd(), &mut blob).unwrap();
    let mut bytes = Vec::new();
    blob.seek(SeekFrom::Start(0)).unwrap();
    blob.read_to_end(&mut bytes).unwrap();
    let request = erolith_differ::decode::Request::default();
    let stream =
        erolith_differ::decode::LayerStream::open(std::io::Cursor::new(bytes), request).unwrap();
    let image = dir.path().join("image");
    let mut options = Options::default();
    options.layer.base = true;
    build::from_tar(stream, &image, &options).unwrap();
    let mounted = Mounted::erofs(&image, &[]).unwrap();
    let blind = [Blind::DirLinks, Blind::RootMtime];
    let seen = Listing::from_dir(&root).unwrap().blind(&blind);
    let shown = Listing::from_dir(&mounted.path()).unwrap().blind(&blind);
    seen.assert_eq(&shown, ("directory", "image"), "base");
}
