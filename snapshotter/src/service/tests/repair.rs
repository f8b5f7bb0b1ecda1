//! A database is lost or damaged, and made again of the records: every snapshot is what it was.

use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::*;
use crate::layerdir::DAMAGED;
use crate::layerdir::record::{COMMITTING, RECORD};
use crate::repair::{Done, Inconsistency, Repair};
use crate::store::{Health, Snapshot};

/// Everything that callers can see of a service, and what its mounts have.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    infos: Vec<Info>,
    snapshots: Vec<Snapshot>,
    usages: Vec<Usage>,
    damaged: Vec<(u64, String)>,
    pins: Vec<bool>,
    trees: Vec<(String, Vec<String>)>,
}

fn see(site: &Site, service: &Snapshotter) -> Seen {
    let infos = service.list(&Filters::parse(&[]).unwrap()).unwrap();
    let snapshots: Vec<_> =
        infos.iter().map(|info| service.store.snapshot(&info.name).unwrap()).collect();
    let usages = infos.iter().map(|info| service.usage(&info.name).unwrap()).collect();
    let damaged = service.store.damaged().unwrap().into_iter().collect();
    let pins = snapshots.iter().map(|s| service.store.pin_of(s.id).unwrap().is_some()).collect();
    let mut trees = Vec::new();
    for info in infos.iter().filter(|info| info.kind != Kind::Committed) {
        if let Ok(mounts) = service.mounts(&info.name) {
            let tree = MountedTree::of(&mounts, site.target("see"));
            trees.push((info.name.clone(), tree.names("")));
        }
    }
    Seen { infos, snapshots, usages, damaged, pins, trees }
}

fn root(site: &Site) -> PathBuf {
    site.config().root
}

fn lose(site: &Site) {
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        fs::remove_file(root(site).join(name)).ok();
    }
}

fn overwrite(site: &Site) {
    for name in ["metadata.db-wal", "metadata.db-shm"] {
        fs::remove_file(root(site).join(name)).ok();
    }
    let file = File::options().write(true).open(root(site).join("metadata.db")).unwrap();
    file.write_all_at(&[0x5A; 3 * 4096], 2048).unwrap();
}

fn truncate(site: &Site) {
    lose(site);
    File::create(root(site).join("metadata.db")).unwrap();
}

/// Chains, actives with labels and with a parent, views, one whose labels changed, a removed one, and a damaged one.
fn fill(site: &Site, service: &Snapshotter) {
    layer(service, "A", "");
    layer(service, "B", "A");
    layer(service, "C", "B");
    let mut said = labels(&[("containerd.io/snapshot.ref", "x"), ("empty", ""), ("a", "\"b\"\n")]);
    service.prepare("k", "C", &said).unwrap();
    service.prepare("alone", "", &none()).unwrap();
    write(&service.dir(service.store.snapshot("k").unwrap().id).join("fs/own"), "own");
    service.view("v", "B", &said).unwrap();
    said.insert("new".to_owned(), "label".to_owned());
    service.update("k", &said, &UpdateMask::All).unwrap();
    let only = labels(&[("one", "1")]);
    service.update("B", &only, &UpdateMask::Paths(vec!["labels.one".to_owned()])).unwrap();
    service.prepare("going", "", &none()).unwrap();
    service.remove("going").unwrap();
    // Damaged, and quarantined by the first call that needs it.
    let id = layer(service, "D", "");
    service.view("on D", "D", &none()).unwrap();
    service.remove("on D").unwrap();
    service.cleanup().unwrap();
    let image = service.dir(id).join(layerdir::IMAGE);
    fs::remove_file(&image).unwrap();
    File::create(&image).unwrap();
    assert_eq!(status(service.view("on D", "D", &none())), erolith_errors::ErrorStatus::DataLoss);
    assert!(image.with_file_name(DAMAGED).exists());
    // Rebased: the parent is newer.
    let mounts = service.prepare("low", "", &none()).unwrap();
    let tree = site.dir.path().join("tree");
    fs::create_dir_all(&tree).unwrap();
    apply(&mounts, &tree);
    layer(service, "E", "");
    service.commit("rebased", "low", "E", &only).unwrap();
}

fn repaired(site: &Site, force: bool) -> Done {
    patiently(is_in_use, || Repair::open(&root(site), force)).unwrap().run().unwrap()
}

