//! The life of a chain: what is written is seen in all snapshots above, as overlayfs shows it, and in no others.

use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::*;
use crate::MountError;
use erolith_errors::ErrorStatus;

fn fill_base(tree: &MountedTree) {
    assert_eq!(mode(&tree.0), 0o755);
    write(&tree.join("kept"), "kept");
    write(&tree.join("deleted"), "deleted");
    write(&tree.join("changed"), "old");
    fs::create_dir_all(tree.join("dir/below")).unwrap();
    write(&tree.join("dir/below/file"), "below");
    write(&tree.join("dir/other"), "other");
    fs::hard_link(tree.join("kept"), tree.join("linked")).unwrap();
    symlink("kept", tree.join("symlink")).unwrap();
    let device = |name: &str, kind, dev| {
        mknodat(CWD, tree.join(name), kind, Mode::from_raw_mode(0o666), dev).unwrap();
    };
    device("null", FileType::CharacterDevice, makedev(1, 3));
    device("pipe", FileType::Fifo, 0);
    fs::copy("/bin/true", tree.join("program")).unwrap();
    fs::set_permissions(tree.join("program"), fs::Permissions::from_mode(0o4755)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree.join("dir"), "user.mark", b"x", flags).unwrap();
}

/// What a container needs of its root: devices open, programs run, setuid bits count.
fn check_usable(tree: &MountedTree) {
    assert!(fs::symlink_metadata(tree.join("null")).unwrap().file_type().is_char_device());
    File::options().write(true).open(tree.join("null")).unwrap().write_all(b"x").unwrap();
    assert_eq!(mode(&tree.join("program")), 0o4755);
    assert!(std::process::Command::new(tree.join("program")).status().unwrap().success());
    let flags = rustix::fs::statvfs(&tree.0).unwrap().f_flag;
    let hidden = rustix::fs::StatVfsMountFlags::NOSUID;
    assert!(!flags.contains(hidden), "{flags:?}");
}

fn change(tree: &MountedTree) {
    fs::remove_file(tree.join("deleted")).unwrap();
    write(&tree.join("changed"), "new");
    fs::remove_dir_all(tree.join("dir")).unwrap();
    fs::create_dir(tree.join("dir")).unwrap();
    write(&tree.join("dir/fresh"), "fresh");
}

fn check_changed(tree: &MountedTree) {
    let top = ["changed", "dir", "kept", "linked", "null", "pipe", "program", "symlink"];
    assert_eq!(tree.names(""), top);
    assert_eq!(tree.names("dir"), ["fresh"]);
    assert_eq!((tree.read("changed"), tree.read("kept")), ("new".into(), "kept".into()));
    assert_eq!(fs::read_link(tree.join("symlink")).unwrap(), Path::new("kept"));
    let (kept, linked) = (tree.join("kept"), tree.join("linked"));
    assert_eq!(fs::metadata(kept).unwrap().ino(), fs::metadata(linked).unwrap().ino());
}

#[test]
fn what_is_written_is_seen_above_and_whiteouts_hide() {
    with_mounts(|site| {
        let service = site.open();
        let mounts = service.prepare("a", "", &none()).unwrap();
        fill_base(&MountedTree::of(&mounts, site.target("a")));
        service.commit("A", "a", "", &labels(&[("containerd.io/snapshot.ref", "r")])).unwrap();
        assert_eq!(status(service.stat("a")), ErrorStatus::NotFound);
        let info = service.stat("A").unwrap();
        assert_eq!((info.kind, info.parent.as_str()), (Kind::Committed, ""));
        assert_eq!(info.labels, labels(&[("containerd.io/snapshot.ref", "r")]));

        let mounts = service.prepare("b", "A", &none()).unwrap();
        assert_eq!(service.mounts("b").unwrap(), mounts);
        let tree = MountedTree::of(&mounts, site.target("b"));
        check_usable(&tree);
        assert_eq!(tree.read("dir/below/file"), "below");
        assert_eq!(mode(&tree.0), 0o755);
        change(&tree);
        check_changed(&tree);
        drop(tree);
        service.commit("B", "b", "", &none()).unwrap();

        let base = MountedTree::of(&service.view("vA", "A", &none()).unwrap(), site.target("vA"));
        check_usable(&base);
        assert_eq!(base.read("deleted"), "deleted");
        assert_eq!(mode(&base.0), 0o755);
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(base.join("dir"), "user.mark", &mut value), Ok(1));
        let top = MountedTree::of(&service.view("vB", "B", &none()).unwrap(), site.target("vB"));
        check_usable(&top);
        check_changed(&top);
        for tree in [&base, &top] {
            let error = File::create(tree.join("x")).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
    });
}

