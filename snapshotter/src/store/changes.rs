//! What changes snapshots: create, commit, update, remove. The order of the checks is that of
//! `core/snapshots/storage/bolt.go` in containerd, because it decides which error a client sees.

use rusqlite::{Connection, params};

use super::connection::Ids;
use super::error::{Error, Result, SnapshotError};
use super::rows::{Record, chain, find, get, integer, labels_of, set_labels};
use super::seals::{put_origin, put_seal, put_tree};
use super::types::{Content, Info, Kind, Labels, Snapshot, Timestamp, UpdateMask, now};
use super::update::{updated, without_empty};
use super::{Store, sql};

impl Store {
    /// Makes an active snapshot or a view. An empty `parent` is none.
    ///
    /// `place` runs inside the transaction, when the row is there and before it is kept; its error undoes everything,
    /// and the id does not come again.
    ///
    /// # Errors
    /// [`SnapshotError::EmptyKey`], [`SnapshotError::NotCreatable`], [`SnapshotError::ParentNotFound`],
    /// [`SnapshotError::ParentNotCommitted`], [`SnapshotError::AlreadyExists`], those of `place`, and those of the
    /// database.
    pub fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: &Labels,
        place: &mut dyn FnMut(&Snapshot) -> crate::Result<()>,
    ) -> crate::Result<Snapshot> {
        if key.is_empty() {
            return Err(Error::Snapshot(SnapshotError::EmptyKey).into());
        }
        if kind == Kind::Committed {
            return Err(
                Error::Snapshot(SnapshotError::NotCreatable { key: key.to_owned(), kind }).into()
            );
        }
        self.write_new(|tx, ids| {
            let snapshot = insert(tx, ids, kind, key, parent, without_empty(labels))?;
            place(&snapshot)?;
            Ok(snapshot)
        })
    }

    /// Turns the active snapshot `key` into the layer `name`. The id and directory stay; labels given before are
    /// replaced; both times are now. A `parent` may be given to a snapshot that has none.
    ///
    /// `place` as in [`Self::create`].
    ///
    /// # Errors
    /// [`SnapshotError::EmptyKey`], [`SnapshotError::AlreadyExists`] for the name, [`SnapshotError::NotFound`] for the
    /// key, [`SnapshotError::NotActive`], [`SnapshotError::ParentDiffers`], [`SnapshotError::ParentNotFound`],
    /// [`SnapshotError::RebaseNotCommitted`], those of `place`, and those of the database.
    pub fn commit(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: &Labels,
        content: impl Into<Content>,
        place: &mut dyn FnMut(&Snapshot) -> crate::Result<()>,
    ) -> crate::Result<Snapshot> {
        if name.is_empty() {
            return Err(Error::Snapshot(SnapshotError::EmptyKey).into());
        }
        self.write(|tx| {
            let snapshot = turn(tx, name, key, parent, without_empty(labels), content.into())?;
            place(&snapshot)?;
            Ok(snapshot)
        })
    }

    /// Sets what `mask` names to what `labels` has.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::BadFieldPath`], and those of the database.
    pub fn update(&self, name: &str, labels: &Labels, mask: &UpdateMask) -> crate::Result<Info> {
        self.write(|tx| Ok(relabel(tx, name, labels, mask)?))
    }

    /// Forgets a snapshot. Its directory is left to cleanup.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::HasChildren`], and those of the database.
    pub fn remove(&self, key: &str) -> crate::Result<Snapshot> {
        self.write(|tx| Ok(delete(tx, key)?))
    }
}

fn insert(
    conn: &Connection,
    ids: &mut Ids,
    kind: Kind,
    key: &str,
    parent: &str,
    labels: Labels,
) -> Result<Snapshot> {
    let above = match parent {
        "" => None,
        _ => Some(new_parent(conn, key, parent)?),
    };
    if find(conn, key)?.is_some() {
        return Err(Error::Snapshot(SnapshotError::AlreadyExists { key: key.to_owned() }));
    }
    let (id, created) = (ids.take()?, now());
    conn.prepare_cached(sql::INSERT)?.execute(params![
        integer(id),
        key,
        above.map(integer),
        kind.number(),
        created,
    ])?;
    set_labels(conn, id, &labels)?;
    let created = Timestamp::from_nanoseconds(created);
    Ok(Snapshot { id, kind, parents: chain(conn, above)?, labels, created })
}

