//! Databases that are not what they should be.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use rusqlite::Connection;

use super::*;
use crate::store::DatabaseError;

/// A closed database with some snapshots in it.
fn closed() -> TempDir {
    let store = empty();
    layer(&store, "base", "");
    for n in 0..200 {
        let given = labels(&[("containerd.io/snapshot.ref", &format!("sha256:{n}"))]);
        let key = format!("key {n}");
        store.create(Kind::Active, &key, "base", &given, &mut nowhere).unwrap();
    }
    let Fixture { dir, store } = store;
    drop(store);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the log is gone after closing");
    dir
}

fn tampered(sql: &str) -> TempDir {
    let dir = closed();
    let conn = Connection::open(database(&dir)).unwrap();
    conn.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
    dir
}

fn refused(dir: &TempDir) -> Error {
    let before = fs::read(database(dir)).unwrap();
    let error = error(Store::open(&database(dir)));
    assert_eq!(fs::read(database(dir)).unwrap(), before, "the file is left as it was");
    assert!(error.to_string().contains("metadata.db"), "{error}");
    error
}

#[test]
fn a_newer_schema_is_refused_before_anything_is_changed() {
    let error = refused(&tampered("PRAGMA journal_mode = DELETE; PRAGMA user_version = 4"));
    assert!(
        matches!(error, Error::Database(DatabaseError::TooNew { version: 4, known: 3, .. })),
        "{error:?}"
    );
    assert_eq!(error.status(), ErrorStatus::FailedPrecondition);
    assert!(error.advice().is_some());
}

#[test]
fn databases_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let conn = Connection::open(database(&dir)).unwrap();
    conn.execute_batch("CREATE TABLE theirs (a)").unwrap();
    drop(conn);
    for version in [0, 1, 5] {
        let conn = Connection::open(database(&dir)).unwrap();
        conn.pragma_update(None, "user_version", version).unwrap();
        drop(conn);
        assert_eq!(refused(&dir).code(), "metadata-damaged");
    }
}

#[test]
fn files_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for content in [&b"no database\n"[..], &[0xff; 8192], &[0; 8192]] {
        File::create(database(&dir)).unwrap().write_all_at(content, 0).unwrap();
        let error = refused(&dir);
        assert_eq!((error.code(), error.status()), ("metadata-damaged", ErrorStatus::DataLoss));
    }
}

#[test]
fn an_empty_file_is_a_new_database() {
    let dir = tempfile::tempdir().unwrap();
    File::create(database(&dir)).unwrap();
    let store = Store::open(&database(&dir)).unwrap();
    layer(&store, "base", "");
}

#[test]
fn a_path_that_cannot_be_opened_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = error(Store::open(&dir.path().join("none/metadata.db")));
    assert_eq!((error.code(), error.status()), ("metadata", ErrorStatus::Internal));
    assert!(error.to_string().contains("none/metadata.db"), "{error}");
}

#[test]
fn changed_tables_are_refused() {
    for sql in [
        "DROP INDEX snapshots_by_parent",
        "DROP TABLE blobs",
        "ALTER TABLE blobs ADD COLUMN more TEXT",
        "DELETE FROM ids",
        "UPDATE ids SET next = 3",
        "UPDATE snapshots SET parent = 12345 WHERE id = 7",
        "UPDATE labels SET snapshot = 12345 WHERE snapshot = 7",
        "PRAGMA ignore_check_constraints = ON; UPDATE snapshots SET kind = 9 WHERE id = 7",
    ] {
        let error = refused(&tampered(sql));
        assert_eq!(error.code(), "metadata-damaged", "{sql}: {error}");
    }
}

/// Every page in turn is overwritten, or cut off with those behind it. Whatever opening finds, and whatever is asked
/// of what opens, the answer is an error of the store or a value.
#[test]
fn damaged_pages_are_typed_errors() {
    const PAGE: u64 = 4096;
    let dir = closed();
    let whole = fs::read(database(&dir)).unwrap();
    let pages = whole.len() as u64 / PAGE;
    assert!(pages > 8);
    for page in 0..pages {
        for cut in [false, true] {
            let file = OpenOptions::new().write(true).open(database(&dir)).unwrap();
            file.set_len(0).unwrap();
            file.write_all_at(&whole, 0).unwrap();
            if cut {
                file.set_len(page * PAGE + 100).unwrap();
            } else {
                file.write_all_at(&[0xa5; 4096], page * PAGE).unwrap();
            }
            match Store::open(&database(&dir)) {
                Ok(_) => panic!("page {page} was not missed"),
                Err(crate::Error::Store(error)) => {
                    assert_eq!(error.code(), "metadata-damaged", "page {page}: {error}");
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// Damage done while the store is open is an error of the call that reads it.
#[test]
fn chains_in_circles_end() {
    let store = empty();
    let low = layer(&store, "low", "").id;
    let high = layer(&store, "high", "low").id;
    create(&store, Kind::View, "view", "high").unwrap();
    let mut writer = lock(&store.writer);
    writer
        .connection()
        .execute("UPDATE snapshots SET parent = ?1 WHERE id = ?2", [rows::integer(high), 1])
        .unwrap();
    drop(writer);
    for outcome in [
        store.snapshot("view").map(|_| ()),
        store.usage("high").map(|_| ()),
        create(&store, Kind::Active, "new", "high").map(|_| ()),
    ] {
        let error = error(outcome);
        assert_eq!(error.status(), ErrorStatus::DataLoss);
        assert!(error.to_string().contains("metadata.db"), "{error}");
    }
    assert_eq!(store.lowers_in_use().unwrap(), [low, high].into());
    assert_eq!(status(store.info("new")), ErrorStatus::NotFound);
}
