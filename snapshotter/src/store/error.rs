//! What the store can answer instead of what was asked for.

use std::path::{Path, PathBuf};

use erolith_errors::error_table;
use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

use super::Kind;

/// What the inner functions of the store return.
pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

error_table! {
    /// Why a snapshot is not found, made, changed or removed. The rules are those of `core/snapshots/storage` in
    /// containerd.
    pub enum SnapshotError {
        /// No snapshot has this key.
        NotFound {
            /// What was asked for.
            key: String,
        } => {
            code: "snapshot-not-found",
            class: Usage,
            status: NotFound,
            text: ("snapshot {} does not exist", quoted(key)),
        }
        /// The key or name is taken, by a snapshot of any kind.
        AlreadyExists {
            /// The key or name.
            key: String,
        } => {
            code: "snapshot-exists",
            class: Usage,
            status: AlreadyExists,
            text: ("snapshot {} exists already", quoted(key)),
        }
        /// Only active snapshots become layers.
        NotActive {
            /// The snapshot.
            key: String,
            /// What it is instead.
            kind: Kind,
        } => {
            code: "snapshot-not-active",
            class: Usage,
            status: FailedPrecondition,
            text: ("snapshot {} is {kind}, not active", quoted(key)),
        }
        /// Layers come from commits only.
        NotCreatable {
            /// The key.
            key: String,
            /// What it was to be.
            kind: Kind,
        } => {
            code: "snapshot-kind",
            class: Usage,
            status: InvalidArgument,
            text: ("snapshot {} cannot be made {kind}: only active snapshots and views are made", quoted(key)),
        }
        /// The parent of a new snapshot, or the one given at commit, is not there.
        ParentNotFound {
            /// The snapshot that was to get it.
            key: String,
            /// The parent.
            parent: String,
        } => {
            code: "parent-not-found",
            class: Usage,
            status: NotFound,
            text: ("parent {} of snapshot {} does not exist", quoted(parent), quoted(key)),
        }
        /// A new snapshot names a parent that is no layer.
        ParentNotCommitted {
            /// The snapshot that was to get it.
            key: String,
            /// The parent.
            parent: String,
            /// What the parent is.
            kind: Kind,
        } => {
            code: "parent-not-committed",
            class: Usage,
            status: InvalidArgument,
            text: ("parent {} of snapshot {} is {kind}, not committed", quoted(parent), quoted(key)),
        }
        /// A commit names a parent that is no layer.
        RebaseNotCommitted {
            /// The snapshot to be committed.
            key: String,
            /// The parent given at commit.
            parent: String,
            /// What that parent is.
            kind: Kind,
        } => {
            code: "parent-not-committed",
            class: Usage,
            status: FailedPrecondition,
            text: ("snapshot {} cannot be put on {}, which is {kind}, not committed", quoted(key), quoted(parent)),
        }
        /// The parent of a snapshot never changes.
        ParentDiffers {
            /// The snapshot to be committed.
            key: String,
            /// The parent it has.
            parent: String,
            /// The parent given at commit.
            given: String,
        } => {
            code: "parent-differs",
            class: Usage,
            status: InvalidArgument,
            text: ("snapshot {} has parent {} and cannot be put on {}", quoted(key), quoted(parent), quoted(given)),
        }
        /// Other snapshots have the snapshot as parent. Clients look for the first words of the message.
        HasChildren {
            /// The snapshot to be removed.
            key: String,
            /// One that has it as parent.
            child: String,
        } => {
            code: "snapshot-has-children",
            class: Usage,
            status: FailedPrecondition,
            text: ("cannot remove snapshot with child: {} is the parent of {}", quoted(key), quoted(child)),
        }
        /// A filter that does not follow the grammar.
        BadFilter {
            /// The filter.
            filter: String,
            /// Where, in bytes from its start.
            at: usize,
            /// What is wrong there.
            reason: String,
        } => {
            code: "filter",
            class: Usage,
            status: InvalidArgument,
            text: ("filter {}, byte {at}: {reason}", quoted(filter)),
        }
        /// An update of a field that never changes, or that does not exist.
        BadFieldPath {
            /// The path in the mask.
            path: String,
        } => {
            code: "field-path",
            class: Usage,
            status: InvalidArgument,
            text: ("field {} cannot be updated; `labels` and `labels.<name>` can", quoted(path)),
        }
        /// A new snapshot without a key, or a commit without a name.
        EmptyKey => {
            code: "empty-key",
            class: Usage,
            status: InvalidArgument,
            text: ("a snapshot needs a key that is not empty"),
        }
    }
}

