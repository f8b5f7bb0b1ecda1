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
use erolith_differ::compare::{Compare, LayerFormat};
use erolith_mkfs::build::Options;
use erolith_overlay::{OverlayLayer, Stack};
use erolith_tests::listing::{Blind, Listing};
use erolith_tests::mount::{self, Mounted};
use erolith_tests::{build, need};
use rustix::fs::{XattrFlags, setxattr};
use tempfile::TempDir;

use container::{Container, Kind};
use work::{prepare, prepare_references, set, work, work_by_reference, write};

const TAR: LayerFormat = LayerFormat::Tar(Compression::None);

#[test]
fn the_layers_show_what_the_container_saw() {
    need!(mount::available());
    for kind in Kind::ALL {
        let mut container = Container::new(kind);
        prepare(&container);
        prepare_references(&container);
        let root = need!(container.start());
        work(&root);
        if kind.by_reference && kind.index {
            work_by_reference(&root);
        }
        let seen = container.judge("work");
        assert!(!seen.nodes.contains_key(b"gone".as_slice()));
        for format in LayerFormat::ALL {
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
        let parted: &[&str] = if kind.index { &[] } else { &["kept/", "kept/big"] };
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

/// What a container does, in a shell that begins in its root.
fn run(root: &Path, script: &str) {
    let mut shell = std::process::Command::new("sh");
    let status = shell.args(["-ec", script]).current_dir(root).status().unwrap();
    assert!(status.success(), "{script}");
}

/// A file of a layer below has three names; what is written under one of them shows under the others, whatever becomes of
/// that one. A renamed directory keeps the links of its files to names outside.
#[test]
fn names_of_one_file_stay_together_whatever_becomes_of_one() {
    need!(mount::available());
    for kind in Kind::ALL {
        for script in [
            "echo new >L1; rm L1",
            "echo new >L1; rm L1 L2",
            "echo new >L1; rm L1 L2 d/L3",
            "mv L1 a; echo new >a",
            "mv L1 a; chmod 600 a",
            "chmod 600 L2; rm L2",
            "ln L1 n; echo new >n; rm n L1",
            "echo new >L1; mv L1 other; rm other; echo again >L2; rm L2",
            "rm -r d; echo new >L2; mv L2 d",
            "rm L1; echo another >L1; echo new >L2",
            "chown -h 5 link; rm link",
            "mv d e || cp -a d e",
            "mv d e || cp -a d e; echo new >L1",
            "mv d e || cp -a d e; echo new >L1; rm L1",
            "mv d e || cp -a d e; echo new >e/L3; rm e/L3",
            "mv d e || cp -a d e; mkdir d; echo new >d/L3; ln L2 d/L4",
            "mv top renamed || cp -a top renamed; echo x >renamed/in/M1; rm renamed/in/M1",
        ] {
            let mut container = Container::new(kind);
            let lower = container.path("lower");
            run(
                &lower,
                "mkdir -p d top/in; echo old >L1; ln L1 L2; ln L1 d/L3; ln -s to link; ln link link2; \
                 echo m >top/in/M1; ln top/in/M1 top/M2; ln top/in/M1 M3; echo alone >d/alone",
            );
            let root = need!(container.start());
            run(&root, script);
            container.judge(script);
        }
    }
}

/// Without its index an upper directory does not say what other names of a file show, so no layer is made of it.
#[test]
fn an_upper_directory_without_its_index_is_refused() {
    need!(mount::available());
    let kind = *Kind::ALL.iter().find(|kind| kind.index && kind.on_images).unwrap();
    let mut container = Container::new(kind);
    run(&container.path("lower"), "echo old >L1; ln L1 L2");
    let root = need!(container.start());
    run(&root, "echo new >L1; rm L1");
    let code = |(old, new): (Stack, Stack)| {
        let written = Compare::new(TAR).write(&old, &new, &mut Vec::new());
        written.map_or_else(|error| error.code().to_owned(), |_| "ok".to_owned())
    };
    assert_eq!(code(container.dirs()), "ok");
    // Its files are those of other layers.
    let (old, upper) = (Stack::default(), container.path("upper"));
    let layer = erolith_differ::compare::upper(&upper, None).unwrap();
    assert_eq!(code((old.clone(), old.with_upper(layer))), "overlay-index");
    let error = erolith_differ::compare::upper(&upper, Some(&container.path("lower"))).unwrap();
    assert_eq!(code((old.clone(), old.with_upper(error))), "overlay-index");
    let other = {
        let mut other = Container::new(kind);
        need!(other.start());
        other
    };
    let error = erolith_differ::compare::upper(&upper, Some(&other.path("work"))).unwrap_err();
    assert_eq!(error.code(), "overlay-index-foreign");
    fs::rename(container.path("work/index"), container.path("work/elsewhere")).unwrap();
    assert_eq!(code(container.dirs()), "overlay-index");
    assert_eq!(code(container.images()), "overlay-index");
}

/// Marks of an overlay with `userxattr`, or of fuse-overlayfs, are no attributes of files unless that is known.
#[test]
fn marks_of_an_overlay_that_was_mounted_otherwise_are_refused_where_that_is_not_known() {
    need!(mount::available());
    let container = Container::new(Kind::ALL[0]);
    let upper = container.path("upper");
    run(&container.path("lower"), "mkdir d; echo old >d/gone");
    run(&upper, "mkdir d; echo new >d/file");
    for (mark, is_refused) in
        [("user.overlay.opaque", true), ("user.fuseoverlayfs.opaque", true), ("user.key", false)]
    {
        set(&upper.join("d"), mark, b"y");
        let (old, new) = container.dirs();
        let strict = Compare { refuse_other_marks: true, ..Compare::new(TAR) };
        match strict.write(&old, &new, &mut Vec::new()) {
            Err(error) => {
                let text = error.to_string();
                assert!(is_refused && error.code() == "overlay-marks", "{mark}: {text}");
                for word in ["d: ", mark, "--userxattr"] {
                    assert!(text.contains(word), "no {word} in {text}");
                }
            }
            Ok(_) => assert!(!is_refused, "{mark}"),
        }
        assert!(Compare::new(TAR).write(&old, &new, &mut Vec::new()).is_ok(), "{mark}");
        rustix::fs::removexattr(upper.join("d"), mark).unwrap();
    }
    set(&upper.join("d"), "user.fuseoverlayfs.opaque", b"y");
    let dir = |name: &str| OverlayLayer::dir(File::open(container.path(name)).unwrap().into());
    let old = Stack::new(vec![dir("lower")], erolith_overlay::Marks::User);
    let new = old.with_upper(dir("upper"));
    let mut archive = Vec::new();
    Compare::new(TAR).write(&old, &new, &mut archive).unwrap();
    assert_eq!(names(&archive), ["d/", "d/.wh..wh..opq", "d/file"]);
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

/// A process writes while a layer is made. Files change under it in every way; what it holds of one is of a single moment,
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

/// Whether a file that [`busy`] writes was ever like that. New content enters from the front.
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
    let how = Compare::new(LayerFormat::Tar(Compression::Zstd));
    let upper = Stack::default().with_upper(OverlayLayer::dir(File::open(&root).unwrap().into()));
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