#[test]
fn bare_layers_hide_nothing_even_without_a_remount() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        let mounts = service.view("v", "A", &none()).unwrap();
        let flags = rustix::fs::statvfs(&mounts[0].source).unwrap().f_flag;
        let (nosuid, ro) =
            (rustix::fs::StatVfsMountFlags::NOSUID, rustix::fs::StatVfsMountFlags::RDONLY);
        assert!(flags.contains(ro) && !flags.contains(nosuid), "{flags:?}");
        let entry = mounted_at(Path::new(&mounts[0].source)).unwrap();
        for word in ["nodev", "noexec", "nosuid"] {
            assert!(!entry.options.contains(word), "{}", entry.options);
        }
        let through = mounted_at(&site.state.path().join("l/1")).unwrap();
        for word in ["ro", "nodev", "noexec", "nosuid"] {
            assert!(through.options.split(',').any(|o| o == word), "{}", through.options);
        }
    });
}

#[test]
fn errors_are_those_of_containerd() {
    with_mounts(|site| {
        let service = site.open();
        for error in [
            status(service.stat("x")),
            status(service.mounts("x")),
            status(service.usage("x")),
            status(service.remove("x")),
            status(service.commit("y", "x", "", &none())),
            status(service.prepare("x", "no", &none())),
            status(service.update("x", &none(), &UpdateMask::All)),
        ] {
            assert_eq!(error, ErrorStatus::NotFound);
        }
        assert_eq!(service.list(&Filters::parse(&[]).unwrap()).unwrap(), []);
        layer(&service, "A", "");
        assert_eq!(status(service.mounts("A")), ErrorStatus::FailedPrecondition);
        service.prepare("a", "A", &none()).unwrap();
        service.view("v", "A", &none()).unwrap();
        for key in ["a", "v", "A"] {
            assert_eq!(status(service.prepare(key, "", &none())), ErrorStatus::AlreadyExists);
            assert_eq!(status(service.view(key, "A", &none())), ErrorStatus::AlreadyExists);
        }
        assert_eq!(status(service.prepare("b", "a", &none())), ErrorStatus::InvalidArgument);
        assert_eq!(status(service.commit("A", "a", "", &none())), ErrorStatus::AlreadyExists);
        assert_eq!(status(service.commit("V", "v", "", &none())), ErrorStatus::FailedPrecondition);
        assert_eq!(status(service.commit("V", "A", "", &none())), ErrorStatus::FailedPrecondition);
        let error = service.remove("A").unwrap_err();
        assert_eq!(error.status(), ErrorStatus::FailedPrecondition);
        assert!(error.to_string().contains("cannot remove snapshot with child"), "{error}");
        assert_eq!(service.usage("v").unwrap(), Usage::default());
        // The directories of requests that failed are gone at once.
        assert_eq!(site.directories().iter().filter(|n| n.starts_with("new-")).count(), 0);
        for key in ["a", "v", "A"] {
            service.remove(key).unwrap();
        }
        service.cleanup().unwrap();
        assert_eq!((site.directories(), site.lowers()), (Vec::new(), Vec::new()));
    });
}

#[test]
fn a_commit_may_put_a_layer_on_a_parent() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "base", "");
        let mounts = service.prepare("k", "", &none()).unwrap();
        {
            let tree = MountedTree::of(&mounts, site.target("k"));
            mknodat(CWD, tree.join("base"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
            write(&tree.join("own"), "own");
        }
        assert_eq!(status(service.commit("top", "k", "no", &none())), ErrorStatus::NotFound);
        // The container writes on after a commit that failed, and nothing of that is lost.
        write(&Path::new(&mounts[0].source).join("later"), "later");
        assert_eq!(service.mounts("k").unwrap(), mounts);
        service.commit("top", "k", "base", &none()).unwrap();
        assert_eq!(service.stat("top").unwrap().parent, "base");
        let tree = MountedTree::of(&service.view("v", "top", &none()).unwrap(), site.target("v"));
        assert_eq!(tree.names(""), ["later", "own"]);
        drop(tree);
        let child = service.prepare("c", "top", &none()).unwrap();
        assert_eq!(status(service.commit("x", "c", "base", &none())), ErrorStatus::InvalidArgument);
        assert_eq!(service.mounts("c").unwrap(), child);
        service.commit("x", "c", "top", &none()).unwrap();
    });
}

#[test]
fn a_committed_upper_is_empty_and_keeps_its_owner() {
    with_mounts(|site| {
        let service = site.open();
        let mounts = service.prepare("k", "", &none()).unwrap();
        let upper = PathBuf::from(&mounts[0].source);
        std::os::unix::fs::chown(&upper, Some(7), Some(8)).unwrap();
        write(&upper.join("file"), &"x".repeat(100_000));
        let active = service.usage("k").unwrap();
        assert!(active.inodes == 2 && active.size >= 100_000, "{active:?}");
        service.commit("L", "k", "", &none()).unwrap();
        let dir = upper.parent().unwrap();
        assert_eq!(names_of(&upper), Vec::<String>::new());
        assert!(!dir.join(layerdir::CONVERTED).exists() && !dir.join(layerdir::WORK).exists());
        assert_eq!(service.usage("L").unwrap(), on_disk(&[dir]));
        service.prepare("c", "L", &none()).unwrap();
        let child = service.dir(service.store.snapshot("c").unwrap().id).join(layerdir::UPPER);
        let found = fs::metadata(child).unwrap();
        assert_eq!((found.uid(), found.gid()), (7, 8));
        service.cleanup().unwrap();
        assert!(site.directories().iter().all(|n| !n.starts_with("gone-")));
    });
}

