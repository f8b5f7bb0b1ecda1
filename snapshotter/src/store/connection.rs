//! Connections to the database: one that writes, some that read, and the ids that are given out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::error::{DatabaseError, Error, Result};
use super::{schema, sql};

/// How long a connection waits for a lock of another process, such as `sqlite3` run by hand.
const PATIENCE: Duration = Duration::from_secs(10);

/// Statements kept prepared in each connection; more than there are.
const STATEMENTS: usize = 48;

/// Readers that stay open while there is no call.
const IDLE_READERS: usize = 8;

/// Bytes to which the write-ahead log is cut after a checkpoint.
const LOG_LIMIT: i64 = 4 << 20;

/// Ids reserved at a time. Ids that a crash or failure leaves unused are lost, and numbers are short again after
/// all: a million starts of the daemon make them three digits longer.
const RESERVED: u64 = 64;

/// Ids that no other snapshot ever had. They are reserved by a transaction of their own, before the one that uses
/// them, so that an id whose transaction was undone or cut short does not come again: its directory may be there.
#[derive(Debug)]
pub(super) struct Ids {
    next: u64,
    end: u64,
}

impl Ids {
    /// The next id. Callers have reserved before.
    pub(super) fn take(&mut self) -> Result<u64> {
        if self.next >= self.end {
            return Err(Error::corrupt("no id was reserved"));
        }
        let id = self.next;
        self.next += 1;
        Ok(id)
    }
}

/// The connection that writes.
#[derive(Debug)]
pub(super) struct Writer {
    conn: Connection,
    ids: Ids,
    /// Whether commits sync the log now.
    is_syncing: bool,
}

/// Has changes go to a write-ahead log.
fn keep_log(conn: &Connection) -> Result<()> {
    let mut set = conn.prepare("PRAGMA journal_mode = WAL")?;
    let mut rows = set.query(())?;
    let mode: String = rows.next()?.map_or_else(|| Ok(String::new()), |row| row.get(0))?;
    // The mode is told before it is on the disk: only the end of the statement says whether it is.
    while rows.next()?.is_some() {}
    if mode == "wal" {
        return Ok(());
    }
    Err(Error::corrupt(format!("cannot use a write-ahead log here, only `{mode}`")))
}

impl Writer {
    /// Opens the database, makes it when there is none, and checks it.
    ///
    /// # Errors
    /// [`DatabaseError::TooNew`] before anything is changed; [`DatabaseError::Corrupt`].
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(path, flags)?;
        configure(&conn)?;
        let found = schema::look(&conn)?;
        keep_log(&conn)?;
        // In this mode FULL syncs the log at every commit: what was answered survives a power cut.
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "journal_size_limit", LOG_LIMIT)?;
        match found {
            schema::SchemaState::Nothing => {
                schema::create(&mut conn)?;
                sync_directory(path)?;
            }
            schema::SchemaState::Older => schema::migrate(&mut conn)?,
            schema::SchemaState::Ours => {}
        }
        schema::check(&conn)?;
        Ok(Self { conn, ids: Ids { next: 0, end: 0 }, is_syncing: true })
    }

    /// Opens a database that is there and of this version, and changes nothing about it.
    pub(super) fn open_beside(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        configure(&conn)?;
        if schema::look(&conn)? != schema::SchemaState::Ours {
            return Err(Error::Database(DatabaseError::TooOld { path: PathBuf::new() }));
        }
        conn.pragma_update(None, "synchronous", "FULL")?;
        Ok(Self { conn, ids: Ids { next: 0, end: 0 }, is_syncing: true })
    }

    /// Makes a database where there is none, of what `fill` puts into its tables, and checks it. It is one file: it keeps
    /// no log beside it until it is opened.
    pub(super) fn make(path: &Path, fill: &dyn Fn(&Connection) -> Result<()>) -> Result<()> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(path, flags)?;
        configure(&conn)?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        schema::create(&mut conn)?;
        let tx = Change::begin(&conn)?;
        fill(&conn)?;
        tx.commit()?;
        schema::check(&conn)
    }

    /// Runs `change` in a transaction, which survives a power cut. Its error, or its panic, undoes everything.
    pub(super) fn transact<T>(
        &mut self,
        change: impl FnOnce(&Connection, &mut Ids) -> crate::Result<T>,
    ) -> crate::Result<T> {
        self.set_syncing(true)?;
        self.run(change)
    }

    fn run<T>(
        &mut self,
        change: impl FnOnce(&Connection, &mut Ids) -> crate::Result<T>,
    ) -> crate::Result<T> {
        let tx = Change::begin(&self.conn)?;
        let value = change(&self.conn, &mut self.ids)?;
        tx.commit()?;
        Ok(value)
    }

    /// As [`Self::transact`], without a sync of the log. What is in it stays in order: a power cut may take the end of it,
    /// and never what was synced.
    pub(super) fn transact_lazily<T>(
        &mut self,
        change: impl FnOnce(&Connection, &mut Ids) -> crate::Result<T>,
    ) -> crate::Result<T> {
        self.set_syncing(false)?;
        self.run(change)
    }

    /// Whether commits sync the log. It is set before a transaction and not after the other kind, so that a failure here is
    /// one of who relies on it.
    fn set_syncing(&mut self, is_syncing: bool) -> Result<()> {
        if self.is_syncing != is_syncing {
            let level = if is_syncing { "FULL" } else { "NORMAL" };
            self.conn.pragma_update(None, "synchronous", level)?;
            self.is_syncing = is_syncing;
        }
        Ok(())
    }

    /// Makes sure that there is an id to take.
    pub(super) fn reserve(&mut self) -> Result<()> {
        if self.ids.next < self.ids.end {
            return Ok(());
        }
        self.set_syncing(true)?;
        let tx = Change::begin(&self.conn)?;
        let step = i64::try_from(RESERVED).unwrap_or(1);
        let mut reserve = self.conn.prepare_cached(sql::RESERVE)?;
        let end: i64 = reserve.query_row([step], |row| row.get(0))?;
        tx.commit()?;
        let end = u64::try_from(end).map_err(|_| Error::corrupt("ids have run out"))?;
        self.ids = Ids { next: end.saturating_sub(RESERVED), end };
        Ok(())
    }

    /// The connection, for tests that look behind the scenes.
    #[cfg(test)]
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.conn
    }
}