#[test]
fn every_snapshot_is_what_it_was() {
    for break_it in [lose as fn(&Site), overwrite, truncate] {
        with_mounts(|site| {
            let service = site.open();
            fill(site, &service);
            service.cleanup().unwrap();
            let before = see(site, &service);
            assert!(before.damaged.len() == 1 && before.trees.len() == 3, "{before:?}");
            // While it runs, repair refuses.
            assert_eq!(Repair::open(&root(site), true).unwrap_err().code(), "in-use");
            let last = service
                .store
                .snapshot("rebased")
                .unwrap()
                .id
                .max(service.store.snapshot("E").unwrap().id);
            drop(service);
            break_it(site);
            let error = Snapshotter::open(site.config()).unwrap_err();
            assert!(error.advice().unwrap().contains("erolith repair"), "{error}");
            let repair = Repair::open(&root(site), false).unwrap();
            assert!(!matches!(repair.health(), Health::Sound));
            assert_eq!(repair.plan().problems, []);
            let done = repair.run().unwrap();
            assert_eq!(done.lost, []);
            drop(repair);
            let service = site.open();
            assert_eq!(see(site, &service), before);
            service.cleanup().unwrap();
            assert_eq!(see(site, &service), before);
            service.prepare("more", "C", &none()).unwrap();
            assert!(service.store.snapshot("more").unwrap().id > last);
        });
    }
}

#[test]
fn a_sound_database_is_repaired_only_by_force_and_is_kept() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        drop(service);
        assert_eq!(Repair::open(&root(site), false).unwrap_err().code(), "database-sound");
        let done = repaired(site, true);
        let kept = done.kept.unwrap();
        assert_eq!(kept, root(site).join("metadata.db.damaged-1"));
        assert_eq!(Store::health(&kept).unwrap(), Health::Sound);
        assert_eq!(repaired(site, true).kept.unwrap(), root(site).join("metadata.db.damaged-2"));
        site.open().stat("A").unwrap();
    });
}

#[test]
fn directories_without_a_record_are_moved_and_not_deleted() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        layer(&service, "B", "A");
        service.prepare("k", "", &none()).unwrap();
        service.prepare("k2", "", &none()).unwrap();
        let [b, k] = ["B", "k"].map(|key| service.store.snapshot(key).unwrap().id);
        write(&service.dir(k).join("fs/file"), "kept");
        fs::remove_file(service.dir(k).join(RECORD)).unwrap();
        let a = service.store.snapshot("A").unwrap().id;
        write(&service.dir(a).join(RECORD), "{");
        let [image, snapshots] = [service.dir(b).join(layerdir::IMAGE), service.snapshots.clone()];
        drop(service);
        lose(site);
        let repair = Repair::open(&root(site), false).unwrap();
        let faults: Vec<_> =
            repair.plan().problems.iter().map(|p| (p.id, p.fault.code())).collect();
        assert_eq!(faults, [(a, "record-form"), (b, "parent-missing"), (k, "no-record")]);
        assert_eq!(repair.plan().problems[1].fault, Inconsistency::ParentMissing(a));
        assert!(image.exists(), "nothing was changed yet");
        let done = repair.run().unwrap();
        drop(repair);
        let lost = root(site).join("lost");
        assert_eq!(done.lost, [a, b, k].map(|id| (id, lost.join(id.to_string()))));
        let service = site.open();
        service.cleanup().unwrap();
        assert_eq!(fs::read_to_string(lost.join(k.to_string()).join("fs/file")).unwrap(), "kept");
        assert!(lost.join(b.to_string()).join(layerdir::IMAGE).exists());
        assert_eq!(names_of(&snapshots).len(), 1);
        service.stat("k2").unwrap();
    });
}

#[test]
fn roots_from_before_get_their_records_at_the_next_start() {
    with_mounts(|site| {
        let service = site.open();
        fill(site, &service);
        service.cleanup().unwrap();
        let before = see(site, &service);
        for (n, name) in site.directories().iter().enumerate() {
            let record = service.snapshots.join(name).join(RECORD);
            fs::remove_file(&record).unwrap();
            if n % 2 == 0 {
                File::create(&record).unwrap();
            }
        }
        drop(service);
        drop(site.open());
        lose(site);
        assert_eq!(repaired(site, false).lost, []);
        assert_eq!(see(site, &site.open()), before);
    });
}

