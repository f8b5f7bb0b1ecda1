//! The process is killed, or a step fails, at every point there is. Whatever happens, the next start and one cleanup
//! leave what was acknowledged, whole, and nothing else (invariants I1 to I5), and the same requests can be made
//! again.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use erolith_durable::fault::SNAPSHOT_POINTS as POINTS;
use erolith_errors::ErrorStatus;
use erolith_mkfs::check::{Limits, check};

use super::*;
use crate::store;

const DIFF_ID: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Tells the child what to do.
const ROLE: &str = "EROLITH_TEST_ROLE";

fn missing(service: &Snapshotter, key: &str) -> bool {
    match service.stat(key) {
        Ok(_) => false,
        Err(error) if error.status() == ErrorStatus::NotFound => true,
        Err(error) => panic!("{error}"),
    }
}

/// Where a container writes to: that of B has a limit.
fn upper(service: &Snapshotter, name: &str, id: u64) -> PathBuf {
    match (name, limit_by()) {
        ("B", LimitBy::Image) => service.uppers.upper(id),
        _ => service.dir(id).join(layerdir::UPPER),
    }
}

/// The points that the story passes, here: a limit is kept by one of two ways.
fn points() -> impl Iterator<Item = &'static str> {
    let other = if limit_by() == LimitBy::Image { "quota." } else { "upper." };
    let elsewhere = ["recover.", "repair.", "heal.", other];
    let is_passed = move |point: &&str| !elsewhere.iter().any(|begin| point.starts_with(begin));
    POINTS.iter().copied().filter(is_passed)
}

/// A layer, if it is not there yet: prepared, written by a container, committed.
fn step(service: &Snapshotter, name: &str, parent: &str, done: &mut dyn FnMut(&str)) -> Result<()> {
    if !missing(service, name) {
        return Ok(());
    }
    let key = format!("making {name}");
    if missing(service, &key) {
        let labels = if name == "B" { limited() } else { none() };
        service.prepare(&key, parent, &labels)?;
        done(&format!("prepared {name}"));
    }
    service.mounts(&key)?;
    let id = service.store.snapshot(&key)?.id;
    write(&upper(service, name, id).join(name), name);
    done(&format!("written {name}"));
    service.commit(name, &key, "", &none())?;
    done(&format!("committed {name}"));
    Ok(())
}

/// What is done, again and again, until all of it has been done. `done` hears what was acknowledged.
fn story(service: &Snapshotter, done: &mut dyn FnMut(&str)) -> Result<()> {
    step(service, "A", "", done)?;
    step(service, "B", "A", done)?;
    let base = service.dir(service.store.snapshot("A")?.id).join(layerdir::IMAGE);
    service.images().keep(DIFF_ID, &base, BLOB)?;
    let unpack =
        labels(&[("containerd.io/snapshot.ref", "c"), ("containerd.io/snapshot/diff-id", DIFF_ID)]);
    for (key, parent, labels) in [("hit", "", unpack), ("k", "B", none())] {
        if missing(service, key) {
            service.prepare_staged(key, parent, &labels, &STAGES)?;
        }
    }
    if missing(service, "v") {
        service.view("v", "A", &none())?;
    }
    for key in ["v", "hit"] {
        service.remove(key)?;
    }
    service.cleanup()
}

fn child_config() -> Config {
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let state = path("EROLITH_TEST_STATE");
    Config { state, limit_by: limit_by(), ..Config::new(path("EROLITH_TEST_ROOT")) }
}

/// Not a test: what the other tests run in a process of its own.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let log = PathBuf::from(std::env::var_os("EROLITH_TEST_ROOT").unwrap()).with_extension("log");
    let mut log = File::options().create(true).append(true).open(log).unwrap();
    let mut done = |text: &str| log.write_all(format!("{text}\n").as_bytes()).unwrap();
    if role == "killed" {
        story(&Snapshotter::open(child_config()).unwrap(), &mut done).unwrap();
        return;
    }
    // The first request that fails says why, and the same process goes on.
    let service = match Snapshotter::open(child_config()) {
        Ok(service) => service,
        Err(error) => {
            assert_eq!(error.status(), ErrorStatus::ResourceExhausted, "{error}");
            Snapshotter::open(child_config()).unwrap()
        }
    };
    if let Err(error) = story(&service, &mut done) {
        assert_eq!(error.status(), ErrorStatus::ResourceExhausted, "{error}");
        story(&service, &mut done).unwrap();
    }
}

/// Runs the story in a process of its own. Returns whether it was killed.
fn run(site: &Site, role: &str, faults: &str) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "service::tests::faults::child", "--nocapture"])
        .env(ROLE, role)
        .env("EROLITH_TEST_ROOT", site.config().root)
        .env("EROLITH_TEST_STATE", site.config().state)
        .env("EROLITH_FAULTS", faults)
        .output()
        .unwrap();
    let was_killed = output.status.signal() == Some(9);
    let text = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(was_killed || output.status.success(), "{faults}: {text}{said}");
    was_killed
}

/// The story, cut short there.
pub(super) fn kill(site: &Site, fault: &str) {
    assert!(run(site, "killed", fault), "{fault}");
}

