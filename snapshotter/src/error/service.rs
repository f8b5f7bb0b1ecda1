//! Requests and settings that the state of the service does not allow.

use std::path::PathBuf;

use super::status::of_conversion;
use super::table::error_table;
use super::{Class, Status};

error_table! {
    /// Why the service does not do what it was asked for, or does not start.
    pub enum ServiceError {
        /// A label of containerd that maps owners has another form than `container:host:length[,...]`.
        IdMap {
            /// The label.
            label: &'static str,
            /// Its value.
            value: String,
            /// What is wrong with it.
            reason: &'static str,
        } => {
            code: "id-map",
            class: Class::Usage,
            status: Status::InvalidArgument,
            text: ("label {label}={value}: {reason}"),
        }
        /// A setting that cannot be.
        Config {
            /// Which one.
            setting: &'static str,
            /// Its value.
            value: String,
            /// Why not.
            reason: &'static str,
        } => {
            code: "config",
            class: Class::Usage,
            status: Status::InvalidArgument,
            text: ("{setting} {value}: {reason}"),
        }
        /// Committed snapshots have no mounts of their own.
        Committed {
            /// Its name.
            key: String,
        } => {
            code: "committed",
            class: Class::Usage,
            status: Status::FailedPrecondition,
            text: ("snapshot {key} is committed: only active snapshots and views have mounts"),
        }
        /// A layer cannot be written where one is in use.
        Finished {
            /// The directory of the layer.
            dir: PathBuf,
        } => {
            code: "finished",
            class: Class::Usage,
            status: Status::FailedPrecondition,
            text: ("{}: the snapshot is not active, its layer is not written again", dir.display()),
        }
        /// Another daemon works on the same directory.
        InUse {
            /// The directory.
            dir: PathBuf,
            /// The process, as it wrote itself down.
            pid: Option<u32>,
        } => {
            code: "in-use",
            class: Class::Environment,
            status: Status::FailedPrecondition,
            text: (
                "{}: in use by {}",
                dir.display(),
                pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
            ),
            advice: "stop the other daemon, or give this one directories of its own",
        }
        /// Snapshots lie there, but the database that knows them does not.
        DatabaseMissing {
            /// The root of the service.
            root: PathBuf,
        } => {
            code: "database-missing",
            class: Class::Io,
            status: Status::FailedPrecondition,
            text: ("{}: there are snapshots but no database", root.display()),
            advice: "run `erolith repair`, which makes it anew; or put metadata.db back, with metadata.db-wal if there is one",
        }
        /// There is a database that needs no repair.
        DatabaseSound {
            /// The database.
            path: PathBuf,
            /// What it is.
            state: &'static str,
        } => {
            code: "database-sound",
            class: Class::Usage,
            status: Status::FailedPrecondition,
            text: ("{}: {state}", path.display()),
            advice: "start the daemon; --force makes the database from the records all the same",
        }
        /// Another request changed the snapshot in the middle of this one.
        Raced {
            /// Its name.
            key: String,
        } => {
            code: "raced",
            class: Class::Usage,
            status: Status::Unavailable,
            text: ("snapshot {key} was changed by another request meanwhile"),
        }
        /// The content of a snapshot could not be made an image.
        Convert {
            /// Number of the snapshot.
            id: u64,
            /// Why.
            source: erolith_overlay::Error,
        } => {
            code: source.code(),
            class: Class::Input,
            status: of_conversion(source),
            text: ("snapshot {id}: making its image"),
            cause: source,
        }
    }
}
