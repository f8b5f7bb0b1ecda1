//! Writable layers that cannot be limited.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use erolith_errors::error_table;

error_table! {
    /// Why a writable layer cannot be kept to a size.
    pub enum LimitError {
        /// A label or a setting that is no size of a writable layer.
        BadSize {
            /// The label or the setting.
            what: &'static str,
            /// Its value.
            value: String,
            /// What is wrong with it.
            reason: &'static str,
        } => {
            code: "limit",
            class: Usage,
            status: InvalidArgument,
            text: ("{what} {value}: {reason}"),
        }
        /// A limit of a writable layer that would not be enforced.
        Unlimited {
            /// Its directory.
            dir: PathBuf,
            /// Why not.
            reason: String,
        } => {
            code: "unlimited",
            class: Environment,
            status: FailedPrecondition,
            text: ("{}: the limit of the writable layer would not be kept: {reason}", dir.display()),
            advice: "mount the filesystem with project quota (prjquota or pquota), or let limits be kept by images",
        }
        /// A program of the system could not be started.
        Program {
            /// Its name.
            program: &'static str,
            /// The package that has it.
            package: &'static str,
            /// Why not.
            source: io::Error,
        } => {
            code: "program",
            class: Environment,
            status: FailedPrecondition,
            text: ("starting {program}, of the package {package}"),
            cause: source,
            advice: "install the package, or use a filesystem with project quota",
        }
        /// mkfs.ext4 failed.
        Mkfs {
            /// Where the filesystem should be.
            image: String,
            /// How it ended.
            status: ExitStatus,
            /// What it said.
            said: String,
        } => {
            code: "mkfs",
            class: Environment,
            status: Internal,
            text: ("{image}: mkfs.ext4 ended with {status}: {said}"),
            advice: "look at the disk: the message has what mkfs.ext4 printed",
        }
    }
}
