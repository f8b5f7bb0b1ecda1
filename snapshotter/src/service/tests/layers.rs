//! Layers that a differ wrote, caches, and the mounts that all snapshots share.

use super::*;
use erolith_errors::ErrorStatus;

const DIFF_ID: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn tree_with(site: &Site, name: &str) -> PathBuf {
    let tree = site.dir.path().join("tree").join(name);
    fs::create_dir_all(&tree).unwrap();
    write(&tree.join(name), name);
    tree
}

fn unpack_labels() -> Labels {
    labels(&[("containerd.io/snapshot.ref", "c"), ("containerd.io/snapshot/diff-id", DIFF_ID)])
}

#[test]
fn an_applied_layer_is_shown_read_only_and_committed_as_it_is() {
    with_mounts(|site| {
        let service = site.open();
        let image = apply(&service.prepare("a", "", &none()).unwrap(), &tree_with(site, "one"));
        let inode = fs::metadata(&image).unwrap();
        let mounts = service.mounts("a").unwrap();
        assert_eq!(mounts[0].options, ["ro", "rbind"]);
        assert_eq!(MountedTree::of(&mounts, site.target("a")).names(""), ["one"]);
        assert_eq!(service.usage("a").unwrap().inodes, 2);
        // Its mount stays while it is active, though it has no children.
        service.cleanup().unwrap();
        assert_eq!(site.lowers(), ["l/1", "l/1v"]);
        service.commit("A", "a", "", &none()).unwrap();
        let committed = fs::metadata(&image).unwrap();
        use std::os::unix::fs::MetadataExt;
        // Not its time: ext4 gives it another one with fs-verity.
        assert_eq!((committed.ino(), committed.len()), (inode.ino(), inode.len()));
        service.cleanup().unwrap();
        assert_eq!(site.lowers(), Vec::<String>::new());

        apply(&service.prepare("b", "A", &none()).unwrap(), &tree_with(site, "two"));
        let shown = MountedTree::of(&service.mounts("b").unwrap(), site.target("b"));
        assert_eq!(shown.names(""), ["one", "two"]);
        drop(shown);
        service.commit("B", "b", "", &none()).unwrap();
        let view = MountedTree::of(&service.view("v", "B", &none()).unwrap(), site.target("v"));
        assert_eq!(view.names(""), ["one", "two"]);
    });
}

/// As when the answer to the first Apply got lost.
#[test]
fn a_layer_can_be_written_again_until_it_is_committed() {
    with_mounts(|site| {
        let service = site.open();
        let first = service.prepare("a", "", &none()).unwrap();
        let dir = service.layer_dir(&first).unwrap().unwrap();
        apply(&first, &tree_with(site, "one"));
        let shown = service.mounts("a").unwrap();
        assert_eq!(MountedTree::of(&shown, site.target("a")).names(""), ["one"]);
        assert_eq!(service.layer_dir(&shown).unwrap(), Some(dir.clone()));
        assert_eq!(site.lowers(), Vec::<String>::new(), "the old layer is not shown any more");
        apply(&first, &tree_with(site, "two"));
        assert_eq!(
            MountedTree::of(&service.mounts("a").unwrap(), site.target("b")).names(""),
            ["two"]
        );
        // A foreign differ does not report what it does.
        apply(&first, &tree_with(site, "three"));
        service.commit("A", "a", "", &none()).unwrap();
        let view = service.view("v", "A", &none()).unwrap();
        assert_eq!(MountedTree::of(&view, site.target("v")).names(""), ["three"]);
        for mounts in [&first, &shown, &view] {
            let refused = service.layer_dir(mounts);
            assert_eq!(status(refused.map(|_| ())), ErrorStatus::FailedPrecondition, "{mounts:?}");
        }
    });
}

#[test]
fn an_unfinished_image_is_never_committed() {
    with_mounts(|site| {
        let service = site.open();
        let image = apply(&service.prepare("a", "", &none()).unwrap(), &tree_with(site, "one"));
        let file = File::options().write(true).open(&image).unwrap();
        for size in [4095, 100, 0] {
            file.set_len(size).unwrap();
            assert_eq!(
                status(service.commit("A", "a", "", &none())),
                ErrorStatus::DataLoss,
                "{size}"
            );
            assert_eq!(service.stat("a").unwrap().kind, Kind::Active);
            assert_eq!(status(service.mounts("a")), ErrorStatus::DataLoss);
        }
    });
}

