//! What is found again, and what is put right, by the next process.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::ServiceError;
use erolith_errors::ErrorStatus;

#[test]
fn everything_is_found_again_and_nothing_is_mounted_twice() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        layer(&service, "B", "A");
        let mounts = service.prepare("k", "B", &none()).unwrap();
        let tree = MountedTree::of(&mounts, site.target("k"));
        write(&tree.join("written"), "before");
        drop(service);
        let service = site.open();
        assert_eq!(site.lowers(), ["l/1", "l/2"]);
        assert_eq!(service.mounts("k").unwrap(), mounts);
        assert_eq!(site.lowers(), ["l/1", "l/2"]);
        assert_eq!(tree.read("written"), "before");
        drop(tree);
        drop(service);
        // A reboot.
        unmount_below(site.state.path());
        let service = site.open();
        assert_eq!(service.mounts("k").unwrap(), mounts);
        assert_eq!(MountedTree::of(&mounts, site.target("k")).names(""), ["A", "B", "written"]);
    });
}

#[test]
fn a_second_daemon_is_refused_and_told_who_is_there() {
    with_mounts(|site| {
        let first = site.open();
        match Snapshotter::open(site.config()).unwrap_err() {
            Error::Service(ServiceError::InUse { pid, .. }) => {
                assert_eq!(pid, Some(std::process::id()))
            }
            other => panic!("{other}"),
        }
        let other = Config { root: site.dir.path().join("other"), ..site.config() };
        assert_eq!(Snapshotter::open(other).unwrap_err().code(), "in-use");
        drop(first);
        site.open();
    });
}

/// Numbers start again with every root: what is mounted as layer 1 must never be another root's.
#[test]
fn mounts_of_another_root_are_undone() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        let labels = labels(&[
            ("containerd.io/snapshot/uidmapping", "0:9:9"),
            ("containerd.io/snapshot/gidmapping", "0:9:9"),
        ]);
        service.view("v", "A", &labels).unwrap();
        assert_eq!(site.lowers().len(), 2);
        drop(service);
        fs::remove_dir_all(site.dir.path().join("root")).unwrap();
        let service = site.open();
        assert_eq!(site.lowers(), Vec::<String>::new());
        layer(&service, "other", "");
        let tree = MountedTree::of(&service.view("v", "other", &none()).unwrap(), site.target("v"));
        assert_eq!(tree.names(""), ["other"]);
    });
}

#[test]
fn leftovers_go_and_lost_directories_come_back_empty() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        std::os::unix::fs::chown(service.dir(1).join("fs"), Some(3), Some(4)).unwrap();
        service.prepare("lost", "A", &none()).unwrap();
        service.prepare("half", "A", &none()).unwrap();
        service.prepare("kept", "", &none()).unwrap();
        let kept = service.dir(4).join("fs/file");
        write(&kept, "kept");
        let lost = service.dir(2);
        fs::remove_dir_all(&lost).unwrap();
        fs::remove_dir_all(service.dir(3).join("fs")).unwrap();
        let snapshots = site.dir.path().join("root/snapshots");
        for name in ["new-1-0", "gone-0", "77", "notes"] {
            fs::create_dir_all(snapshots.join(name).join("deep/er")).unwrap();
            write(&snapshots.join(name).join("file"), "x");
        }
        drop(service);
        let service = site.open();
        service.cleanup().unwrap();
        assert_eq!(site.directories(), ["1", "2", "3", "4", "notes"]);
        assert_eq!(names_of(&lost).len(), 4);
        let upper = fs::metadata(lost.join("fs")).unwrap();
        assert_eq!((upper.uid(), upper.gid()), (3, 4));
        for key in ["lost", "half"] {
            let tree = MountedTree::of(&service.mounts(key).unwrap(), site.target(key));
            assert_eq!(tree.names(""), ["A"]);
        }
        assert_eq!(fs::read_to_string(kept).unwrap(), "kept");
    });
}

#[test]
fn a_lost_layer_is_reported_and_not_invented() {
    with_mounts(|site| {
        let service = site.open();
        let id = layer(&service, "A", "");
        fs::remove_dir_all(service.dir(id)).unwrap();
        drop(service);
        let service = site.open();
        assert_eq!(status(service.prepare("k", "A", &none())), ErrorStatus::DataLoss);
        service.remove("A").unwrap();
        service.cleanup().unwrap();
        assert_eq!(site.directories(), Vec::<String>::new());
    });
}

/// A power cut may take the upper directory that a commit exchanged, and not what was synced beside it.
#[test]
fn a_layer_without_an_upper_directory_is_not_lost() {
    with_mounts(|site| {
        let service = site.open();
        let id = layer(&service, "A", "");
        std::os::unix::fs::chown(service.dir(id).join("fs"), Some(3), Some(4)).unwrap();
        let (above, cut) = (layer(&service, "B", "A"), layer(&service, "C", "A"));
        let names = [service.dir(cut).join("layer.erofs"), service.dir(cut).join("commit.erofs")];
        fs::hard_link(&names[0], &names[1]).unwrap();
        for id in [above, cut] {
            fs::remove_dir_all(service.dir(id).join("fs")).unwrap();
        }
        drop(service);
        let service = site.open();
        service.cleanup().unwrap();
        assert!(!names[1].exists());
        for (parent, id) in [("B", above), ("C", cut)] {
            let upper = fs::metadata(service.dir(id).join("fs")).unwrap();
            assert_eq!((upper.uid(), upper.gid()), (3, 4));
            let key = format!("on {parent}");
            let tree = MountedTree::of(
                &service.prepare(&key, parent, &none()).unwrap(),
                site.target(parent),
            );
            assert_eq!(tree.names(""), ["A", parent]);
        }
    });
}

#[test]
fn a_lost_database_is_refused_and_not_taken_for_an_empty_one() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        drop(service);
        for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
            fs::remove_file(site.dir.path().join("root").join(name)).ok();
        }
        let error = Snapshotter::open(site.config()).unwrap_err();
        assert_eq!(
            (error.code(), error.status()),
            ("database-missing", ErrorStatus::FailedPrecondition)
        );
        assert!(site.directories().contains(&"1".to_owned()));
    });
}

#[test]
fn the_root_is_closed_to_others() {
    with_mounts(|site| {
        let root = site.dir.path().join("root");
        fs::DirBuilder::new().mode(0o755).create(&root).unwrap();
        drop(site.open());
        assert_eq!(mode(&root), 0o700);
        for (path, want) in [("snapshots", 0o700), ("images", 0o700), ("lock", 0o600)] {
            assert_eq!(mode(&root.join(path)), want, "{path}");
        }
        let foreign = site.dir.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).unwrap();
        write(&foreign.join("file"), "x");
        let config = Config { root: foreign.clone(), ..site.config() };
        assert_eq!(Snapshotter::open(config).unwrap_err().code(), "config");
        assert_eq!(mode(&foreign), 0o755);
    });
}