/// A transaction that is undone unless it is committed. rusqlite's own would have its words parsed each time.
struct Change<'conn>(&'conn Connection);

impl<'conn> Change<'conn> {
    /// Takes the write lock at once, so that no transaction fails halfway for want of it.
    fn begin(conn: &'conn Connection) -> Result<Self> {
        run(conn, "BEGIN IMMEDIATE")?;
        Ok(Self(conn))
    }

    fn commit(self) -> Result<()> {
        run(self.0, "COMMIT")
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        // Not so when it was committed, or when an error has undone it already.
        if !self.0.is_autocommit() {
            // The next one finds a connection that is in a transaction, and fails.
            let _ = run(self.0, "ROLLBACK");
        }
    }
}

fn run(conn: &Connection, statement: &str) -> Result<()> {
    conn.prepare_cached(statement)?.execute([])?;
    Ok(())
}

/// Connections that only read. Each read sees one state of the database and never waits for the writer.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), idle: Mutex::default() }
    }

    /// Runs `query` on one state of the database.
    pub(super) fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = lock(&self.idle).pop();
        let conn = match idle {
            Some(conn) => conn,
            None => self.connect()?,
        };
        run(&conn, "BEGIN")?;
        let result = query(&conn);
        // Nothing was written. A connection that cannot even end a read is not used again.
        if run(&conn, "COMMIT").is_ok() {
            let mut idle = lock(&self.idle);
            if idle.len() < IDLE_READERS {
                idle.push(conn);
            }
        }
        result
    }

    fn connect(&self) -> Result<Connection> {
        look_only(&self.path)
    }
}

/// A connection for one look at a file of which nothing is known.
pub(super) fn look_only(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    configure(&conn)?;
    Ok(conn)
}

/// What every connection is told.
fn configure(conn: &Connection) -> Result<()> {
    conn.busy_timeout(PATIENCE)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.pragma_update(None, "foreign_keys", true)?;
    // The file may be damaged or come from elsewhere: its cells are checked, its schema gets to call no function.
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // A plan does not depend on what is asked for. Otherwise each new key has its statement parsed and planned again,
    // which takes longer than all the rest.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Makes the name of a new database as durable as its content.
fn sync_directory(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|source| {
        Error::Database(DatabaseError::Directory { path: parent.to_path_buf(), source })
    })
}

/// Locks. A thread that panicked left its transaction undone, so what it guarded is whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