/// The id of the parent of a new snapshot.
fn new_parent(conn: &Connection, key: &str, parent: &str) -> Result<u64> {
    let (key, named) = (key.to_owned(), parent.to_owned());
    match find(conn, parent)? {
        None => Err(Error::Snapshot(SnapshotError::ParentNotFound { key, parent: named })),
        Some(Record { kind: Kind::Committed, id, .. }) => Ok(id),
        Some(Record { kind, .. }) => {
            Err(Error::Snapshot(SnapshotError::ParentNotCommitted { key, parent: named, kind }))
        }
    }
}

fn turn(
    conn: &Connection,
    name: &str,
    key: &str,
    parent: &str,
    labels: Labels,
    content: Content,
) -> Result<Snapshot> {
    if find(conn, name)?.is_some() {
        return Err(Error::Snapshot(SnapshotError::AlreadyExists { key: name.to_owned() }));
    }
    let record = get(conn, key)?;
    if record.kind != Kind::Active {
        return Err(Error::Snapshot(SnapshotError::NotActive {
            key: key.to_owned(),
            kind: record.kind,
        }));
    }
    let above = match (record.parent_id(), parent) {
        (kept, "") => kept,
        (None, given) => Some(rebase_parent(conn, key, given)?),
        (kept, given) if given == record.parent_key() => kept,
        (_, given) => {
            return Err(Error::Snapshot(SnapshotError::ParentDiffers {
                key: key.to_owned(),
                parent: record.parent_key().to_owned(),
                given: given.to_owned(),
            }));
        }
    };
    let time = content.time.unwrap_or_else(now);
    conn.prepare_cached(sql::COMMIT)?.execute(params![
        integer(record.id),
        name,
        above.map(integer),
        Kind::Committed.number(),
        time,
        integer(content.usage.size),
        integer(content.usage.inodes),
    ])?;
    if let Some(pin) = content.pin {
        put_seal(conn, record.id, pin)?;
    }
    if let Some(tree) = content.tree {
        put_tree(conn, record.id, tree)?;
    }
    if let Some(origin) = &content.origin {
        put_origin(conn, record.id, origin)?;
    }
    set_labels(conn, record.id, &labels)?;
    let (parents, created) = (chain(conn, above)?, Timestamp::from_nanoseconds(time));
    Ok(Snapshot { id: record.id, kind: Kind::Committed, parents, labels, created })
}

/// The id of a parent given at commit. It is a layer, so it cannot be above what is not yet one: no circle is made.
fn rebase_parent(conn: &Connection, key: &str, parent: &str) -> Result<u64> {
    let (key, named) = (key.to_owned(), parent.to_owned());
    match find(conn, parent)? {
        None => Err(Error::Snapshot(SnapshotError::ParentNotFound { key, parent: named })),
        Some(Record { kind: Kind::Committed, id, .. }) => Ok(id),
        Some(Record { kind, .. }) => {
            Err(Error::Snapshot(SnapshotError::RebaseNotCommitted { key, parent: named, kind }))
        }
    }
}

fn relabel(conn: &Connection, name: &str, labels: &Labels, mask: &UpdateMask) -> Result<Info> {
    let mut record = get(conn, name)?;
    let labels = updated(labels_of(conn, record.id)?, labels, mask)?;
    set_labels(conn, record.id, &labels)?;
    record.updated = conn
        .prepare_cached(sql::TOUCH)?
        .query_row(params![integer(record.id), now()], |row| row.get(0))?;
    Ok(record.info(name.to_owned(), labels))
}

fn delete(conn: &Connection, key: &str) -> Result<Snapshot> {
    let record = get(conn, key)?;
    let mut children = conn.prepare_cached(sql::CHILD_OF)?;
    let mut rows = children.query([integer(record.id)])?;
    if let Some(row) = rows.next()? {
        return Err(Error::Snapshot(SnapshotError::HasChildren {
            key: key.to_owned(),
            child: row.get(0)?,
        }));
    }
    let snapshot = record.snapshot(conn)?;
    conn.prepare_cached(sql::DELETE)?.execute([integer(record.id)])?;
    Ok(snapshot)
}