/// A foreign differ may write anything. A kernel never sees what the checker refuses.
#[test]
fn a_hostile_image_is_neither_mounted_nor_committed() {
    use std::os::unix::fs::FileExt;
    for profile in [Profile::Plain, Profile::Managed] {
        with_mounts(|site| {
            let service = opened(Config { profile, ..site.config() });
            let image = apply(&service.prepare("a", "", &none()).unwrap(), &tree_with(site, "one"));
            let file = File::options().read(true).write(true).open(&image).unwrap();
            let good = fs::read(&image).unwrap();
            // The number of the root directory.
            file.write_all_at(&[0xFF, 0x7F], 1024 + 14).unwrap();
            for _ in 0..2 {
                assert_eq!(service.mounts("a").unwrap_err().status(), ErrorStatus::DataLoss);
                let error = service.commit("A", "a", "", &none()).unwrap_err();
                assert_eq!((error.code(), error.status()), ("image-check", ErrorStatus::DataLoss));
            }
            file.write_all_at(&good, 0).unwrap();
            service.mounts("a").unwrap();
            service.commit("A", "a", "", &none()).unwrap();
        });
    }
}

#[test]
fn a_damaged_or_missing_layer_is_told_before_anything_is_made() {
    with_mounts(|site| {
        let service = site.open();
        let id = layer(&service, "A", "");
        let image = service.dir(id).join(layerdir::IMAGE);
        fs::remove_file(&image).unwrap();
        assert_eq!(status(service.prepare("a", "A", &none())), ErrorStatus::DataLoss);
        assert_eq!(status(service.view("a", "A", &none())), ErrorStatus::DataLoss);
        assert_eq!(status(service.stat("a")), ErrorStatus::NotFound);
        // Removing it works with whatever is missing, so that it can be pulled again.
        fs::remove_dir_all(service.dir(id)).unwrap();
        service.remove("A").unwrap();
        service.cleanup().unwrap();
        layer(&service, "A", "");
        service.view("a", "A", &none()).unwrap();
    });
}

#[test]
fn a_layer_that_was_converted_once_is_linked() {
    with_mounts(|site| {
        let service = site.open();
        let id = layer(&service, "A", "");
        let image = service.dir(id).join(layerdir::IMAGE);
        service.images().keep(DIFF_ID, &image, BLOB).unwrap();
        let staged = |key: &str, parent: &str, labels: &Labels| {
            service.prepare_staged(key, parent, labels, &STAGES).unwrap()
        };
        let mounts = staged("k", "", &unpack_labels());
        assert_eq!(mounts[0].options[0], "ro");
        assert_eq!(MountedTree::of(&mounts, site.target("k")).names(""), ["A"]);
        service.commit("B", "k", "", &none()).unwrap();
        // Only for who unpacks a layer.
        let mut without = unpack_labels();
        without.remove("containerd.io/snapshot.ref");
        assert_eq!(staged("n", "", &without)[0].options[0], "rw");
        assert_eq!(service.prepare("m", "", &unpack_labels()).unwrap()[0].options[0], "rw");
        // Over a parent, too: the last mount is read-only.
        let parented = staged("p", "A", &unpack_labels());
        assert_eq!(parented[0].fs_type, "overlay");
        assert!(!parented[0].options.iter().any(|option| option.starts_with("upperdir=")));
        assert_eq!(MountedTree::of(&parented, site.target("p")).names(""), ["A"]);
        for key in ["A", "B", "m", "n", "p"].iter().rev() {
            service.remove(key).unwrap();
        }
        service.cleanup().unwrap();
        assert_eq!(service.images().find(DIFF_ID), None);
    });
}

