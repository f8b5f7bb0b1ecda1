//! Everything that is known of one snapshot: read for its record, and written when the database is made from records.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::connection::Writer;
use super::error::Result;
use super::rows::{Record, integer, labels_of, set_labels};
use super::seals::{origin_of, pin_of, put_origin, put_seal, put_tree, tree_of};
use super::types::Entry;
use super::{Store, sql};

impl Store {
    /// All that is known of the snapshot with this id; nothing when there is none.
    ///
    /// # Errors
    /// Those of the database.
    pub fn entry(&self, id: u64) -> crate::Result<Option<Entry>> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(sql::ENTRY)?;
            let row = statement.query_row([integer(id)], |row| {
                Ok((Record::from_row(row)?, row.get::<_, String>(8)?))
            });
            let Some((record, key)) = row.optional()? else { return Ok(None) };
            let mut damage = conn.prepare_cached(sql::DAMAGE_OF)?;
            Ok(Some(Entry {
                id,
                key,
                parent: record.parent_id(),
                kind: record.kind,
                created: record.created,
                updated: record.updated,
                labels: labels_of(conn, id)?,
                usage: record.usage,
                pin: pin_of(conn, id)?,
                tree: tree_of(conn, id)?,
                origin: origin_of(conn, id)?,
                damage: damage.query_row([integer(id)], |row| row.get(0)).optional()?,
            }))
        })
    }

    /// Makes a database at `path`, where there is none, of `entries`, in which parents come first. `next` is the first id
    /// that is given out. What is there when this returns is whole, checked, closed and one file; its name is for the
    /// caller to sync.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) fn make(path: &Path, entries: &[Entry], next: u64) -> crate::Result<()> {
        let made = Writer::make(path, &|conn| {
            conn.execute("UPDATE ids SET next = ?1", [integer(next)])?;
            entries.iter().try_for_each(|entry| put(conn, entry))
        });
        Ok(made.map_err(|error| error.located(path))?)
    }
}

fn put(conn: &Connection, entry: &Entry) -> Result<()> {
    let id = entry.id;
    conn.prepare_cached(sql::PUT_ENTRY)?.execute(params![
        integer(id),
        entry.key,
        entry.parent.map(integer),
        entry.kind.number(),
        entry.created,
        entry.updated.max(entry.created),
        integer(entry.usage.size),
        integer(entry.usage.inodes),
    ])?;
    set_labels(conn, id, &entry.labels)?;
    if let Some(pin) = entry.pin {
        put_seal(conn, id, pin)?;
    }
    if let Some(tree) = entry.tree {
        put_tree(conn, id, tree)?;
    }
    if let Some(origin) = &entry.origin {
        put_origin(conn, id, origin)?;
    }
    if let Some(reason) = &entry.damage {
        conn.prepare_cached(sql::PUT_DAMAGED)?.execute(params![integer(id), reason])?;
    }
    Ok(())
}