/// What overlayfs wrote for itself is no part of a layer; what a nested overlay wrote is.
#[test]
fn bookkeeping_of_the_overlay_is_left_out() {
    with_mounts(|site| {
        let service = site.open();
        let mounts = service.prepare("a", "", &none()).unwrap();
        fs::create_dir(Path::new(&mounts[0].source).join("dir")).unwrap();
        write(&Path::new(&mounts[0].source).join("dir/file"), "x");
        service.commit("A", "a", "", &none()).unwrap();
        let tree = MountedTree::of(&service.prepare("b", "A", &none()).unwrap(), site.target("b"));
        let set = |path: PathBuf, name: &str| {
            rustix::fs::setxattr(path, name, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        };
        write(&tree.join("dir/file"), "y");
        let flags = rustix::fs::XattrFlags::empty();
        let nested =
            rustix::fs::setxattr(tree.join("dir"), "trusted.overlay.redirect", b"y", flags);
        // Linux keeps such a thing for others since 6.7.
        let kept = match nested {
            Err(rustix::io::Errno::OPNOTSUPP) => "trusted.mark ",
            other => other.map(|()| "trusted.mark trusted.overlay.overlay.redirect ").unwrap(),
        };
        set(tree.join("dir"), "trusted.mark");
        drop(tree);
        let dir = service.dir(2);
        set(dir.join("fs/dir/file"), "user.overlay.origin");
        service.commit("B", "b", "", &none()).unwrap();
        service.prepare("c", "B", &none()).unwrap();
        let names = |path: PathBuf| {
            let mut buffer = vec![0; 4096];
            let len = rustix::fs::listxattr(path, &mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap().replace('\0', " ")
        };
        let raw = site.state.path().join("l/2");
        assert_eq!(names(raw.join("dir")), kept);
        assert_eq!(names(raw.join("dir/file")), "");
    });
}

/// Its content is in a layer below, and only its own overlay could find it.
#[test]
fn an_upper_that_is_no_layer_by_itself_is_refused() {
    with_mounts(|site| {
        let service = site.open();
        let mounts = service.prepare("a", "", &none()).unwrap();
        let file = Path::new(&mounts[0].source).join("file");
        write(&file, "");
        let (name, flags) = ("trusted.overlay.metacopy", rustix::fs::XattrFlags::empty());
        rustix::fs::setxattr(&file, name, b"", flags).unwrap();
        let error = service.commit("A", "a", "", &none()).unwrap_err();
        let expected = ("overlay-unsupported", ErrorStatus::FailedPrecondition);
        assert_eq!((error.code(), error.status()), expected, "{error}");
        assert_eq!(service.mounts("a").unwrap(), mounts);
        rustix::fs::removexattr(&file, name).unwrap();
        service.commit("A", "a", "", &none()).unwrap();
    });
}

/// The most that one mount takes with the default paths.
#[test]
fn a_view_of_128_layers_shows_every_one() {
    with_mounts(|site| {
        let mut config = site.config();
        config.sync = false;
        let service = opened(config);
        let mut parent = String::new();
        for index in 0..128 {
            let name = format!("L{index:03}");
            layer(&service, &name, &parent);
            parent = name;
        }
        let tree = MountedTree::of(&service.view("v", &parent, &none()).unwrap(), site.target("v"));
        assert_eq!(tree.names("").len(), 128);
        assert_eq!((tree.read("L000"), tree.read("L127")), ("L000".into(), "L127".into()));
        let child =
            MountedTree::of(&service.prepare("a", &parent, &none()).unwrap(), site.target("a"));
        write(&child.join("L000"), "changed");
        assert_eq!((child.names("").len(), tree.read("L000")), (128, "L000".into()));
    });
}

#[test]
fn more_layers_than_fit_are_refused_and_leave_nothing() {
    with_mounts(|site| {
        let mut config = site.config();
        config.state = site.state.path().join("d".repeat(200));
        config.sync = false;
        let service = opened(config);
        let mut parent = String::new();
        // Each lower takes 217 bytes; the chain is made without ever being mounted.
        for index in 0..17 {
            let (key, name) = (format!("k{index}"), format!("L{index}"));
            service.prepare(&key, "", &none()).unwrap();
            service.commit(&name, &key, &parent, &none()).unwrap();
            parent = name;
        }
        let error = service.prepare("k", &parent, &none()).unwrap_err();
        match &error {
            Error::Mount(MountError::OptionsTooLong { layers: 17, bytes, limit: 3584 }) => {
                assert!(*bytes > 3584)
            }
            other => panic!("{other}"),
        }
        assert_eq!(error.status(), ErrorStatus::FailedPrecondition);
        assert_eq!(status(service.stat("k")), ErrorStatus::NotFound);
        service.view("v", "L9", &none()).unwrap();
        service.remove("v").unwrap();
        service.cleanup().unwrap();
        assert_eq!((site.directories().len(), site.lowers().len()), (17, 0));
    });
}
