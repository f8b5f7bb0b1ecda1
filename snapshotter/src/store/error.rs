//! What the store can answer instead of what was asked for.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

use super::Kind;
use crate::{Class, Status};

/// What the inner functions of the store return.
pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store said no. The rules are those of `core/snapshots/storage` in containerd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No snapshot has this key.
    #[error("snapshot {} does not exist", quoted(.key))]
    NotFound {
        /// What was asked for.
        key: String,
    },
    /// The key or name is taken, by a snapshot of any kind.
    #[error("snapshot {} exists already", quoted(.key))]
    AlreadyExists {
        /// The key or name.
        key: String,
    },
    /// Only active snapshots become layers.
    #[error("snapshot {} is {kind}, not active", quoted(.key))]
    NotActive {
        /// The snapshot.
        key: String,
        /// What it is instead.
        kind: Kind,
    },
    /// Layers come from commits only.
    #[error("snapshot {} cannot be made {kind}: only active snapshots and views are made", quoted(.key))]
    NotCreatable {
        /// The key.
        key: String,
        /// What it was to be.
        kind: Kind,
    },
    /// The parent of a new snapshot, or the one given at commit, is not there.
    #[error("parent {} of snapshot {} does not exist", quoted(.parent), quoted(.key))]
    ParentNotFound {
        /// The snapshot that was to get it.
        key: String,
        /// The parent.
        parent: String,
    },
    /// A new snapshot names a parent that is no layer.
    #[error("parent {} of snapshot {} is {kind}, not committed", quoted(.parent), quoted(.key))]
    ParentNotCommitted {
        /// The snapshot that was to get it.
        key: String,
        /// The parent.
        parent: String,
        /// What the parent is.
        kind: Kind,
    },
    /// A commit names a parent that is no layer.
    #[error("snapshot {} cannot be put on {}, which is {kind}, not committed", quoted(.key), quoted(.parent))]
    RebaseNotCommitted {
        /// The snapshot to be committed.
        key: String,
        /// The parent given at commit.
        parent: String,
        /// What that parent is.
        kind: Kind,
    },
    /// A snapshot that has a parent keeps it.
    #[error("snapshot {} has parent {} and cannot be put on {}", quoted(.key), quoted(.parent), quoted(.given))]
    ParentDiffers {
        /// The snapshot to be committed.
        key: String,
        /// The parent it has.
        parent: String,
        /// The parent given at commit.
        given: String,
    },
    /// Others stand on it. The first words are those clients look for.
    #[error("cannot remove snapshot with child: {} is the parent of {}", quoted(.key), quoted(.child))]
    HasChildren {
        /// The snapshot to be removed.
        key: String,
        /// One that has it as parent.
        child: String,
    },
    /// A filter that does not follow the grammar.
    #[error("filter {}, byte {at}: {reason}", quoted(.filter))]
    BadFilter {
        /// The filter.
        filter: String,
        /// Where, in bytes from its start.
        at: usize,
        /// What is wrong there.
        reason: String,
    },
    /// An update of a field that never changes, or that does not exist.
    #[error("field {} cannot be updated; `labels` and `labels.<name>` can", quoted(.path))]
    BadFieldPath {
        /// The path in the mask.
        path: String,
    },
    /// A new snapshot without a key, or a commit without a name.
    #[error("a snapshot needs a key that is not empty")]
    EmptyKey,
    /// Written by a later version of erolith.
    #[error("{}: schema version {version}; this erolith knows versions up to {known}", .path.display())]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its version.
        version: i64,
        /// The newest version we know.
        known: i64,
    },
    /// Written by an earlier version of erolith, and to be brought up to date by the daemon.
    #[error("{}: of an earlier version of erolith, or empty", .path.display())]
    TooOld {
        /// The database.
        path: PathBuf,
    },
    /// Not a database, not ours, or damaged.
    #[error("{}: {reason}", .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// No room for the change. Nothing of it was kept.
    #[error("{}: no space left to write", .path.display())]
    DiskFull {
        /// The database.
        path: PathBuf,
    },
    /// Another process held the database for longer than we wait.
    #[error("{}: locked by another process", .path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// The directory of a new database could not be synced.
    #[error("{}: cannot sync the directory", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What storage said.
        source: std::io::Error,
    },
    /// Anything else that SQLite reports.
    #[error("{}", .path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite { path: PathBuf::new(), source }
    }
}

