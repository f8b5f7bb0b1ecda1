//! Writable layers with a limit, kept by a filesystem of their own.

use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;

use super::*;
use erolith_errors::ErrorStatus;

const LABEL: &str = "containerd.io/snapshot/max-size";

/// Writes until there is no more room. Returns how many bytes there was room for.
fn fill(path: &Path) -> u64 {
    let mut file = File::create(path).unwrap();
    let mut bytes = 0;
    loop {
        match file.write(&[7; 65536]).and_then(|n| file.sync_data().map(|()| n)) {
            Ok(n) => bytes += n as u64,
            Err(error) => {
                assert_eq!(Errno::from_io_error(&error), Some(Errno::NOSPC), "{error}");
                return bytes;
            }
        }
        assert!(bytes <= LIMIT, "{bytes} bytes were written");
    }
}

/// The loop devices that have the filesystem of a writable layer below `dir`. Layers may have some, too.
fn loops(dir: &Path) -> Vec<String> {
    let devices = names_of(Path::new("/sys/block")).into_iter();
    let files = devices.filter_map(|name| {
        fs::read_to_string(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()
    });
    let is_upper = |file: &String| file.contains(layerdir::RWLAYER);
    files.filter(|file| Path::new(file).starts_with(dir)).filter(is_upper).collect()
}

/// Devices go when their last user has closed them, which may be another program that looks at them.
fn loops_vanish(dir: &Path) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !loops(dir).is_empty() {
        assert!(std::time::Instant::now() < deadline, "{:?}", loops(dir));
        std::thread::yield_now();
    }
}

#[test]
fn a_container_cannot_write_beyond_its_limit_and_nobody_else_is_harmed() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        let mounts = service.prepare("k", "A", &limited()).unwrap();
        let other = service.prepare("other", "A", &none()).unwrap();
        let upper = format!("upperdir={}/w/2/upper", site.state.path().display());
        assert!(mounts[0].options.contains(&upper), "{mounts:?}");
        let tree = MountedTree::of(&mounts, site.target("k"));
        assert_eq!(tree.names(""), ["A"]);
        let bytes = fill(&tree.join("full"));
        assert!((8 << 20..LIMIT).contains(&bytes), "{bytes}");
        let image = fs::metadata(service.dir(2).join(layerdir::RWLAYER)).unwrap();
        assert_eq!(image.len(), LIMIT);
        let usage = service.usage("k").unwrap();
        assert!((bytes..LIMIT).contains(&usage.size) && usage.inodes == 2, "{usage:?}");
        // Others write on, and so does who makes room.
        write(&MountedTree::of(&other, site.target("other")).join("file"), "fine");
        fs::remove_file(tree.join("full")).unwrap();
        write(&tree.join("small"), "fits");
        assert_eq!(tree.read("small"), "fits");
    });
}

#[test]
fn programs_and_devices_work_as_in_any_writable_layer() {
    with_mounts(|site| {
        let service = site.open();
        let mounts = service.prepare("k", "", &limited()).unwrap();
        assert_eq!(mounts[0].source, format!("{}/w/1/upper", site.state.path().display()));
        let tree = MountedTree::of(&mounts, site.target("k"));
        assert_eq!((mode(&tree.0), tree.names("")), (0o755, vec![]));
        let options = mounted_at(&tree.0).unwrap().options;
        assert!(!["nosuid", "nodev", "noexec"].iter().any(|word| options.contains(word)));
        let null = rustix::fs::makedev(1, 3);
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, tree.join("null"), kind, mode, null).unwrap();
        let mut null = File::options().write(true).open(tree.join("null")).unwrap();
        null.write_all(b"gone").unwrap();
    });
}

#[test]
fn it_is_found_again_with_what_was_written_and_mounted_only_once() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        let mounts = service.prepare("k", "A", &limited()).unwrap();
        let tree = MountedTree::of(&mounts, site.target("k"));
        write(&tree.join("written"), "before");
        drop(service);
        // Another process; then one whose mounts were undone while the container runs.
        for _ in 0..2 {
            let service = site.open();
            assert_eq!(service.mounts("k").unwrap(), mounts);
            assert_eq!(loops(&service.dir(2)).len(), 1);
            assert_eq!(site.lowers(), ["l/1", "w/2"]);
            let upper = site.state.path().join("w/2/upper/written");
            assert_eq!(fs::read_to_string(upper).unwrap(), "before");
            drop(service);
            unmount_below(site.state.path());
        }
        drop(tree);
        // A reboot.
        loops_vanish(&site.dir.path().join("root"));
        let service = site.open();
        assert_eq!(service.mounts("k").unwrap(), mounts);
        let tree = MountedTree::of(&mounts, site.target("k"));
        assert_eq!(
            (tree.names(""), tree.read("written")),
            (vec!["A".into(), "written".into()], "before".into())
        );
        assert!(fill(&tree.join("full")) < LIMIT);
    });
}