error_table! {
    /// Why the database of snapshots cannot be read or written.
    pub enum DatabaseError {
        /// A database of a later version of erolith.
        TooNew {
            /// The database.
            path: PathBuf,
            /// Its version.
            version: i64,
            /// The newest version we know.
            known: i64,
        } => {
            code: "metadata-too-new",
            class: Environment,
            status: FailedPrecondition,
            text: ("{}: schema version {version}; this erolith knows versions up to {known}", path.display()),
            advice: "run the erolith that wrote it, or a later one; there is no way back to an older schema",
        }
        /// A database of an earlier version of erolith, which the daemon migrates.
        TooOld {
            /// The database.
            path: PathBuf,
        } => {
            code: "metadata-too-old",
            class: Environment,
            status: FailedPrecondition,
            text: ("{}: of an earlier version of erolith, or empty", path.display()),
            advice: "start the daemon once: it makes the database one of its version",
        }
        /// A database that is damaged, or a file that is none.
        Corrupt {
            /// The database.
            path: PathBuf,
            /// What was found.
            reason: String,
        } => {
            code: "metadata-damaged",
            class: Input,
            status: DataLoss,
            text: ("{}: {reason}", path.display()),
            advice: "run `erolith repair`: it makes the database anew of what is in the directories, and keeps this one beside",
        }
        /// No room for a change of the database. The transaction is rolled back.
        DiskFull {
            /// The database.
            path: PathBuf,
        } => {
            code: "metadata-disk-full",
            class: Io,
            status: ResourceExhausted,
            text: ("{}: no space left to write", path.display()),
            advice: "free space on the filesystem of the root directory",
        }
        /// Another process kept the database locked for longer than a request waits.
        Busy {
            /// The database.
            path: PathBuf,
        } => {
            code: "metadata-locked",
            class: Environment,
            status: Unavailable,
            text: ("{}: locked by another process", path.display()),
            advice: "close other programs that have the database open",
        }
        /// The directory of a new database could not be synced.
        Directory {
            /// The directory.
            path: PathBuf,
            /// What storage said.
            source: std::io::Error,
        } => {
            code: "metadata-sync",
            class: Io,
            status: Internal,
            text: ("{}: cannot sync the directory", path.display()),
            cause: source,
        }
        /// SQLite failed in another way.
        Sqlite {
            /// The database.
            path: PathBuf,
            /// What SQLite said.
            source: rusqlite::Error,
        } => {
            code: "metadata",
            class: Io,
            status: Internal,
            text: ("{}", path.display()),
            cause: source,
        }
    }
}

error_table! {
    /// Why the store said no.
    pub enum Error {}
    families {
        /// The snapshot, or what was asked of it.
        Snapshot(SnapshotError),
        /// The database.
        Database(DatabaseError),
    }
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        DatabaseError::Sqlite { path: PathBuf::new(), source }.into()
    }
}

impl Error {
    /// Damage seen by code that does not know the database's path; [`Error::located`] adds it.
    pub(super) fn corrupt(reason: impl Into<String>) -> Self {
        DatabaseError::Corrupt { path: PathBuf::new(), reason: reason.into() }.into()
    }

    /// The same error with the database's path, and with the cases of SQLite told apart that callers treat differently.
    pub(super) fn located(self, database: &Path) -> Self {
        match self {
            Self::Database(error) => error.located(database.to_path_buf()).into(),
            error @ Self::Snapshot(_) => error,
        }
    }
}

impl DatabaseError {
    fn located(self, path: PathBuf) -> Self {
        match self {
            Self::Corrupt { reason, .. } => Self::Corrupt { path, reason },
            Self::TooNew { version, known, .. } => Self::TooNew { path, version, known },
            Self::TooOld { .. } => Self::TooOld { path },
            Self::Sqlite { source, .. } => match sqlite_case(&source) {
                Case::Full => Self::DiskFull { path },
                Case::Busy => Self::Busy { path },
                Case::Damaged => Self::Corrupt { path, reason: source.to_string() },
                Case::Other => Self::Sqlite { path, source },
            },
            other => other,
        }
    }
}

/// The cases of SQLite's errors that callers treat differently.
enum Case {
    Full,
    Busy,
    Damaged,
    Other,
}

fn sqlite_case(error: &rusqlite::Error) -> Case {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return match error {
            // A column holds what our schema does not let in.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => Case::Damaged,
            _ => Case::Other,
        };
    };
    match failure.code {
        ErrorCode::DiskFull => Case::Full,
        // The file that readers and writer share cannot grow.
        _ if failure.extended_code == SQLITE_IOERR_SHMSIZE => Case::Full,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Case::Busy,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Case::Damaged,
        _ => Case::Other,
    }
}

/// Text from outside as messages show it. It is cut, because messages travel in headers, which are small.
fn quoted(text: &str) -> String {
    /// Longer than any key that containerd makes.
    const SHOWN: usize = 300;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{:?}... ({} bytes)", &text[..cut], text.len()),
        None => format!("{text:?}"),
    }
}