impl Error {
    /// Damage seen by code that does not know the database's path; [`Error::located`] adds it.
    pub(super) fn corrupt(reason: impl Into<String>) -> Self {
        Self::Corrupt { path: PathBuf::new(), reason: reason.into() }
    }

    /// The same error with the database's path, and with the cases of SQLite told apart that callers treat differently.
    pub(super) fn located(self, database: &Path) -> Self {
        let path = database.to_path_buf();
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

    /// What a caller of the service has to know, as containerd's errdefs sort it.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::NotFound { .. } | Self::ParentNotFound { .. } => Status::NotFound,
            Self::AlreadyExists { .. } => Status::AlreadyExists,
            Self::NotActive { .. }
            | Self::RebaseNotCommitted { .. }
            | Self::HasChildren { .. }
            | Self::TooNew { .. }
            | Self::TooOld { .. } => Status::FailedPrecondition,
            Self::NotCreatable { .. }
            | Self::ParentNotCommitted { .. }
            | Self::ParentDiffers { .. }
            | Self::BadFilter { .. }
            | Self::BadFieldPath { .. }
            | Self::EmptyKey => Status::InvalidArgument,
            Self::Corrupt { .. } => Status::DataLoss,
            Self::DiskFull { .. } => Status::ResourceExhausted,
            Self::Busy { .. } => Status::Unavailable,
            Self::Directory { .. } | Self::Sqlite { .. } => Status::Internal,
        }
    }

    /// A stable name for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "snapshot-not-found",
            Self::AlreadyExists { .. } => "snapshot-exists",
            Self::NotActive { .. } => "snapshot-not-active",
            Self::NotCreatable { .. } => "snapshot-kind",
            Self::ParentNotFound { .. } => "parent-not-found",
            Self::ParentNotCommitted { .. } | Self::RebaseNotCommitted { .. } => {
                "parent-not-committed"
            }
            Self::ParentDiffers { .. } => "parent-differs",
            Self::HasChildren { .. } => "snapshot-has-children",
            Self::BadFilter { .. } => "filter",
            Self::BadFieldPath { .. } => "field-path",
            Self::EmptyKey => "empty-key",
            Self::TooNew { .. } => "metadata-too-new",
            Self::TooOld { .. } => "metadata-too-old",
            Self::Corrupt { .. } => "metadata-damaged",
            Self::DiskFull { .. } => "metadata-disk-full",
            Self::Busy { .. } => "metadata-locked",
            Self::Directory { .. } => "metadata-sync",
            Self::Sqlite { .. } => "metadata",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Corrupt { .. } => Class::Input,
            Self::TooNew { .. } | Self::TooOld { .. } | Self::Busy { .. } => Class::Environment,
            Self::DiskFull { .. } | Self::Directory { .. } | Self::Sqlite { .. } => Class::Io,
            _ => Class::Usage,
        }
    }

    /// What to do about it, when something can be done.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::TooNew { .. } => {
                "run the erolith that wrote it, or a later one; there is no way back to an older schema"
            }
            Self::TooOld { .. } => {
                "start the daemon once: it makes the database one of its version"
            }
            Self::Corrupt { .. } => {
                "run `erolith repair`: it makes the database anew of what is in the directories, and keeps this one beside"
            }
            Self::DiskFull { .. } => "free space on the filesystem of the root directory",
            Self::Busy { .. } => "close other programs that have the database open",
            _ => return None,
        })
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