#[test]
fn a_commit_takes_what_is_in_the_image_and_cleanup_leaves_nothing() {
    for profile in [Profile::Plain, Profile::Managed] {
        with_mounts(|site| {
            let service = site.open();
            layer(&service, "A", "");
            {
                let tree = MountedTree::of(
                    &service.prepare("k", "A", &limited()).unwrap(),
                    site.target("k"),
                );
                write(&tree.join("B"), "B");
                fs::remove_file(tree.join("A")).unwrap();
            }
            drop(service);
            unmount_below(site.state.path());
            loops_vanish(&site.dir.path().join("root"));
            let service = opened(Config { profile, ..site.config() });
            service.commit("B", "k", "", &none()).unwrap();
            service.cleanup().unwrap();
            assert_eq!(site.lowers(), Vec::<String>::new());
            loops_vanish(&site.dir.path().join("root"));
            let mut left = names_of(&service.dir(2));
            left.sort_unstable();
            assert_eq!(left, [".erofslayer", "fs", "layer.erofs", "snapshot.json"]);
            drop(service);
            let service = site.open();
            let tree = MountedTree::of(&service.view("v", "B", &none()).unwrap(), site.target("v"));
            assert_eq!((tree.names(""), tree.read("B")), (vec!["B".to_owned()], "B".to_owned()));
            drop(tree);
            for key in ["v", "B", "A"] {
                service.remove(key).unwrap();
            }
            service.cleanup().unwrap();
            assert_eq!((site.directories(), site.lowers()), (vec![], vec![]));
        });
    }
}

/// The power went while it was mounted: what is in its journal has to be written back first.
#[test]
fn an_image_that_was_not_unmounted_is_committed_whole() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        let tree =
            MountedTree::of(&service.prepare("k", "A", &limited()).unwrap(), site.target("k"));
        write(&tree.join("B"), "B");
        File::open(tree.join("B")).unwrap().sync_all().unwrap();
        let image = service.dir(2).join(layerdir::RWLAYER);
        fs::copy(&image, site.dir.path().join("cut")).unwrap();
        drop((tree, service));
        unmount_below(site.state.path());
        loops_vanish(site.dir.path());
        fs::rename(site.dir.path().join("cut"), &image).unwrap();
        let config = Config { profile: Profile::Managed, ..site.config() };
        let service = opened(config);
        service.commit("B", "k", "", &none()).unwrap();
        service.cleanup().unwrap();
        loops_vanish(site.dir.path());
        drop(service);
        let service = site.open();
        let tree = MountedTree::of(&service.view("v", "B", &none()).unwrap(), site.target("v"));
        assert_eq!((tree.names(""), tree.read("B")), (vec!["A".into(), "B".into()], "B".into()));
    });
}

/// The mount manager would put a second device over an image that is still in use.
#[test]
fn an_image_in_use_is_not_given_to_the_mount_manager() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        let tree =
            MountedTree::of(&service.prepare("k", "A", &limited()).unwrap(), site.target("k"));
        drop(service);
        let config = Config { profile: Profile::Managed, ..site.config() };
        let service = opened(config);
        for _ in 0..2 {
            assert_eq!(service.mounts("k").unwrap_err().errno(), Some(Errno::BUSY));
        }
        drop(tree);
        loops_vanish(site.dir.path());
        assert_eq!(service.mounts("k").unwrap()[0].fs_type, "mkfs/ext4");
        // Reading what is in it leaves nothing mounted.
        let upper = service.written_in(&service.dir(2)).unwrap().unwrap().upper;
        assert_eq!(loops(site.dir.path()).len(), 1);
        drop(upper);
        loops_vanish(site.dir.path());
    });
}

#[test]
fn a_removed_one_stays_with_the_container_that_runs() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        let tree =
            MountedTree::of(&service.prepare("k", "A", &limited()).unwrap(), site.target("k"));
        service.remove("k").unwrap();
        service.cleanup().unwrap();
        assert_eq!((site.lowers(), site.directories()), (vec![], vec!["1".to_owned()]));
        write(&tree.join("written"), "later");
        assert_eq!(tree.read("written"), "later");
        drop(tree);
        loops_vanish(&site.dir.path().join("root"));
    });
}

#[test]
fn a_limited_snapshot_is_never_without_its_limit() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        service.prepare("k", "A", &limited()).unwrap();
        let image = service.dir(2).join(layerdir::RWLAYER);
        unmount_below(&site.state.path().join("w"));
        loops_vanish(&site.dir.path().join("root"));
        // Damaged: its superblock is gone.
        let file = File::options().write(true).open(&image).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 0).unwrap();
        assert_eq!(service.mounts("k").unwrap_err().code(), "kernel");
        fs::remove_file(&image).unwrap();
        let error = service.mounts("k").unwrap_err();
        assert_eq!((error.code(), error.status()), ("gone", ErrorStatus::DataLoss));
        assert_eq!(status(service.commit("B", "k", "", &none())), ErrorStatus::DataLoss);
        service.remove("k").unwrap();
        service.cleanup().unwrap();
        assert_eq!(site.directories(), ["1"]);
    });
}

