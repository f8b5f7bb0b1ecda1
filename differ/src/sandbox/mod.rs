//! Layers are read in a process that can do nothing else.
//!
//! The daemon is privileged, and layers are written by strangers. With [`Isolation::Worker`](crate::apply::Isolation::Worker) it looks into
//! none itself: for each layer it starts its own program once more, gives it open files and one socket, and takes an
//! answer. What decompresses, parses, checks and hashes is [`crate::apply`], the same code as in one process; the daemon
//! protects and publishes the result after the worker has ended and no longer writes to the file. What a
//! layer promises of itself, digest or hash tree, the daemon verifies itself.
//!
//! ```text
//! daemon                                             worker (`erolith worker`, socket on descriptor 0)
//!                                                      gives up its rights (enter)
//!   order + blob, file of the image, scratch file  ->
//!                                                      limits, filter of system calls (limits, filter)
//!                                                  <-  what protects it
//!                                                      reads the layer
//!                                                  <-  so much was read; images of the layers below wanted
//!   their files                                    ->
//!                                                  <-  the result, or the error
//! ```
//!
//! Where layers follow each other, workers are copies of one that has given up its rights and has read nothing (fork_server,
//! spare); that takes a tenth of the time.
//!
//! It is cancelled by killing the worker, and a worker whose daemon dies is killed by the kernel. What a worker says of
//! its layer is believed: one that was taken over can make a wrong image of that layer, under any diffID, and nothing else.
//! With a digest that is not that of the image, this is refused where the kernel measures, and found by a scrub elsewhere.

mod enter;
mod filter;
mod fork_server;
mod limits;
mod parent;
mod process;
mod pump;
mod socket;
mod spare;
#[cfg(test)]
pub(crate) mod tests;
mod wire;
mod worker;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use spare::Spare;
pub use worker::run;

/// How to start a worker.
#[derive(Debug)]
pub struct Worker {
    program: PathBuf,
    args: Vec<OsString>,
    /// Those that wait for the next layer.
    spare: Option<Spare>,
}

impl Worker {
    /// A program that calls [`run`] when it gets these arguments.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = OsString>) -> Self {
        Self { program: program.into(), args: args.into_iter().collect(), spare: None }
    }

    /// As this one, and from the first layer on workers are copies of a fork server, which waits for some seconds after a layer.
    /// For a process that takes many layers one after the other.
    #[must_use]
    pub fn with_spare(self) -> Self {
        Self { spare: Some(Spare::default()), ..self }
    }

    /// This program, with the argument `worker`. It is the same file even when its path has got another one since.
    #[must_use]
    pub fn this_program() -> Self {
        Self::new("/proc/self/exe", [OsString::from("worker")])
    }
}

/// What protects the rest of the system from a worker. The filter of system calls, the limits of resources, no new
/// privileges, no capabilities and no other descriptors are always there: without them no layer is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Whether the user is `nobody`. Not where the daemon is no root itself, or `nobody` is not mapped.
    pub nobody: bool,
    /// Are all capabilities gone from the bounding set too? That takes `CAP_SETPCAP`.
    pub bounding: bool,
    /// Network, IPC and UTS namespaces of its own. These take `CAP_SYS_ADMIN`, as the next does.
    pub namespaces: bool,
    /// A mount namespace with nothing in it.
    pub mounts: bool,
    /// Landlock: no file can be opened, no address connected to. Since Linux 5.13.
    pub landlock: bool,
}

impl Protection {
    fn parts(&self) -> [(&'static str, bool); 5] {
        let Self { nobody, bounding, namespaces, mounts, landlock } = *self;
        [
            ("user nobody", nobody),
            ("empty bounding set", bounding),
            ("own namespaces", namespaces),
            ("no mounts", mounts),
            ("Landlock", landlock),
        ]
    }

    /// Is everything in force?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.parts().iter().all(|(_, in_force)| *in_force)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seccomp, limits, no capabilities")?;
        for (name, _) in self.parts().iter().filter(|(_, in_force)| *in_force) {
            write!(f, ", {name}")?;
        }
        let missing = self.parts().into_iter().filter(|(_, in_force)| !in_force);
        for (n, (name, _)) in missing.enumerate() {
            write!(f, "{}{name}", if n == 0 { "; not in force: " } else { ", " })?;
        }
        Ok(())
    }
}
