//! Writable layers of real overlayfs mounts, written as layers and applied again: the stack of images shows what the
//! container saw.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

#[path = "compare/container.rs"]
mod container;
#[path = "compare/random.rs"]
mod random;
#[path = "compare/work.rs"]
mod work;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use erolith_differ::Compression;
use erolith_differ::compare::{Compare, Format};
use erolith_mkfs::build::Options;
use erolith_mkfs::overlay::{Layer, Stack};
use erolith_tests::listing::{Blind, Listing};
use erolith_tests::mount::{self, Mounted};
use erolith_tests::{build, need};
use rustix::fs::{XattrFlags, setxattr};
use tempfile::TempDir;

use container::{Container, Kind};
use work::{prepare, prepare_references, set, work, work_by_reference, write};

const TAR: Format = Format::Tar(Compression::None);

#[test]
fn the_layers_show_what_the_container_saw() {
    need!(mount::available());
    for kind in Kind::ALL {
        let mut container = Container::new(kind);
        prepare(&container);
        prepare_references(&container);
        let root = need!(container.start());
        work(&root);
        if kind.by_reference {
            work_by_reference(&root);
        }
        let seen = container.judge("work");
        assert!(!seen.nodes.contains_key(b"gone".as_slice()));
        for format in Format::ALL {
            assert_eq!(container.layer(format), container.layer(format), "not reproducible");
        }
        let (compared, archive) = container.layer(TAR);
        let names = names(&archive);
        assert_eq!(names.len() as u64, compared.entries);
        for name in [".wh.gone", "etc/.wh.passwd", "replaced/.wh..wh..opq", "emptied/.wh.a"] {
            assert!(names.iter().any(|n| n == name), "{kind:?}: {name} is missing: {names:?}");
        }
        let opaque = names.iter().position(|n| n == "replaced/.wh..wh..opq").unwrap();
        assert_eq!(names[opaque - 1], "replaced/", "first in its directory");
        // Copied up on the way, or not even that.
        assert!(!names.iter().any(|n| n == "etc/base"), "{names:?}");
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
    let mut container = Container::new(Kind::ALL[0]);
    let root = need!(container.start());
    std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    write(&root.join("file"), b"");
    assert_eq!(names(&container.layer(TAR).1), ["file"]);
}

/// A container that is root in its own mount may leave marks of overlayfs in what it writes.
#[test]
fn marks_that_a_container_made_itself_say_nothing() {
    need!(mount::available());
    let mut container = Container::new(Kind::ALL[0]);
    for (dir, file) in [("a", "a/file"), ("b", "b/file")] {
        fs::create_dir(container.path("lower").join(dir)).unwrap();
        write(&container.path("lower").join(file), b"lower");
    }
    let root = need!(container.start());
    // Those of user.* are attributes like others in this mount; those of trusted.* are escaped by the kernel.
    set(&root.join("a"), "user.overlay.opaque", b"y");
    let escaped = setxattr(root.join("b"), "trusted.overlay.opaque", b"y", XattrFlags::empty());
    let (seen, shown) = (container.seen(), container.shown(TAR, &container.layer(TAR).1));
    for file in [b"a/file".as_slice(), b"b/file"] {
        assert!(seen.nodes.contains_key(file) && shown.nodes.contains_key(file), "{escaped:?}");
    }
    for (path, node) in &shown.nodes {
        assert_eq!(node.xattrs.len(), 0, "{}", path.escape_ascii());
    }
}

/// What was opened for writing and not written to is as it was; so is a directory whose changes were undone.
#[test]
fn copies_without_a_change_are_no_changes() {
    need!(mount::available());
    for kind in Kind::ALL {
        let mut container = Container::new(kind);
        prepare(&container);
        let root = need!(container.start());
        let open = |file: &str| drop(File::options().write(true).open(root.join(file)).unwrap());
        open("etc/hosts");
        open("emptied/a");
        let (compared, archive) = container.layer(TAR);
        assert_eq!((compared.entries, names(&archive)), (0, vec![]), "{kind:?}");
        open("kept/big");
        // One of two names is a file of its own now, unless the overlay remembers what they were.
        let parted: &[&str] = if kind.by_reference { &[] } else { &["kept/", "kept/big"] };
        assert_eq!(names(&container.layer(TAR).1), parted, "{kind:?}");
        fs::set_permissions(root.join("emptied/a"), fs::Permissions::from_mode(0o600)).unwrap();
        let expected = [&["emptied/", "emptied/a"], parted].concat();
        assert_eq!(names(&container.layer(TAR).1), expected, "{kind:?}");
        container.judge("one change");
    }
}

/// A link to a file of a lower layer needs that file in its own.
#[test]
fn a_new_link_brings_what_it_leads_to() {
    need!(mount::available());
    let mut container = Container::new(Kind::ALL[0]);
    prepare(&container);
    let root = need!(container.start());
    fs::hard_link(root.join("etc/hosts"), root.join("etc/new")).unwrap();
    let names = names(&container.layer(TAR).1);
    assert_eq!(names, ["etc/", "etc/hosts", "etc/new"]);
    let seen = container.judge("a link");
    assert_eq!(seen.nodes[b"etc/new".as_slice()].leader, b"etc/hosts");
}

#[test]
fn random_changes_are_shown_by_every_layer() {
    need!(mount::available());
    for kind in Kind::ALL {
        for seed in 0..random::ROUNDS {
            let mut container = Container::new(kind);
            let mut random = random::Random::new(seed);
            random.change(&container.path("base"));
            random.change(&container.path("lower"));
            let root = need!(container.start());
            random.change(&root);
            container.judge(&format!("seed {seed}"));
        }
    }
}

/// Somebody writes while a layer is made. Files change under it in every way; what it holds of one is of a single moment,
/// or there is no layer.
#[test]
fn what_is_written_meanwhile_is_never_torn() {
    need!(mount::available());
    let mut container = Container::new(Kind::ALL[0]);
    for (name, letter) in FILES.into_iter().zip(b'a'..) {
        write(&container.path("lower").join(name), &vec![letter; SIZE]);
    }
    let root = need!(container.start());
    let is_over = AtomicBool::new(false);
    let mut layers = 0;
    std::thread::scope(|scope| {
        for name in FILES {
            let (path, is_over) = (root.join(name), &is_over);
            scope.spawn(move || busy(&path, is_over));
        }
        let _ends = Ends(&is_over);
        for _ in 0..300 {
            let Ok((_, archive)) = container.try_layer(TAR) else { continue };
            layers += 1;
            let mut archive = tar::Archive::new(archive.as_slice());
            for entry in archive.entries().unwrap() {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                assert!(is_of_a_moment(&path, &content), "{path} is torn");
            }
        }
    });
    assert!(layers > 0, "it was never quiet enough for a layer");
}

/// Was a file that [`busy`] writes ever like that? New content comes in from the front.
fn is_of_a_moment(path: &str, content: &[u8]) -> bool {
    let runs: Vec<_> = content.chunk_by(|one, next| one == next).map(|run| run[0]).collect();
    match (path, runs.as_slice()) {
        ("replaced.new", runs) => runs.len() <= 1,
        (_, [_]) => content.len() == SIZE,
        ("rewritten", [new, old]) => *new == old + 1 || (*new, *old) == (b'a', b'z'),
        _ => false,
    }
}

const FILES: [&str; 2] = ["rewritten", "replaced"];
const SIZE: usize = 300_000;

/// Ends the writers, whatever happens.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes a file all over again and again, in place or under another name that becomes its own, and rests a little.
fn busy(path: &Path, is_over: &AtomicBool) {
    let is_replaced = path.ends_with("replaced");
    for letter in (b'a'..=b'z').cycle() {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let to = if is_replaced { path.with_extension("new") } else { path.to_owned() };
        let file = File::options().write(true).create(true).truncate(false).open(&to).unwrap();
        for piece in 0..SIZE / 1000 {
            file.write_all_at(&[letter; 1000], piece as u64 * 1000).unwrap();
        }
        if is_replaced {
            fs::rename(&to, path).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(u64::from(letter % 4) * 5));
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
    let how = Compare::new(Format::Tar(Compression::Zstd));
    let upper = Stack::default().with_upper(Layer::dir(File::open(&root).unwrap().into()));
    let mut bytes = Vec::new();
    how.write(&Stack::default(), &upper, &mut bytes).unwrap();
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
