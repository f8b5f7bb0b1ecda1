//! Rows of the database as values. Nothing here decides.

use std::collections::BTreeSet;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Error, Result, SnapshotError};
use super::sql;
use super::types::{Info, Kind, Labels, Snapshot, Timestamp, Usage};

/// One row of `snapshots`.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) id: u64,
    pub(super) kind: Kind,
    /// Id and key of the parent.
    pub(super) parent: Option<(u64, String)>,
    pub(super) created: i64,
    pub(super) updated: i64,
    pub(super) usage: Usage,
}

impl Record {
    /// From the columns that [`sql::FIND`] and [`sql::LIST`] begin with.
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let number: i64 = row.get(1)?;
        let kind = Kind::from_number(number)
            .ok_or_else(|| rusqlite::Error::IntegralValueOutOfRange(1, number))?;
        let parent_id: Option<i64> = row.get(2)?;
        let parent_key: Option<String> = row.get(3)?;
        let parent = match (parent_id, parent_key) {
            (None, _) => None,
            (Some(_), Some(key)) => Some((unsigned(row, 2)?, key)),
            // A parent that is not there.
            (Some(_), None) => {
                return Err(rusqlite::Error::InvalidColumnType(3, "parent".into(), Type::Null));
            }
        };
        Ok(Self {
            id: unsigned(row, 0)?,
            kind,
            parent,
            created: row.get(4)?,
            updated: row.get(5)?,
            usage: Usage { size: unsigned(row, 6)?, inodes: unsigned(row, 7)? },
        })
    }

    /// The parent's key, or nothing.
    pub(super) fn parent_key(&self) -> &str {
        self.parent.as_ref().map_or("", |(_, key)| key)
    }

    /// The parent's id.
    pub(super) fn parent_id(&self) -> Option<u64> {
        self.parent.as_ref().map(|&(id, _)| id)
    }

    /// As the API shows it.
    pub(super) fn info(self, name: String, labels: Labels) -> Info {
        Info {
            name,
            kind: self.kind,
            created: Timestamp::from_nanoseconds(self.created),
            updated: Timestamp::from_nanoseconds(self.updated),
            parent: self.parent.map(|(_, key)| key).unwrap_or_default(),
            labels,
        }
    }

    /// With its chain and labels.
    pub(super) fn snapshot(&self, conn: &Connection) -> Result<Snapshot> {
        Ok(Snapshot {
            id: self.id,
            kind: self.kind,
            parents: chain(conn, self.parent_id())?,
            labels: labels_of(conn, self.id)?,
            created: Timestamp::from_nanoseconds(self.created),
        })
    }
}

/// A number as SQLite holds it. Sizes beyond 2^63 do not exist; ids are counted from 1.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A column that is never negative.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// The row with this key, if there is one.
pub(super) fn find(conn: &Connection, key: &str) -> Result<Option<Record>> {
    Ok(conn.prepare_cached(sql::FIND)?.query_row([key], Record::from_row).optional()?)
}

/// The row with this key.
///
/// # Errors
/// [`SnapshotError::NotFound`].
pub(super) fn get(conn: &Connection, key: &str) -> Result<Record> {
    find(conn, key)?.ok_or_else(|| Error::Snapshot(SnapshotError::NotFound { key: key.to_owned() }))
}

/// The ids from `nearest` to the lowest.
///
/// # Errors
/// [`crate::store::DatabaseError::Corrupt`] for a chain that runs in a circle or into nothing.
pub(super) fn chain(conn: &Connection, nearest: Option<u64>) -> Result<Vec<u64>> {
    let mut statement = conn.prepare_cached(sql::PARENT_OF)?;
    let (mut ids, mut seen) = (Vec::new(), BTreeSet::new());
    let mut next = nearest;
    while let Some(id) = next {
        if !seen.insert(id) {
            return Err(Error::corrupt(format!("snapshot {id} is above itself")));
        }
        ids.push(id);
        let above: Option<Option<i64>> =
            statement.query_row([integer(id)], |row| row.get(0)).optional()?;
        let above = above.ok_or_else(|| Error::corrupt(format!("snapshot {id} is missing")))?;
        next = above
            .map(u64::try_from)
            .transpose()
            .map_err(|_| Error::corrupt(format!("the parent of snapshot {id} is not an id")))?;
    }
    Ok(ids)
}

/// The labels of a snapshot.
pub(super) fn labels_of(conn: &Connection, id: u64) -> Result<Labels> {
    let mut statement = conn.prepare_cached(sql::LABELS_OF)?;
    let rows = statement.query_map([integer(id)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Gives a snapshot these labels and no others.
pub(super) fn set_labels(conn: &Connection, id: u64, labels: &Labels) -> Result<()> {
    conn.prepare_cached(sql::DROP_LABELS)?.execute([integer(id)])?;
    let mut put = conn.prepare_cached(sql::PUT_LABEL)?;
    for (key, value) in labels {
        put.execute(params![integer(id), key, value])?;
    }
    Ok(())
}
