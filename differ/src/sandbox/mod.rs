//! Layers are read in a process that can do nothing else.
//!
//! The daemon is privileged, and layers are untrusted. With [`Isolation::Worker`](crate::apply::Isolation::Worker) it reads
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
mod protection;
mod pump;
mod socket;
mod spare;
#[cfg(test)]
pub(crate) mod tests;
mod wire;
mod worker;

use std::ffi::OsString;
use std::path::PathBuf;

pub use protection::Protection;
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