fn acknowledged(site: &Site) -> BTreeSet<String> {
    let log = fs::read_to_string(site.config().root.with_extension("log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// I1: the database is whole. I2: every layer has its image, and the image is good. I3: every parent is there.
fn check_rows(site: &Site, service: &Snapshotter, fault: &str) {
    let database = rusqlite::Connection::open(site.config().root.join("metadata.db")).unwrap();
    let verdict: String = database.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(verdict, "ok", "{fault}");
    for info in service.list(&store::Filters::parse(&[]).unwrap()).unwrap() {
        let id = service.store.snapshot(&info.name).unwrap().id;
        assert!(info.parent.is_empty() || !missing(service, &info.parent), "{fault}");
        if info.kind == Kind::Committed {
            let image = File::open(service.dir(id).join(layerdir::IMAGE)).unwrap();
            let report = check(&image, &[], &Limits::default()).unwrap();
            assert!(report.is_clean(), "{fault}: {:?}", report.findings);
        } else {
            service.mounts(&info.name).unwrap();
        }
    }
}

/// What was acknowledged is there, and says what it said.
fn check_promises(site: &Site, service: &Snapshotter, fault: &str) {
    let acknowledged = acknowledged(site);
    for (name, parent) in [("A", ""), ("B", "A")] {
        let key = format!("making {name}");
        if acknowledged.contains(&format!("committed {name}")) {
            let info = service.stat(name).unwrap_or_else(|e| panic!("{fault}: {e}"));
            assert_eq!((info.kind, info.parent.as_str()), (Kind::Committed, parent), "{fault}");
        }
        if !missing(service, name) {
            assert!(missing(service, &key), "{fault}");
            let mounts = service.view("promise", name, &none()).unwrap();
            let tree = MountedTree::of(&mounts, site.target("promise"));
            assert_eq!(tree.read(name), name, "{fault}");
            drop(tree);
            service.remove("promise").unwrap();
        } else if acknowledged.contains(&format!("written {name}")) {
            let id = service.store.snapshot(&key).unwrap_or_else(|e| panic!("{fault}: {e}")).id;
            let file = upper(service, name, id).join(name);
            assert_eq!(fs::read_to_string(file).unwrap(), name, "{fault}");
            assert_ne!(service.mounts(&key).unwrap()[0].options[0], "ro", "{fault}");
        } else if acknowledged.contains(&format!("prepared {name}")) {
            assert!(!missing(service, &key), "{fault}");
        }
    }
}

/// I4: each directory has its row after one cleanup, and nothing else is left in it. I5: each mount is used.
fn check_places(site: &Site, service: &Snapshotter, fault: &str) {
    service.cleanup().unwrap();
    let ids: BTreeSet<_> = service.store.ids().unwrap().iter().map(u64::to_string).collect();
    assert_eq!(BTreeSet::from_iter(site.directories()), ids, "{fault}");
    for id in &ids {
        let dir = service.snapshots.join(id);
        assert!(!dir.join(layerdir::CONVERTED).exists(), "{fault}");
        assert!(dir.join(layerdir::UPPER).is_dir(), "{fault}");
        // With one of the two, and neither once it is a layer.
        let limits = [layerdir::WORK, layerdir::RWLAYER].map(|name| dir.join(name).exists());
        assert_ne!(limits, [true, true], "{fault}");
    }
    let used = service.store.lowers_in_use().unwrap();
    let active = service.store.ids().unwrap();
    for lower in site.lowers() {
        let name = lower.split('/').nth(1).unwrap();
        let id: u64 = name.trim_end_matches('v').parse().unwrap();
        assert!(used.contains(&id) || active.contains(&id), "{fault}: {lower}");
    }
}

/// All of it, then the rest of the story, then the end of everything.
fn check_all(site: &Site, fault: &str) {
    let service = site.open();
    check_rows(site, &service, fault);
    check_promises(site, &service, fault);
    check_places(site, &service, fault);
    story(&service, &mut |_| {}).unwrap_or_else(|e| panic!("{fault}: {e}"));
    check_rows(site, &service, fault);
    for key in ["k", "B", "A"] {
        service.remove(key).unwrap();
    }
    service.cleanup().unwrap();
    assert_eq!(site.directories(), Vec::<String>::new(), "{fault}");
    assert_eq!(site.lowers(), Vec::<String>::new(), "{fault}");
    assert_eq!(service.images().find(DIFF_ID), None, "{fault}");
    quota::wait_for_projects(site, &[], fault);
    for space in ["l", "w"] {
        assert_eq!(names_of(&site.state.path().join(space)), Vec::<String>::new(), "{fault}");
    }
}

#[test]
fn killed_at_every_point() {
    for point in points() {
        for visit in 1..=3 {
            with_mounts(|site| {
                let fault = format!("{point}=kill:{visit}");
                let was_killed = run(site, "killed", &fault);
                assert!(was_killed || visit > 1, "{fault} did not happen");
                check_all(site, &fault);
            });
        }
    }
}

#[test]
fn killed_while_recovering() {
    for point in POINTS
        .iter()
        .filter(|point| point.starts_with("recover."))
        .chain(&["commit.after_upper", "commit.after_work"])
    {
        for before in ["commit.after_link", "commit.after_transaction", "commit.after_upper"] {
            with_mounts(|site| {
                assert!(run(site, "killed", &format!("{before}=kill:2")));
                // A directory that a power cut took.
                if *point == "recover.after_directory" && before == "commit.after_link" {
                    let service = site.open();
                    service.prepare("lost", "", &none()).unwrap();
                    let lost = service.dir(service.store.snapshot("lost").unwrap().id);
                    fs::remove_dir_all(lost).unwrap();
                    drop(service);
                    assert!(run(site, "killed", &format!("{point}=kill")));
                    let service = site.open();
                    service.remove("lost").unwrap();
                } else {
                    run(site, "killed", &format!("{point}=kill"));
                }
                check_all(site, &format!("{before}, {point}"));
            });
        }
    }
}

#[test]
fn failing_at_every_point_for_want_of_space() {
    for point in points() {
        for visit in 1..=2 {
            with_mounts(|site| {
                let fault = format!("{point}=error(ENOSPC):{visit}");
                assert!(!run(site, "failing", &fault));
                check_all(site, &fault);
            });
        }
    }
}