/// Who gets a layer that was converted for others: who has committed it, or has the blob that it was made from.
#[test]
fn a_diff_id_alone_gets_nothing() {
    with_mounts(|site| {
        let service = site.open();
        let image =
            apply(&service.prepare("victim/1/a", "", &none()).unwrap(), &tree_with(site, "A"));
        service.commit("victim/1/c", "victim/1/a", "", &unpack_labels()).unwrap();
        service.images().keep(DIFF_ID, &image, BLOB).unwrap();
        // Says of a layer of its own that it is that one, as containerd 2.2 passes annotations on.
        apply(&service.prepare("liar/2/a", "", &none()).unwrap(), &tree_with(site, "other"));
        service.commit("liar/2/c", "liar/2/a", "", &unpack_labels()).unwrap();
        let has = |blob| Stages { is_known: true, blob };
        let old = Stages { is_known: false, blob: Some(BLOB) };
        for (number, (key, staging, is_staged)) in [
            ("victim", has(None), true),
            ("stranger", has(None), false),
            ("liar", has(None), false),
            ("stranger", has(Some("sha256:07e5")), false),
            ("stranger", has(Some(BLOB)), true),
            ("victim", old, false),
        ]
        .into_iter()
        .enumerate()
        {
            let key = format!("{key}/{}/k", number + 3);
            let mounts = service.prepare_staged(&key, "", &unpack_labels(), &staging).unwrap();
            let is_read_only = mounts[0].options.iter().any(|option| option == "ro");
            assert_eq!(is_read_only, is_staged, "{key}");
            if !is_staged {
                assert!(
                    MountedTree::of(&mounts, site.target(&number.to_string())).names("").is_empty()
                );
            }
        }
    });
}

#[test]
fn read_only_caches_are_linked_to_and_damaged_ones_passed_over() {
    with_mounts(|site| {
        let caches = ["c1", "c2"].map(|name| site.dir.path().join(name));
        for (cache, is_whole) in caches.iter().zip([false, true]) {
            let image = cache.join(layerdir::layer_path(DIFF_ID).unwrap());
            fs::create_dir_all(image.parent().unwrap()).unwrap();
            build_image(&tree_with(site, "cached"), &image);
            if !is_whole {
                File::options().write(true).open(&image).unwrap().set_len(100).unwrap();
            }
        }
        let service = opened(Config { caches: caches.to_vec(), ..site.config() });
        let stranger = Stages { is_known: true, blob: None };
        let mounts = service.prepare_staged("k", "", &unpack_labels(), &stranger).unwrap();
        assert_eq!(MountedTree::of(&mounts, site.target("k")).names(""), ["cached"]);
        let link = fs::read_link(service.dir(1).join(layerdir::IMAGE)).unwrap();
        assert!(link.starts_with(&caches[1]), "{}", link.display());
        service.commit("K", "k", "", &none()).unwrap();
        // The link itself, and not what it leads to.
        assert_eq!(service.usage("K").unwrap(), on_disk(&[service.dir(1).as_path()]));
        service.remove("K").unwrap();
        service.cleanup().unwrap();
        assert!(link.exists() && site.directories().is_empty());
    });
}

#[test]
fn layers_are_mounted_once_and_go_with_their_last_user() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        layer(&service, "B", "A");
        let keys = ["k1", "k2"];
        let trees = keys.map(|key| {
            let mounts = service.prepare(key, "B", &none()).unwrap();
            MountedTree::of(&mounts, site.target(key))
        });
        assert_eq!(site.lowers(), ["l/1", "l/2"]);
        service.remove("k1").unwrap();
        service.cleanup().unwrap();
        assert_eq!(site.lowers(), ["l/1", "l/2"]);
        service.remove("k2").unwrap();
        service.cleanup().unwrap();
        assert_eq!(site.lowers(), Vec::<String>::new());
        // Containers that still run keep what they stand on, and their upper directories.
        for tree in &trees {
            assert_eq!((tree.read("A"), tree.read("B")), ("A".into(), "B".into()));
            write(&tree.join("written"), "later");
        }
        assert_eq!(site.directories(), ["1", "2", "3", "4"]);
        drop(trees);
        service.cleanup().unwrap();
        assert_eq!(site.directories(), ["1", "2"]);
        assert_eq!(names_of(&site.state.path().join("l")), Vec::<String>::new());
    });
}