/// Not a test: what the other tests run in a process of its own.
#[test]
fn child() {
    let Some(root) = std::env::var_os("EROLITH_TEST_REPAIR") else { return };
    Repair::open(Path::new(&root), false).unwrap().run().unwrap();
}

fn killed(site: &Site, point: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "service::tests::repair::child", "--nocapture"])
        .env("EROLITH_TEST_REPAIR", root(site))
        .env("EROLITH_FAULTS", format!("{point}=kill"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.signal(), Some(9), "{point}: {said}");
}

#[test]
fn killed_at_every_point_it_can_be_started_over() {
    let points =
        erolith_durable::fault::SNAPSHOT_POINTS.iter().filter(|point| point.starts_with("repair."));
    for point in points {
        with_mounts(|site| {
            let service = site.open();
            fill(site, &service);
            service.prepare("unknown", "", &none()).unwrap();
            let unknown = service.store.snapshot("unknown").unwrap().id;
            service.cleanup().unwrap();
            fs::remove_file(service.dir(unknown).join(RECORD)).unwrap();
            drop(service);
            overwrite(site);
            write(&root(site).join("metadata.db-wal"), "not of this one");
            killed(site, point);
            if *point == "repair.after_name" {
                assert_eq!(Repair::open(&root(site), false).unwrap_err().code(), "database-sound");
            } else {
                // Neither old nor new is taken for what it is not, and nothing is deleted.
                Snapshotter::open(site.config()).unwrap_err();
                repaired(site, false);
            }
            let old = root(site).join("metadata.db.damaged-1");
            assert!(old.exists() && old.with_file_name("metadata.db.damaged-1-wal").exists());
            let service = site.open();
            service.cleanup().unwrap();
            assert!(root(site).join("lost").join(unknown.to_string()).join("fs").exists());
            assert_eq!(service.list(&Filters::parse(&[]).unwrap()).unwrap().len(), 9, "{point}");
            assert!(!root(site).join("metadata.db.new").exists());
        });
    }
}

#[test]
fn a_commit_that_was_cut_short_is_one_of_both() {
    for (point, is_committed) in [
        ("commit.after_link", false),
        ("commit.after_record", true),
        ("commit.before_transaction", true),
        ("commit.after_transaction", true),
        ("commit.after_upper", true),
    ] {
        for is_lost in [true, false] {
            with_mounts(|site| {
                super::faults::kill(site, &format!("{point}=kill"));
                if is_lost {
                    lose(site);
                    assert_eq!(repaired(site, false).lost, [], "{point}");
                }
                let service = site.open();
                service.cleanup().unwrap();
                if is_lost {
                    assert_eq!(service.stat("A").is_ok(), is_committed, "{point}");
                }
                assert_ne!(service.stat("A").is_ok(), service.stat("making A").is_ok(), "{point}");
                let id = match service.store.snapshot("A") {
                    Ok(snapshot) => snapshot.id,
                    Err(_) => {
                        service.commit("A", "making A", "", &none()).unwrap();
                        service.store.snapshot("A").unwrap().id
                    }
                };
                let tree =
                    MountedTree::of(&service.view("v", "A", &none()).unwrap(), site.target("v"));
                assert_eq!(tree.read("A"), "A");
                drop(tree);
                assert!(!service.dir(id).join(COMMITTING).exists(), "{point}");
                let before = see(site, &service);
                drop(service);
                lose(site);
                assert_eq!(repaired(site, false).lost, [], "{point}");
                assert_eq!(see(site, &site.open()), before, "{point}");
            });
        }
    }
}

#[test]
fn a_commit_that_failed_leaves_the_record_of_an_active_snapshot() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        service.prepare("k", "", &none()).unwrap();
        let id = service.store.snapshot("k").unwrap().id;
        write(&service.dir(id).join("fs/file"), "x");
        assert_eq!(
            status(service.commit("B", "k", "none", &none())),
            erolith_errors::ErrorStatus::NotFound
        );
        assert!(!service.dir(id).join(COMMITTING).exists());
        let before = see(site, &service);
        drop(service);
        lose(site);
        repaired(site, false);
        assert_eq!(see(site, &site.open()), before);
    });
}
