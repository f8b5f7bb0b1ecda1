//! What is known of the images of layers, and which of them are damaged.

use std::collections::{BTreeMap, BTreeSet};

use erolith_verity::dmverity::sidecar::Sidecar;
use rusqlite::{Connection, OptionalExtension, params};

use super::error::{Error, Result};
use super::rows::{chain, find, integer, unsigned};
use super::{Kind, Origin, Store, sql};
use crate::protect::{Digest, Pin};

impl Store {
    /// What was pinned of the layer with this id when it was committed; nothing for one that has no digest.
    ///
    /// # Errors
    /// Those of the database.
    pub fn pin_of(&self, id: u64) -> crate::Result<Option<Pin>> {
        self.read(|conn| pin_of(conn, id))
    }

    /// What the sidecar of the layer with this id said when it was committed; nothing for one that had none.
    ///
    /// # Errors
    /// Those of the database.
    pub fn tree_of(&self, id: u64) -> crate::Result<Option<Sidecar>> {
        self.read(|conn| tree_of(conn, id))
    }

    /// The layers that were found damaged, and what was found. Most of the time there is none.
    ///
    /// # Errors
    /// Those of the database.
    pub fn damaged(&self) -> crate::Result<BTreeMap<u64, String>> {
        self.read(damaged)
    }

    /// Whether the layer `name`, or one below it, was found damaged. False for what is no layer.
    ///
    /// # Errors
    /// Those of the database.
    pub fn is_broken(&self, name: &str) -> crate::Result<bool> {
        self.read(|conn| {
            let damaged = damaged(conn)?;
            if damaged.is_empty() {
                return Ok(false);
            }
            let record = find(conn, name)?.filter(|record| record.kind == Kind::Committed);
            let Some(record) = record else { return Ok(false) };
            let ids = chain(conn, Some(record.id))?;
            Ok(ids.iter().any(|id| damaged.contains_key(id)))
        })
    }

    /// Remembers that the layer with this id is damaged. Nothing for what is no layer. Returns whether it is one.
    ///
    /// # Errors
    /// Those of the database.
    pub fn set_damaged(&self, id: u64, reason: &str) -> crate::Result<bool> {
        self.write(|tx| Ok(set_damaged(tx, id, reason)?))
    }

    /// Forgets that the layer with this id was damaged: it has its image again, which is known as `pin` and has `tree`.
    ///
    /// # Errors
    /// Those of the database.
    pub fn set_healed(
        &self,
        id: u64,
        pin: Option<Pin>,
        tree: Option<Sidecar>,
    ) -> crate::Result<()> {
        self.write(|tx| {
            let heal = || {
                if let Some(pin) = pin {
                    put_seal(tx, id, pin)?;
                }
                tx.prepare_cached(sql::DROP_TREE)?.execute([integer(id)])?;
                if let Some(tree) = tree {
                    put_tree(tx, id, tree)?;
                }
                tx.prepare_cached(sql::DROP_DAMAGED)?.execute([integer(id)])?;
                Ok::<_, Error>(())
            };
            Ok(heal()?)
        })
    }

    /// The damaged layers whose image had this digest.
    ///
    /// # Errors
    /// Those of the database.
    pub fn damaged_with(&self, digest: Digest) -> crate::Result<Vec<u64>> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(sql::DAMAGED_WITH)?;
            let ids = statement.query_map([digest.to_string()], |row| unsigned(row, 0))?;
            Ok(ids.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// The damaged layers of the chain that ends with the snapshot `key`, the lowest first. None for what is not there.
    ///
    /// # Errors
    /// Those of the database.
    pub fn damaged_below(&self, key: &str) -> crate::Result<Vec<u64>> {
        self.read(|conn| {
            let damaged = damaged(conn)?;
            if damaged.is_empty() {
                return Ok(Vec::new());
            }
            let Some(record) = find(conn, key)? else { return Ok(Vec::new()) };
            let mut ids = chain(conn, Some(record.id))?;
            ids.retain(|id| damaged.contains_key(id));
            ids.reverse();
            Ok(ids)
        })
    }

    /// Where the image of the layer with this id came from, as far as that is known.
    ///
    /// # Errors
    /// Those of the database.
    pub fn origin_of(&self, id: u64) -> crate::Result<Option<Origin>> {
        self.read(|conn| origin_of(conn, id))
    }

    /// The committed layers that may share the image of the layer with this id, itself included, in the order of their
    /// ids.
    ///
    /// # Errors
    /// Those of the database.
    pub fn like(&self, id: u64) -> crate::Result<BTreeSet<u64>> {
        self.read(|conn| {
            let mut like = BTreeSet::new();
            for sql in [sql::SAME_DIGEST, sql::SAME_DIFF_ID] {
                let mut statement = conn.prepare_cached(sql)?;
                let ids = statement.query_map([integer(id)], |row| unsigned(row, 0))?;
                like.extend(ids.collect::<rusqlite::Result<Vec<_>>>()?);
            }
            Ok(like)
        })
    }

    /// The name of the snapshot with this id.
    ///
    /// # Errors
    /// Those of the database.
    pub fn name_of(&self, id: u64) -> crate::Result<Option<String>> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(sql::KEY_OF)?;
            Ok(statement.query_row([integer(id)], |row| row.get(0)).optional()?)
        })
    }
}

