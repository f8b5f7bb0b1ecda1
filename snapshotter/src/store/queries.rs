//! What asks for snapshots and changes nothing.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Rows};

use super::error::{Error, Result};
use super::filters::Filters;
use super::rows::{Record, get, integer, labels_of, unsigned};
use super::types::{FoundSnapshot, Info, Kind, Labels, Snapshot, Usage};
use super::{Store, sql};

impl Store {
    /// A snapshot of any kind, with its chain.
    ///
    /// # Errors
    /// [`crate::store::SnapshotError::NotFound`], and those of the database.
    pub fn snapshot(&self, key: &str) -> crate::Result<Snapshot> {
        self.read(|conn| get(conn, key)?.snapshot(conn))
    }

    /// The kind of the snapshot with this id; nothing when there is none.
    ///
    /// # Errors
    /// Those of the database.
    pub fn kind_of(&self, id: u64) -> crate::Result<Option<Kind>> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(sql::KIND_OF)?;
            let number: Option<i64> =
                statement.query_row([integer(id)], |row| row.get(0)).optional()?;
            let unknown = |number| Error::corrupt(format!("snapshot {id} is of kind {number}"));
            number.map(|n| Kind::from_number(n).ok_or_else(|| unknown(n))).transpose()
        })
    }

    /// The labels of the snapshot with this id; none when there is no such snapshot.
    ///
    /// # Errors
    /// Those of the database.
    pub fn labels_of(&self, id: u64) -> crate::Result<Labels> {
        self.read(|conn| labels_of(conn, id))
    }

    /// The snapshots whose label `containerd.io/snapshot.ref` names this chain, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn with_ref(&self, chain: &str) -> crate::Result<Vec<FoundSnapshot>> {
        self.read(|conn| found(conn, sql::WITH_REF, chain))
    }

    /// The snapshots whose label `containerd.io/snapshot/diff-id` names this layer, the newest first. The label is what
    /// the caller wrote.
    ///
    /// # Errors
    /// Those of the database.
    pub fn with_diff_id(&self, diff_id: &str) -> crate::Result<Vec<FoundSnapshot>> {
        self.read(|conn| found(conn, sql::WITH_DIFF_ID, diff_id))
    }

    /// What `Stat` says of a snapshot.
    ///
    /// # Errors
    /// [`crate::store::SnapshotError::NotFound`], and those of the database.
    pub fn info(&self, key: &str) -> crate::Result<Info> {
        self.read(|conn| {
            let record = get(conn, key)?;
            let labels = labels_of(conn, record.id)?;
            Ok(record.info(key.to_owned(), labels))
        })
    }

    /// All snapshots that `filters` match, in the order in which they were made. None is no error.
    ///
    /// # Errors
    /// Those of the database.
    pub fn list(&self, filters: &Filters) -> crate::Result<Vec<Info>> {
        self.read(|conn| {
            let mut infos = Vec::new();
            walk(conn, &mut |info| {
                if filters.matches(&info) {
                    infos.push(info);
                }
            })?;
            Ok(infos)
        })
    }

    /// A snapshot with what it takes on disk, as it was given at commit; nothing for those not committed.
    ///
    /// # Errors
    /// [`crate::store::SnapshotError::NotFound`], and those of the database.
    pub fn usage(&self, key: &str) -> crate::Result<(Snapshot, Usage)> {
        self.read(|conn| {
            let record = get(conn, key)?;
            Ok((record.snapshot(conn)?, record.usage))
        })
    }

    /// The ids of all snapshots.
    ///
    /// For cleanup: this waits until no change is under way. A directory that was listed before the call, and whose
    /// id is not in the answer, has no row and never will.
    ///
    /// # Errors
    /// Those of the database.
    pub fn ids(&self) -> crate::Result<BTreeSet<u64>> {
        self.write(|tx| Ok(ids_of(tx, sql::IDS, ())?))
    }

    /// The ids of the layers that some active snapshot or view has below it. Waits as [`Self::ids`] does.
    ///
    /// # Errors
    /// Those of the database.
    pub fn lowers_in_use(&self) -> crate::Result<BTreeSet<u64>> {
        self.write(|tx| Ok(ids_of(tx, sql::LOWERS, [Kind::Committed.number()])?))
    }
}

/// The snapshots that a statement about a label finds.
fn found(conn: &Connection, sql: &str, value: &str) -> Result<Vec<FoundSnapshot>> {
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([value], |row| {
        let number: i64 = row.get(2)?;
        let kind = Kind::from_number(number)
            .ok_or_else(|| rusqlite::Error::IntegralValueOutOfRange(2, number))?;
        Ok(FoundSnapshot { id: unsigned(row, 0)?, key: row.get(1)?, kind })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Gives every snapshot to `each`. Rows and labels come from two statements that walk in the same order.
fn walk(conn: &Connection, each: &mut dyn FnMut(Info)) -> Result<()> {
    let (mut list, mut label_list) =
        (conn.prepare_cached(sql::LIST)?, conn.prepare_cached(sql::LIST_LABELS)?);
    let mut labels = LabelRows::new(label_list.query(())?)?;
    let mut rows = list.query(())?;
    while let Some(row) = rows.next()? {
        let record = Record::from_row(row)?;
        let of_this = labels.of(record.id)?;
        each(record.info(row.get(8)?, of_this));
    }
    Ok(())
}

/// Labels of all snapshots, read along with the snapshots.
struct LabelRows<'a> {
    rows: Rows<'a>,
    ahead: Option<(u64, String, String)>,
}

impl<'a> LabelRows<'a> {
    fn new(rows: Rows<'a>) -> Result<Self> {
        let mut labels = Self { rows, ahead: None };
        labels.advance()?;
        Ok(labels)
    }

    fn advance(&mut self) -> Result<()> {
        self.ahead = match self.rows.next()? {
            Some(row) => Some((unsigned(row, 0)?, row.get(1)?, row.get(2)?)),
            None => None,
        };
        Ok(())
    }

    /// The labels of `id`. Ids are asked for in rising order.
    fn of(&mut self, id: u64) -> Result<Labels> {
        let mut labels = Labels::new();
        while let Some((owner, key, value)) = self.ahead.take_if(|&mut (owner, ..)| owner <= id) {
            if owner != id {
                return Err(Error::corrupt(format!(
                    "a label belongs to {owner}, which is missing"
                )));
            }
            labels.insert(key, value);
            self.advance()?;
        }
        Ok(labels)
    }
}

fn ids_of(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<BTreeSet<u64>> {
    let mut statement = conn.prepare_cached(sql)?;
    let ids = statement.query_map(params, |row| unsigned(row, 0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}
