//! The server under test: erolith, or containerd's own EROFS snapshotter and differ, which get the same work and the same cuts.
//!
//! Everything in which the two differ is here.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use erolith_tests::node::{Daemon, Leftovers, Setup};
use tonic::Status;

use crate::rpc::detach;

/// How long it may take to listen, emulated.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Erolith,
    /// As `tests/snapshotter-suite/reference` serves it, with its defaults. What is wrong with it is counted, and the run
    /// goes on.
    Containerd,
}

/// One that runs; killed when dropped.
#[derive(Debug)]
pub(crate) enum Running {
    Erolith(Box<Daemon>),
    Containerd(Reference),
}

/// The process of containerd's.
#[derive(Debug)]
pub(crate) struct Reference(Child);

/// What may be wrong. The words are counted on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// An acknowledged snapshot, or its kind or parent.
    Gone,
    /// What was removed, or was never made.
    Back,
    /// Part of a call.
    Half,
    /// The image of a committed snapshot is not there,
    Missing,
    /// has no byte but zeros,
    Empty,
    /// or is not a sound one.
    Damaged,
    /// A chain cannot be mounted,
    Unmountable,
    /// or shows something else.
    Content,
    /// What was not acknowledged cannot be done again.
    Again,
    /// Any other call fails that must succeed.
    Refused,
    /// A file or directory that belongs to no snapshot.
    Leftover,
}

impl Server {
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "erolith" => Self::Erolith,
            "containerd" => Self::Containerd,
            _ => panic!("no server {name}"),
        }
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(self, setup: &Setup) -> Running {
        match self {
            Self::Erolith => {
                let daemon = Daemon::start(setup.clone()).unwrap_or_else(|why| panic!("{why}"));
                Running::Erolith(Box::new(daemon))
            }
            Self::Containerd => Running::Containerd(Reference::start(setup)),
        }
    }

    /// Whether what is wrong ends the run.
    pub(crate) fn must_be_right(self) -> bool {
        self == Self::Erolith
    }

    /// Whether it has a call that removes what belongs to no snapshot. containerd's does that when something is removed.
    pub(crate) fn has_cleanup(self) -> bool {
        self == Self::Erolith
    }

    /// Whether layers may be mounted as long as their snapshots are there: containerd's mounts what it was asked for.
    pub(crate) fn keeps_mounts(self) -> bool {
        self == Self::Containerd
    }

    /// Whether this is how it says that it has no snapshot yet.
    pub(crate) fn has_none(self, status: &Status) -> bool {
        self == Self::Containerd && status.message().starts_with("bucket does not exist")
    }

    /// What SQLite says of its database, if it has one of SQLite.
    pub(crate) fn database_verdict(self, setup: &Setup) -> Option<String> {
        (self == Self::Erolith).then(|| setup.database_verdict())
    }

    /// What finds faults in its images: each has its own.
    pub(crate) fn judge(self, image: &Path) -> Command {
        let mut command = match self {
            Self::Erolith => {
                let mut command = Command::new("erolith");
                command.args(["fsck", "--data"]);
                command
            }
            Self::Containerd => Command::new("fsck.erofs"),
        };
        command.arg(image);
        command
    }

    /// Names in the directory of a snapshot.
    pub(crate) fn files_of_a_snapshot(self) -> &'static [&'static str] {
        match self {
            Self::Erolith => &["fs", "work", ".erofslayer", "layer.erofs", "snapshot.json"],
            Self::Containerd => &["fs", "work", ".erofslayer", "layer.erofs"],
        }
    }

    /// Names in its root.
    pub(crate) fn files(self) -> &'static [&'static str] {
        match self {
            Self::Erolith => &[
                "lock",
                "identity",
                "metadata.db",
                "metadata.db-wal",
                "metadata.db-shm",
                "snapshots",
                "images",
            ],
            Self::Containerd => &["metadata.db", "snapshots"],
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

impl Running {
    /// Ends it: with SIGTERM the one that must end well.
    pub(crate) fn stop(self) {
        match self {
            Self::Erolith(daemon) => {
                daemon.stop().unwrap_or_else(|why| panic!("stop: {why}"));
            }
            Self::Containerd(reference) => drop(reference),
        }
    }
}

impl Reference {
    fn start(setup: &Setup) -> Self {
        let socket = setup.socket();
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        // A name that is there cannot be listened at.
        fs::remove_file(&socket).ok();
        // Where the setup looks for a log.
        let log = setup.dir.join("erolith.log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new("erofs-reference");
        command.arg("--root").arg(&setup.root).arg("--address").arg(&socket);
        command.arg("--content").arg(setup.containerd.1.join("io.containerd.content.v1.content"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut out = Self(command.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&socket).is_err() {
            let goes_on = out.0.try_wait().unwrap().is_none() && Instant::now() < deadline;
            assert!(goes_on, "erofs-reference does not listen: {}", setup.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        out
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Removes everything that a server left that no longer runs, so that one begins anew.
pub(crate) fn wipe(setup: &Setup) {
    let left = Leftovers::of(std::process::id(), &setup.root, &setup.state).unwrap();
    for point in left.mounts.iter().rev() {
        detach(point);
    }
    fs::remove_dir_all(&setup.root).ok();
    // No later cut brings a part of it back.
    rustix::fs::sync();
}
