//! Digests of images, damaged layers, and databases that knew neither.

use rusqlite::Connection;

use super::*;
use crate::protect::{Digest, Pin};

const DIGEST: &str = "sha256:13e9b8848ae484a36acb3f3cac0ceb2f7601e96633d15c92f9bd3dd44e492157";

fn pin(is_enforced: bool) -> Pin {
    Pin { digest: Digest::parse(DIGEST).unwrap(), is_enforced }
}

fn pinned(store: &Store, name: &str, parent: &str, pin: Pin) -> u64 {
    create(store, Kind::Active, "key", parent).unwrap();
    let usage = Usage { size: 7, inodes: 1 };
    let content = Content { usage, pin: Some(pin), ..Content::default() };
    store.commit(name, "key", "", &Labels::new(), content, &mut nowhere).unwrap().id
}

#[test]
fn a_digest_comes_with_the_commit_and_goes_with_the_layer() {
    let store = empty();
    for is_enforced in [true, false] {
        let id = pinned(&store, "layer", "", pin(is_enforced));
        assert_eq!(store.pin_of(id).unwrap(), Some(pin(is_enforced)));
        assert_eq!(store.usage("layer").unwrap().1, Usage { size: 7, inodes: 1 });
        assert_eq!(store.name_of(id).unwrap().as_deref(), Some("layer"));
        store.remove("layer").unwrap();
        assert_eq!((store.pin_of(id).unwrap(), store.name_of(id).unwrap()), (None, None));
    }
    let id = layer(&store, "without", "").id;
    assert_eq!(store.pin_of(id).unwrap(), None);
    let mut writer = lock(&store.writer);
    let bad = "INSERT INTO seals (snapshot, digest, enforced) VALUES (?1, 'md5:0', 1)";
    writer.connection().execute(bad, [rows::integer(id)]).unwrap();
    drop(writer);
    assert_eq!(status(store.pin_of(id)), ErrorStatus::DataLoss);
}

#[test]
fn a_damaged_layer_breaks_those_above_it_until_it_is_whole() {
    let store = empty();
    let low = pinned(&store, "low", "", pin(false));
    let other = pinned(&store, "other", "", pin(false));
    layer(&store, "high", "low");
    let view = create(&store, Kind::View, "view", "high").unwrap().id;
    assert!(!store.is_broken("high").unwrap() && store.damaged().unwrap().is_empty());
    assert!(store.set_damaged(low, "gone").unwrap());
    assert!(store.set_damaged(low, "said twice").unwrap());
    assert!(!store.set_damaged(view, "no layer").unwrap());
    assert!(!store.set_damaged(999, "nothing").unwrap());
    let store = store.reopened();
    assert_eq!(store.damaged().unwrap(), [(low, "gone".to_owned())].into());
    for (name, want) in
        [("low", true), ("high", true), ("other", false), ("view", false), ("none", false)]
    {
        assert_eq!(store.is_broken(name).unwrap(), want, "{name}");
    }
    let digest = pin(false).digest;
    assert_eq!(store.damaged_with(digest).unwrap(), [low]);
    store.set_damaged(other, "too").unwrap();
    assert_eq!(store.damaged_with(digest).unwrap(), [low, other]);
    store.set_healed(low, Some(pin(true)), None).unwrap();
    assert!(!store.is_broken("high").unwrap());
    assert_eq!(store.pin_of(low).unwrap(), Some(pin(true)));
    store.remove("other").unwrap();
    assert!(store.damaged().unwrap().is_empty());
}

/// A database as the first version wrote it, with a layer in it.
fn first() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let conn = Connection::open(database(&dir)).unwrap();
    schema::create_earlier(&conn, 1).unwrap();
    conn.execute_batch(
        "UPDATE ids SET next = 65;
         INSERT INTO snapshots (id, key, kind, created, updated, size) VALUES (1, 'old', 3, 5, 6, 9);
         INSERT INTO labels VALUES (1, 'a', 'b');",
    )
    .unwrap();
    dir
}

#[test]
fn an_older_database_is_made_one_of_this_version() {
    let dir = first();
    let store = Store::open(&database(&dir)).unwrap();
    let info = store.info("old").unwrap();
    assert_eq!((info.kind, info.labels), (Kind::Committed, labels(&[("a", "b")])));
    assert_eq!(store.pin_of(1).unwrap(), None);
    let id = pinned(&store, "new", "old", pin(true));
    drop(store);
    let store = Store::open(&database(&dir)).unwrap();
    assert_eq!(store.pin_of(id).unwrap(), Some(pin(true)));
    assert_eq!(store.usage("old").unwrap().1.size, 9);
    let version = lock(&store.writer)
        .connection()
        .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        .unwrap();
    assert_eq!(version, schema::VERSION);
}

/// What is in the way undoes all of it, and the older erolith can go on with what is there.
#[test]
fn a_migration_that_fails_changes_nothing() {
    let dir = first();
    let conn = Connection::open(database(&dir)).unwrap();
    // The second of the two new tables.
    conn.execute_batch("CREATE TABLE quarantine (theirs)").unwrap();
    drop(conn);
    let refused = error(Store::open(&database(&dir)));
    let said = erolith_errors::error_chain(&refused);
    assert!(said.contains("quarantine"), "{said}");
    let conn = Connection::open(database(&dir)).unwrap();
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let seals: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'seals'", (), |row| row.get(0))
        .unwrap();
    assert_eq!((version, seals), (1, 0));
    conn.execute_batch("DROP TABLE quarantine").unwrap();
    drop(conn);
    Store::open(&database(&dir)).unwrap();
}

/// A database of each earlier version, with the digest that version 2 knows.
#[test]
fn every_earlier_version_is_migrated() {
    for version in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let conn = Connection::open(database(&dir)).unwrap();
        schema::create_earlier(&conn, version).unwrap();
        drop(conn);
        let store = Store::open(&database(&dir)).unwrap();
        let id = pinned(&store, "layer", "", pin(false));
        assert_eq!(store.origin_of(id).unwrap(), None);
        assert_eq!(store.like(id).unwrap(), [id].into());
        drop(store);
        Store::open(&database(&dir)).unwrap();
    }
}
