//! What survives: reopening, panics, kill -9, a full disk; and reads at the same time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Signal, geteuid, getpid, kill_process};

use super::*;

#[test]
fn a_store_reopened_knows_everything() {
    let store = empty();
    layer(&store, "base", "");
    let given = labels(&[("containerd.io/snapshot.ref", "sha256:a")]);
    let made = store.create(Kind::Active, "key", "base", &given, &mut nowhere).unwrap();
    create(&store, Kind::View, "gone", "base").unwrap();
    let last = store.remove("gone").unwrap().id;
    let infos = store.list(&Filters::default()).unwrap();
    let store = store.reopened();
    assert_eq!(store.list(&Filters::default()).unwrap(), infos);
    assert_eq!(store.snapshot("key").unwrap(), made);
    assert!(create(&store, Kind::View, "new", "").unwrap().id > last, "no id comes again");
}

/// Twice as many as are reserved at a time, with failures, removals and restarts between.
#[test]
fn ids_never_come_again() {
    let mut store = empty();
    let mut last = 0;
    for round in 0..150 {
        let mut placed = 0;
        let outcome = store.create(Kind::Active, "key", "", &Labels::new(), &mut |snapshot| {
            placed = snapshot.id;
            if round % 3 == 0 {
                Err(crate::Error::Mount(crate::MountError::NoLayers))
            } else {
                Ok(())
            }
        });
        assert!(placed > last, "{placed} after {last}");
        last = placed;
        if outcome.is_ok() {
            store.remove("key").unwrap();
        }
        if round % 40 == 39 {
            store = store.reopened();
        }
    }
    assert!(last < 1000, "restarts cost few ids: {last}");
}

#[test]
fn readers_go_on_while_a_list_is_held_and_a_layer_is_placed() {
    let store = empty();
    layer(&store, "base", "");
    let before = store.info("base").unwrap();
    let seen = store.read(|conn| {
        let mut list = conn.prepare(sql::IDS)?;
        let mut rows = list.query(())?;
        assert!(rows.next()?.is_some(), "a list is under way");
        // Others read and write, from this thread and from another.
        assert_eq!(store.info("base").unwrap(), before);
        thread::scope(|scope| {
            scope.spawn(|| {
                let placing = &mut |_: &Snapshot| {
                    assert_eq!(status(store.info("key")), ErrorStatus::NotFound, "not there yet");
                    assert_eq!(store.info("base").unwrap(), before);
                    Ok(())
                };
                store.create(Kind::Active, "key", "base", &Labels::new(), placing).unwrap();
            });
        });
        assert!(store.info("key").is_ok(), "a later read sees it");
        // The list sees what was there when it began.
        Ok(1 + rows.mapped(|_| Ok(())).count())
    });
    assert_eq!(seen.unwrap(), 1);
}

#[test]
fn many_threads_make_and_read_snapshots() {
    let store = empty();
    layer(&store, "base", "");
    let mut ids: Vec<u64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let store = &store;
                scope.spawn(move || {
                    let mut ids = Vec::new();
                    for n in 0..20 {
                        let key = format!("{worker}/{n}");
                        ids.push(create(store, Kind::Active, &key, "base").unwrap().id);
                        assert_eq!(store.info(&key).unwrap().parent, "base");
                        assert!(!store.list(&Filters::default()).unwrap().is_empty());
                    }
                    ids
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 160);
    assert_eq!(store.ids().unwrap().len(), 161);
}

/// One key, many callers: one makes it, the others are told.
#[test]
fn a_key_is_made_once() {
    let store = empty();
    let made: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| create(&store, Kind::Active, "key", "").is_ok()))
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|&&ok| ok).count(), 1);
}

/// Who lists directories and then asks for ids must not miss a directory whose row is not yet to be seen.
#[test]
fn ids_wait_for_what_is_being_placed() {
    let store = empty();
    let (placed, is_placed) = channel();
    let (go, may_go) = channel();
    thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            let placing = &mut |snapshot: &Snapshot| {
                placed.send(snapshot.id).unwrap();
                may_go.recv().unwrap();
                Ok(())
            };
            store.create(Kind::Active, "key", "", &Labels::new(), placing).unwrap();
        });
        let id = is_placed.recv().unwrap();
        let ids = scope.spawn(|| store.ids().unwrap());
        thread::sleep(std::time::Duration::from_millis(50));
        assert!(!ids.is_finished());
        go.send(()).unwrap();
        assert_eq!(ids.join().unwrap(), [id].into());
    });
}