pub(super) fn pin_of(conn: &Connection, id: u64) -> Result<Option<Pin>> {
    let mut statement = conn.prepare_cached(sql::SEAL)?;
    let row = statement
        .query_row([integer(id)], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)));
    let Some((text, is_enforced)) = row.optional()? else { return Ok(None) };
    let bad = || Error::corrupt(format!("the digest of snapshot {id} is {text:?}"));
    let digest = Digest::parse(&text).ok_or_else(bad)?;
    Ok(Some(Pin { digest, is_enforced }))
}

pub(super) fn tree_of(conn: &Connection, id: u64) -> Result<Option<Sidecar>> {
    let mut statement = conn.prepare_cached(sql::TREE)?;
    let row =
        statement.query_row([integer(id)], |row| Ok((row.get::<_, String>(0)?, unsigned(row, 1)?)));
    let Some((text, hash_offset)) = row.optional()? else { return Ok(None) };
    let bad = |_| Error::corrupt(format!("the root hash of snapshot {id} is {text:?}"));
    Ok(Some(Sidecar { root: text.parse().map_err(bad)?, hash_offset }))
}

pub(super) fn put_tree(conn: &Connection, id: u64, tree: Sidecar) -> Result<()> {
    let values = params![integer(id), tree.root.to_string(), integer(tree.hash_offset)];
    conn.prepare_cached(sql::PUT_TREE)?.execute(values)?;
    Ok(())
}

pub(super) fn origin_of(conn: &Connection, id: u64) -> Result<Option<Origin>> {
    let mut statement = conn.prepare_cached(sql::ORIGIN)?;
    let text: Option<String> = statement.query_row([integer(id)], |row| row.get(0)).optional()?;
    let bad = |error| Error::corrupt(format!("the origin of snapshot {id}: {error}"));
    text.map(|text| serde_json::from_str(&text).map_err(bad)).transpose()
}

pub(super) fn put_origin(conn: &Connection, id: u64, origin: &Origin) -> Result<()> {
    let bad = |error| Error::corrupt(format!("the origin of snapshot {id}: {error}"));
    let text = serde_json::to_string(origin).map_err(bad)?;
    conn.prepare_cached(sql::PUT_ORIGIN)?.execute(params![integer(id), origin.diff_id, text])?;
    Ok(())
}

fn damaged(conn: &Connection) -> Result<BTreeMap<u64, String>> {
    let mut statement = conn.prepare_cached(sql::DAMAGED)?;
    let rows = statement.query_map((), |row| Ok((unsigned(row, 0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn set_damaged(conn: &Connection, id: u64, reason: &str) -> Result<bool> {
    let mut kind = conn.prepare_cached(sql::KIND_OF)?;
    let kind: Option<i64> = kind.query_row([integer(id)], |row| row.get(0)).optional()?;
    if kind != Some(Kind::Committed.number()) {
        return Ok(false);
    }
    conn.prepare_cached(sql::PUT_DAMAGED)?.execute(params![integer(id), reason])?;
    Ok(true)
}

pub(super) fn put_seal(conn: &Connection, id: u64, pin: Pin) -> Result<()> {
    let values = params![integer(id), pin.digest.to_string(), pin.is_enforced];
    conn.prepare_cached(sql::PUT_SEAL)?.execute(values)?;
    Ok(())
}