#[test]
fn many_at_once_mount_each_layer_once() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        layer(&service, "B", "A");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let service = &service;
                scope.spawn(move || {
                    for round in 0..5 {
                        let key = format!("{thread} {round}");
                        service.prepare(&key, "B", &none()).unwrap();
                        if round % 2 == 0 {
                            service.remove(&key).unwrap();
                            service.cleanup().unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(site.lowers(), ["l/1", "l/2"]);
        service.cleanup().unwrap();
        assert_eq!(site.directories().len(), 2 + 16);
    });
}

#[test]
fn loop_devices_work_as_well_and_vanish() {
    with_mounts(|site| {
        let config = Config { backing: Backing::Loop, ..site.config() };
        let service = opened(config);
        layer(&service, "A", "");
        let mounts = service.view("v", "A", &none()).unwrap();
        let entry = mounted_at(Path::new(&mounts[0].source)).unwrap();
        let device = PathBuf::from(entry.source);
        assert!(
            device.starts_with("/dev")
                && MountedTree::of(&mounts, site.target("v")).names("") == ["A"]
        );
        let backing = || {
            let name = device.file_name().unwrap().to_str().unwrap();
            fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default()
        };
        let image = service.dir(1).join(layerdir::IMAGE);
        assert_eq!(backing().trim_end(), image.to_str().unwrap());
        service.remove("v").unwrap();
        service.cleanup().unwrap();
        assert_ne!(backing().trim_end(), image.to_str().unwrap());
    });
}

#[test]
fn the_managed_profile_mounts_nothing_itself() {
    with_mounts(|site| {
        let config = Config { profile: Profile::Managed, ..site.config() };
        let service = opened(config);
        let id = layer(&service, "A", "");
        let image = service.dir(id).join(layerdir::IMAGE);
        let mounts = service.prepare("k", "A", &none()).unwrap();
        assert_eq!(mounts[0].source, image.to_str().unwrap());
        assert_eq!(mounts[1].fs_type, "format/mkdir/overlay");
        assert_eq!(layerdir::of_mounts(&mounts), Some(service.dir(2)));
        assert_eq!(site.lowers(), Vec::<String>::new());
        fs::remove_file(&image).unwrap();
        assert_eq!(status(service.mounts("k")), ErrorStatus::DataLoss);
    });
}

#[test]
fn what_stands_is_answered_at_once_and_nothing_else_is() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        layer(&service, "B", "A");
        let mounts = service.prepare("k", "B", &none()).unwrap();
        let limited = labels(&[("containerd.io/snapshot/max-size", "16777216")]);
        service.prepare("limited", "B", &limited).unwrap();
        let mapped = labels(&[
            ("containerd.io/snapshot/uidmapping", "0:9:9"),
            ("containerd.io/snapshot/gidmapping", "0:9:9"),
        ]);
        service.prepare("mapped", "B", &mapped).unwrap();
        assert_eq!(service.standing_mounts("k").unwrap(), Some(mounts));
        for key in ["limited", "mapped"] {
            assert_eq!(service.standing_mounts(key).unwrap(), None, "{key}");
        }
        assert_eq!(service.standing_mounts("A").unwrap_err().code(), "committed");
        assert_eq!(status(service.standing_mounts("none")), ErrorStatus::NotFound);
        let alone = service.lowers.alone();
        assert_eq!(service.standing_mounts("k").unwrap(), None);
        drop(alone);
        unmount_below(site.state.path());
        assert_eq!(service.standing_mounts("k").unwrap(), None);
        assert_eq!(site.lowers(), Vec::<String>::new());
    });
}

/// CRI adds up what `Usage` says of every snapshot.
#[test]
fn an_image_that_layers_share_counts_once_as_long_as_one_of_them_is_there() {
    with_mounts(|site| {
        let service = site.open();
        let first = layer(&service, "A", "");
        let shared = service.dir(first).join(layerdir::IMAGE);
        for (name, parent) in [("B", ""), ("C", "A")] {
            let key = format!("making {name}");
            service.prepare(&key, parent, &none()).unwrap();
            let id = service.store.snapshot(&key).unwrap().id;
            fs::hard_link(&shared, service.dir(id).join(layerdir::IMAGE)).unwrap();
            service.commit(name, &key, "", &none()).unwrap();
        }
        let mut left = vec!["A", "B", "C"];
        for removed in ["C", "A"] {
            let dirs: Vec<_> = left
                .iter()
                .map(|name| service.dir(service.store.snapshot(name).unwrap().id))
                .collect();
            let dirs: Vec<_> = dirs.iter().map(PathBuf::as_path).collect();
            let sum = left
                .iter()
                .fold(Usage::default(), |sum, name| usage::sum(sum, service.usage(name).unwrap()));
            assert_eq!(sum, on_disk(&dirs), "{left:?}");
            assert_eq!(service.disk_use().unwrap().layers, sum);
            service.remove(removed).unwrap();
            service.cleanup().unwrap();
            left.retain(|name| *name != removed);
        }
        let last = service.dir(service.store.snapshot("B").unwrap().id);
        assert_eq!(service.usage("B").unwrap(), on_disk(&[last.as_path()]));
    });
}