#[test]
fn a_panic_while_placing_leaves_nothing() {
    let store = empty();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        store.create(Kind::Active, "key", "", &Labels::new(), &mut |_| panic!("on purpose"))
    }));
    assert!(outcome.is_err());
    assert_eq!(status(store.info("key")), ErrorStatus::NotFound);
    create(&store, Kind::Active, "key", "").unwrap();
}

const KILL_IN: &str = "EROLITH_TEST_STORE_TO_KILL";

/// Runs in a process of its own, which dies with its changes in the middle. Elsewhere it does nothing.
#[test]
fn a_process_to_be_killed() {
    let Some(path) = std::env::var_os(KILL_IN) else { return };
    let store = Store::open(Path::new(&path)).unwrap();
    layer(&store, "done", "");
    create(&store, Kind::Active, "key", "").unwrap();
    let _ = store.commit("name", "key", "done", &Labels::new(), Usage::default(), &mut |_| {
        kill_process(getpid(), Signal::KILL).unwrap();
        Ok(())
    });
}

#[test]
fn a_process_killed_while_placing_leaves_what_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::durability::a_process_to_be_killed"])
        .env(KILL_IN, database(&dir))
        .status()
        .unwrap();
    assert_eq!(status.code(), None, "it was killed");
    let store = Store::open(&database(&dir)).unwrap();
    assert_eq!(names(&store), ["done", "key"]);
    assert_eq!(store.info("key").unwrap().kind, Kind::Active);
    assert_eq!(store.info("key").unwrap().parent, "");
}

/// The database may not grow: no change is kept in part, and all goes on when there is room.
#[test]
fn a_full_database_is_a_typed_error() {
    let store = empty();
    layer(&store, "base", "");
    let limit = |pages: &str| {
        let mut writer = lock(&store.writer);
        let sql = format!("PRAGMA max_page_count = {pages}");
        writer.connection().query_row(&sql, (), |row| row.get::<_, i64>(0)).unwrap()
    };
    limit("1");
    let big = labels(&[("a", &"v".repeat(100_000))]);
    let error = error(store.create(Kind::Active, "key", "base", &big, &mut nowhere));
    assert_eq!(
        (error.code(), error.status()),
        ("metadata-disk-full", ErrorStatus::ResourceExhausted)
    );
    assert!(error.to_string().contains("metadata.db"), "{error}");
    assert_eq!(names(&store), ["base"]);
    store.remove("base").unwrap();
    limit("1000000");
    store.create(Kind::Active, "key", "", &big, &mut nowhere).unwrap();
}

/// Unmounts when the test ends, also when it fails.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_a_typed_error() {
    if !geteuid().is_root() {
        println!("skipped: a filesystem of its own needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"size=1m").unwrap();
    let mounted = Mounted(dir.path());
    let store = Store::open(&database(&dir)).unwrap();
    let filler = dir.path().join("filler");
    std::fs::File::create(&filler).unwrap();
    let fill = || {
        let mut file = std::fs::OpenOptions::new().append(true).open(&filler).unwrap();
        while std::io::Write::write(&mut file, &[1; 4096]).is_ok_and(|n| n > 0) {}
    };
    fill();
    let mut made = 0;
    let error = loop {
        match create(&store, Kind::Active, &format!("{made}"), "") {
            Ok(_) => made += 1,
            Err(crate::Error::Store(error)) => break error,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(
        (error.code(), error.status()),
        ("metadata-disk-full", ErrorStatus::ResourceExhausted)
    );
    assert_eq!(names(&store).len(), made, "what was answered is there, and nothing else");
    std::fs::File::create(&filler).unwrap();
    create(&store, Kind::Active, "again", "").unwrap();
    drop(store);
    assert_eq!(names(&Store::open(&database(&dir)).unwrap()).len(), made + 1);
    drop(mounted);
}
