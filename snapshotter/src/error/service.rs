//! Requests and settings that the state of the service does not allow.

use std::path::PathBuf;

use erolith_errors::error_table;

use super::status::of_conversion;

error_table! {
    /// Why the service does not do what it was asked for, or does not start.
    pub enum ServiceError {
        /// A label of owners that is no map, which has the form `container:host:length[,...]`.
        IdMap {
            /// The label.
            label: &'static str,
            /// Its value.
            value: String,
            /// What is wrong with it.
            reason: &'static str,
        } => {
            code: "id-map",
            class: Usage,
            status: InvalidArgument,
            text: ("label {label}={value}: {reason}"),
        }
        /// A setting with a value that it does not take.
        Config {
            /// Which one.
            setting: &'static str,
            /// Its value.
            value: String,
            /// Why not.
            reason: &'static str,
        } => {
            code: "config",
            class: Usage,
            status: InvalidArgument,
            text: ("{setting} {value}: {reason}"),
        }
        /// Committed snapshots have no mounts of their own.
        Committed {
            /// Its name.
            key: String,
        } => {
            code: "committed",
            class: Usage,
            status: FailedPrecondition,
            text: ("snapshot {key} is committed: only active snapshots and views have mounts"),
        }
        /// A layer that is in use is not written again.
        Finished {
            /// The directory of the layer.
            dir: PathBuf,
        } => {
            code: "finished",
            class: Usage,
            status: FailedPrecondition,
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
            class: Environment,
            status: FailedPrecondition,
            text: (
                "{}: in use by {}",
                dir.display(),
                pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
            ),
            advice: "stop the other daemon, or give this one directories of its own",
        }
        /// Snapshots without their database.
        DatabaseMissing {
            /// The root of the service.
            root: PathBuf,
        } => {
            code: "database-missing",
            class: Io,
            status: FailedPrecondition,
            text: ("{}: there are snapshots but no database", root.display()),
            advice: "run `erolith repair`, which makes it anew; or put metadata.db back, with metadata.db-wal if there is one",
        }
        /// A database that needs no repair.
        DatabaseSound {
            /// The database.
            path: PathBuf,
            /// What it is.
            state: &'static str,
        } => {
            code: "database-sound",
            class: Usage,
            status: FailedPrecondition,
            text: ("{}: {state}", path.display()),
            advice: "start the daemon; --force makes the database from the records all the same",
        }
        /// Another request changed the snapshot at the same time.
        Raced {
            /// Its name.
            key: String,
        } => {
            code: "raced",
            class: Usage,
            status: Unavailable,
            text: ("snapshot {key} was changed by another request at the same time"),
            advice: "send the request again",
        }
        /// The content of a snapshot could not be made an image.
        Convert {
            /// Number of the snapshot.
            id: u64,
            /// Why.
            source: erolith_overlay::Error,
        } => {
            code: { source.code() },
            class: Input,
            status: { of_conversion(source) },
            text: ("snapshot {id}: making its image"),
            cause: source,
        }
    }
}
