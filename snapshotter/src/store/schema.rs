//! The tables, and the judgement of a database found on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::{Connection, TransactionBehavior};

use super::error::{DatabaseError, Error, Result};

/// The version this code reads and writes, kept in `user_version`.
pub(super) const VERSION: i64 = 3;

/// `EROL` in `application_id`: tells our databases from others with a `user_version`.
const APPLICATION: i64 = 0x4552_4f4c;

/// The tables of version 1.
///
/// `ids.next` is the first id that was never reserved. `blobs.seq` orders what was learned, so that the oldest goes
/// first. Times are nanoseconds since 1970.
const TABLES_1: &str = "
CREATE TABLE ids (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    next INTEGER NOT NULL CHECK (next > 0)
) STRICT;
INSERT INTO ids (one, next) VALUES (1, 1);
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY CHECK (id > 0),
    key TEXT NOT NULL UNIQUE CHECK (key <> ''),
    parent INTEGER REFERENCES snapshots (id) ON DELETE RESTRICT,
    kind INTEGER NOT NULL CHECK (kind IN (1, 2, 3)),
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL CHECK (updated >= created),
    size INTEGER NOT NULL DEFAULT 0 CHECK (size >= 0),
    inodes INTEGER NOT NULL DEFAULT 0 CHECK (inodes >= 0)
) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (parent);
CREATE TABLE labels (
    snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (snapshot, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE blobs (
    seq INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    diff_id TEXT NOT NULL,
    size INTEGER NOT NULL CHECK (size >= 0)
) STRICT;
";

/// The tables that version 2 has besides.
///
/// `seals` has the fs-verity digests of layers, and whether the kernel held the image against it when it was committed.
/// `quarantine` has the layers that were found damaged. `trees` has what the dm-verity sidecars of layers said then.
/// Tables of their own, and no columns: a table that is altered does not have the text of one that is made.
const TABLES_2: &str = "
CREATE TABLE seals (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE,
    digest TEXT NOT NULL CHECK (digest <> ''),
    enforced INTEGER NOT NULL CHECK (enforced IN (0, 1))
) STRICT;
CREATE TABLE quarantine (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE,
    reason TEXT NOT NULL
) STRICT;
CREATE TABLE trees (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE,
    root TEXT NOT NULL CHECK (root <> ''),
    hash_offset INTEGER NOT NULL CHECK (hash_offset > 0)
) STRICT;
";

/// What version 3 has besides.
///
/// Snapshots are found by the chain that a layer ends and by its diffID. The statements name the labels as the index does,
/// or SQLite would not use it. `origins` says where the image of a layer came from: its diffID, and an [`super::Origin`] as
/// JSON. The index over `seals` finds the layers that may share an image.
const TABLES_3: &str = "
CREATE INDEX labels_of_layers ON labels (key, value)
WHERE key = 'containerd.io/snapshot.ref' OR key = 'containerd.io/snapshot/diff-id';
CREATE TABLE origins (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE,
    diff_id TEXT NOT NULL CHECK (diff_id <> ''),
    origin TEXT NOT NULL CHECK (origin <> '')
) STRICT;
CREATE INDEX origins_by_diff_id ON origins (diff_id);
CREATE INDEX seals_by_digest ON seals (digest);
";

/// What each version added, the first one first.
const VERSIONS: [&str; 3] = [TABLES_1, TABLES_2, TABLES_3];

/// What stands in the file before anything is written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SchemaState {
    /// No table at all: a new file, or one whose making was cut short.
    Nothing,
    /// Our tables, as an earlier version has them.
    Older,
    /// Our tables.
    Ours,
}

/// Looks at the version without changing the file.
///
/// # Errors
/// [`DatabaseError::TooNew`]; [`DatabaseError::Corrupt`] for files of others.
pub(super) fn look(conn: &Connection) -> Result<SchemaState> {
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    if tables == 0 && version == 0 {
        return Ok(SchemaState::Nothing);
    }
    if application != APPLICATION || version < 1 {
        return Err(Error::corrupt("a SQLite database, but not one of erolith"));
    }
    if version > VERSION {
        return Err(Error::Database(DatabaseError::TooNew {
            path: PathBuf::new(),
            version,
            known: VERSION,
        }));
    }
    Ok(if version < VERSION { SchemaState::Older } else { SchemaState::Ours })
}

/// Makes the tables, all or none.
pub(super) fn create(conn: &mut Connection) -> Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    VERSIONS.iter().try_for_each(|tables| tx.execute_batch(tables))?;
    tx.pragma_update(None, "application_id", APPLICATION)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    Ok(tx.commit()?)
}

/// Makes an older database one of this version, in one transaction. There is no way back.
pub(super) fn migrate(conn: &mut Connection) -> Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let there: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let there = usize::try_from(there).unwrap_or_default();
    VERSIONS.iter().skip(there).try_for_each(|tables| tx.execute_batch(tables))?;
    tx.pragma_update(None, "user_version", VERSION)?;
    Ok(tx.commit()?)
}

/// Makes a database as the version `version` had it.
#[cfg(test)]
pub(super) fn create_earlier(conn: &Connection, version: usize) -> Result<()> {
    VERSIONS.iter().take(version).try_for_each(|tables| conn.execute_batch(tables))?;
    conn.pragma_update(None, "application_id", APPLICATION)?;
    Ok(conn.pragma_update(None, "user_version", i64::try_from(version).unwrap_or(VERSION))?)
}

/// Reads everything once: pages, constraints, references, and that the tables are those of the version.
///
/// # Errors
/// [`DatabaseError::Corrupt`] with the first thing found.
pub(super) fn check(conn: &Connection) -> Result<()> {
    let verdict: String = conn.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if verdict != "ok" {
        return Err(Error::corrupt(format!("damaged: {verdict}")));
    }
    let found = objects(conn)?;
    let fresh = Connection::open_in_memory()?;
    VERSIONS.iter().try_for_each(|tables| fresh.execute_batch(tables))?;
    for (name, sql) in objects(&fresh)? {
        match found.get(&name) {
            None => return Err(Error::corrupt(format!("`{name}` is missing from its schema"))),
            Some(other) if *other != sql => {
                return Err(Error::corrupt(format!("`{name}` is not as version {VERSION} has it")));
            }
            Some(_) => {}
        }
    }
    let mut broken = conn.prepare("PRAGMA foreign_key_check")?;
    if broken.exists(())? {
        return Err(Error::corrupt("a snapshot or label refers to a snapshot that is not there"));
    }
    let used: bool = conn.query_row(
        "SELECT coalesce((SELECT max(id) FROM snapshots), 0) >= coalesce((SELECT next FROM ids), 0)",
        (),
        |row| row.get(0),
    )?;
    if used {
        return Err(Error::corrupt("an id is in use that was never given out"));
    }
    Ok(())
}

/// Tables and indexes by name, with the text that made them.
fn objects(conn: &Connection) -> Result<BTreeMap<String, String>> {
    let mut statement =
        conn.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