#[test]
fn sizes_that_are_none_leave_the_default() {
    with_mounts(|site| {
        let service = site.open();
        let values =
            ["0", "-1", "100", "abc", "1GiB", "", "99999999999999999999", "999999999999999999"];
        for value in values {
            let mounts = service.prepare("k", "", &labels(&[(LABEL, value)])).unwrap();
            assert_eq!(mounts[0].options[0], "rw", "{value}");
            let id = service.store.snapshot("k").unwrap().id;
            assert!(!service.dir(id).join(layerdir::RWLAYER).exists(), "{value}");
            service.remove("k").unwrap();
        }
        service.cleanup().unwrap();
        assert_eq!((site.directories(), site.lowers()), (vec![], vec![]));
        // A view has no writable layer.
        layer(&service, "A", "");
        service.view("v", "A", &labels(&[(LABEL, "many")])).unwrap();
    });
}

#[test]
fn the_default_and_the_label_are_for_containers() {
    with_mounts(|site| {
        let config = Config { default_size: 2 * LIMIT, ..site.config() };
        let service = opened(config);
        let unpack = ("containerd.io/snapshot.ref", "chain");
        let size = LIMIT.to_string();
        let table: [(&str, Labels, Option<u64>); 4] = [
            ("container", none(), Some(2 * LIMIT)),
            ("small container", limited(), Some(LIMIT)),
            ("layer", labels(&[unpack]), None),
            ("limited layer", labels(&[unpack, (LABEL, &size)]), None),
        ];
        for (key, labels, want) in table {
            service.prepare(key, "", &labels).unwrap();
            let id = service.store.snapshot(key).unwrap().id;
            let image = fs::metadata(service.dir(id).join(layerdir::RWLAYER)).ok();
            assert_eq!(image.map(|image| image.len()), want, "{key}");
            assert_eq!(service.dir(id).join(layerdir::WORK).exists(), want.is_none(), "{key}");
            assert_eq!(site.state.path().join(format!("w/{id}")).exists(), want.is_some(), "{key}");
        }
        // A directory that was lost comes back as limited as it was made.
        fs::remove_dir_all(service.dir(1)).unwrap();
        service.uppers.unmount(1).unwrap();
        drop(service);
        let config = Config { default_size: 2 * LIMIT, ..site.config() };
        let service = opened(config);
        let mounts = service.mounts("container").unwrap();
        assert!(mounts[0].source.ends_with("/w/1/upper"), "{mounts:?}");
    });
}

#[test]
fn owners_of_the_upper_directory_are_those_of_any_other() {
    with_mounts(|site| {
        let service = site.open();
        let id = layer(&service, "A", "");
        std::os::unix::fs::chown(service.dir(id).join("fs"), Some(3), Some(4)).unwrap();
        let map = "0:5000:65536";
        let mapped = labels(&[
            ("containerd.io/snapshot/uidmapping", map),
            ("containerd.io/snapshot/gidmapping", map),
            (LABEL, &LIMIT.to_string()),
        ]);
        for (key, labels, want) in [("k", limited(), (3, 4)), ("m", mapped, (5000, 5000))] {
            service.prepare(key, "A", &labels).unwrap();
            let id = service.store.snapshot(key).unwrap().id;
            let upper = fs::metadata(service.uppers.upper(id)).unwrap();
            assert_eq!(((upper.uid(), upper.gid()), upper.mode() & 0o777), (want, 0o755), "{key}");
        }
    });
}

/// A differ writes the layer of a snapshot that has a limit: what it is limited by goes with the commit.
#[test]
fn an_applied_layer_needs_no_limit() {
    for profile in [Profile::Plain, Profile::Managed] {
        with_mounts(|site| {
            let service = opened(Config { profile, ..site.config() });
            layer(&service, "A", "");
            service.prepare("k", "A", &limited()).unwrap();
            let tree = site.dir.path().join("tree");
            fs::create_dir(&tree).unwrap();
            write(&tree.join("B"), "B");
            build_image(&tree, &service.dir(2).join(layerdir::IMAGE));
            let mounts = service.mounts("k").unwrap();
            assert!(!format!("{mounts:?}").contains("upperdir"), "{mounts:?}");
            service.commit("B", "k", "", &none()).unwrap();
            service.cleanup().unwrap();
            assert!(!service.dir(2).join(layerdir::RWLAYER).exists());
            assert_eq!(site.lowers(), Vec::<String>::new());
            loops_vanish(&site.dir.path().join("root"));
        });
    }
}

#[test]
fn many_at_once_have_a_filesystem_each() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let service = &service;
                scope.spawn(move || {
                    for round in 0..4 {
                        let key = format!("{thread} {round}");
                        service.prepare(&key, "A", &limited()).unwrap();
                        service.mounts(&key).unwrap();
                        if round % 2 == 0 {
                            service.remove(&key).unwrap();
                            service.cleanup().unwrap();
                        }
                    }
                });
            }
        });
        service.cleanup().unwrap();
        assert_eq!(site.lowers().len(), 1 + 8);
        assert_eq!(loops(&site.dir.path().join("root")).len(), 8);
    });
}
