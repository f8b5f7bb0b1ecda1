//! What snapshots there are: their names, parents, kinds, times, labels and sizes, in SQLite.
//!
//! The semantics are those of containerd's own store (`core/snapshots/storage`), which its clients and its test
//! suite rely on. What is answered is durable. One connection writes; others read, each one state of the database,
//! so that `Stat` goes on while a list is sent or a layer is placed.
//!
//! - `changes`, `queries`, `blobs`, `seals`: the operations. `entries`: everything of a snapshot, for its record.
//! - `health`: whether there is a database that can be used, without changing it.
//! - [`Filters`]: which snapshots a list shows. `update`: what a field mask does. Both without the database.
//! - `schema`, `sql`, `rows`, `connection`: the database itself.

mod blobs;
mod changes;
mod connection;
mod entries;
mod error;
mod filters;
mod health;
mod queries;
mod rows;
mod schema;
mod seals;
mod sql;
mod types;
mod update;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::Connection;

pub use self::error::{DatabaseError, Error, SnapshotError};
pub use self::filters::Filters;
pub use self::health::Health;
pub(crate) use self::types::now;
pub use self::types::{
    Content, Entry, FoundSnapshot, Info, Kind, Labels, Origin, OriginBlob, Snapshot, Timestamp,
    UpdateMask, Usage,
};
pub(crate) use self::update::without_empty;

use self::connection::{Ids, Readers, Writer, lock};

/// The snapshots of one root directory. Usable from several threads at once.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    // Closed first: the last connection to close tidies up the log, which readers may not.
    readers: Readers,
    writer: Mutex<Writer>,
}

impl Store {
    /// Opens the database at `path` and checks it; makes it when there is none. The caller makes sure that no other
    /// process works on the same root.
    ///
    /// # Errors
    /// [`crate::store::DatabaseError::TooNew`], before anything is changed; [`crate::store::DatabaseError::Corrupt`]
    /// for damaged files and those of others.
    pub fn open(path: &Path) -> crate::Result<Self> {
        let writer = Writer::open(path).map_err(|e| e.located(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            readers: Readers::new(path),
            writer: Mutex::new(writer),
        })
    }

    /// Opens a database that is there, of this version, and that another process may be working on.
    ///
    /// # Errors
    /// As [`Self::open`]; [`crate::store::DatabaseError::TooOld`] for one that the daemon has to bring up to date
    /// first.
    pub(crate) fn open_beside(path: &Path) -> crate::Result<Self> {
        let writer = Writer::open_beside(path).map_err(|e| e.located(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            readers: Readers::new(path),
            writer: Mutex::new(writer),
        })
    }

    /// Runs `query` on one state of the database, without waiting for who writes.
    fn read<T>(&self, query: impl FnOnce(&Connection) -> error::Result<T>) -> crate::Result<T> {
        Ok(self.readers.read(query).map_err(|e| e.located(&self.path))?)
    }

    /// Runs `change` in a transaction that its error undoes.
    fn write<T>(&self, change: impl FnOnce(&Connection) -> crate::Result<T>) -> crate::Result<T> {
        let outcome = lock(&self.writer).transact(|tx, _| change(tx));
        outcome.map_err(|e| self.located(e))
    }

    /// As [`Self::write`], for what may be lost by a power cut: the log is not synced. The next change that is not of this
    /// kind takes it along.
    fn write_lazily<T>(
        &self,
        change: impl FnOnce(&Connection) -> crate::Result<T>,
    ) -> crate::Result<T> {
        let outcome = lock(&self.writer).transact_lazily(|tx, _| change(tx));
        outcome.map_err(|e| self.located(e))
    }

    /// As [`Self::write`], with an id to take. It is reserved before, under the same lock.
    fn write_new<T>(
        &self,
        change: impl FnOnce(&Connection, &mut Ids) -> crate::Result<T>,
    ) -> crate::Result<T> {
        let mut writer = lock(&self.writer);
        let outcome = writer.reserve().map_err(Into::into).and_then(|()| writer.transact(change));
        outcome.map_err(|e| self.located(e))
    }

    /// Names the database in errors that are its own.
    fn located(&self, error: crate::Error) -> crate::Error {
        match error {
            crate::Error::Store(e) => e.located(&self.path).into(),
            other => other,
        }
    }
}
