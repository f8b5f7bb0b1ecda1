//! `erolith serve`, started, killed and stopped.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::injector::{Fault, Injector};

/// What sd_listen_fds(3) says: descriptor 3, and the process id of who gets it.
const HAND_OVER: &str = r#"exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@""#;

/// How long a daemon may take to listen or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a daemon is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The binary.
    pub program: PathBuf,
    /// Configuration, log, and the socket.
    pub dir: PathBuf,
    /// Where it keeps its snapshots.
    pub root: PathBuf,
    /// Where it mounts layers; short.
    pub state: PathBuf,
    /// containerd's socket and root.
    pub containerd: (PathBuf, PathBuf),
    /// More of the configuration, TOML: tables, for it comes last.
    pub config: String,
    /// Variables of its environment, `NAME=value`: those that arm faults, see `fault.rs` of the crates.
    pub environment: Vec<String>,
    /// A socket that is handed over to it, as systemd does; else it makes its own.
    pub handed: Option<Arc<UnixListener>>,
    /// The command that enters the namespaces where it is to run; empty for those of the test.
    pub enter: Vec<String>,
}

impl Setup {
    /// A daemon without a containerd, in `dir`; blobs come from `dir/containerd`.
    pub fn alone(program: impl Into<PathBuf>, dir: &Path) -> Self {
        Self {
            program: program.into(),
            dir: dir.to_owned(),
            root: dir.join("root"),
            state: "/run/e".into(),
            containerd: (dir.join("no-containerd"), dir.join("containerd")),
            config: String::new(),
            environment: Vec::new(),
            handed: None,
            enter: Vec::new(),
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("s/sock")
    }

    /// What it has logged, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("erolith.log")).unwrap_or_default()
    }

    /// What SQLite says of its database, which is `ok` when nothing is wrong.
    pub fn database_verdict(&self) -> String {
        // Not made: one that is missing is not sound.
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let verdict = rusqlite::Connection::open_with_flags(self.root.join("metadata.db"), flags)
            .and_then(|db| db.query_row("PRAGMA integrity_check", [], |row| row.get(0)));
        verdict.unwrap_or_else(|error| format!("cannot be read: {error}"))
    }

    fn write_config(&self) -> Result<PathBuf, String> {
        let path = self.dir.join("erolith.toml");
        let (address, root) = &self.containerd;
        let text = format!(
            "root = {:?}\nstate = {:?}\naddress = {:?}\n[containerd]\naddress = {address:?}\nroot = {root:?}\n{}",
            self.root,
            self.state,
            self.socket(),
            self.config,
        );
        let file = File::create(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        file.map_err(|e| format!("{}: {e}", path.display())).map(|()| path)
    }

    fn command(&self) -> Result<Command, String> {
        let config = self.write_config()?;
        fs::create_dir_all(self.dir.join("s")).map_err(|e| e.to_string())?;
        let log = File::options().create(true).append(true).open(self.dir.join("erolith.log"));
        let log = log.map_err(|e| format!("the log: {e}"))?;
        let again = log.try_clone().map_err(|e| format!("the log: {e}"))?;
        // The way in ends with `env`, too.
        let none = ["env".to_owned()];
        let enter = if self.enter.is_empty() { &none[..] } else { &self.enter[..] };
        let (first, rest) = enter.split_first().ok_or("no command")?;
        let mut command = Command::new(first);
        command.args(rest).args(&self.environment).stdin(Stdio::null());
        if let Some(handed) = &self.handed {
            let socket = handed.try_clone().map_err(|e| format!("the socket: {e}"))?;
            command.args(["sh", "-c", HAND_OVER, "sh"]).stdin(OwnedFd::from(socket));
        }
        command.arg(&self.program).args(["serve", "--config"]).arg(config);
        command.stdout(again).stderr(log);
        Ok(command)
    }
}

/// A running `erolith serve`; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// How it was started.
    pub setup: Setup,
}

impl Daemon {
    /// Starts one and waits until it listens.
    ///
    /// # Errors
    /// Why it does not, with what it logged.
    pub fn start(setup: Setup) -> Result<Self, String> {
        let child = setup.command()?.spawn().map_err(|e| format!("erolith serve: {e}"))?;
        Self { child, setup }.listening()
    }

    /// As [`Daemon::start`], one of whose system calls fails. The injector tells of it when the daemon is gone.
    ///
    /// # Errors
    /// That it cannot be watched. Why it does not listen is inside.
    pub fn start_failing(
        setup: Setup,
        fault: Option<Fault>,
    ) -> Result<(Injector, Result<Self, String>), String> {
        let mut command = setup.command()?;
        Injector::watch(&mut command);
        let child = command.spawn().map_err(|e| format!("erolith serve: {e}"))?;
        let daemon = Self { child, setup };
        let injector = Injector::start(&daemon.child, fault);
        let injector = injector.map_err(|e| format!("watching system calls: {e}"))?;
        Ok((injector, daemon.listening()))
    }

    fn listening(self) -> Result<Self, String> {
        let mut daemon = self;
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(daemon.setup.socket()).is_err() {
            if let Some(status) = daemon.ended() {
                let log = daemon.setup.log();
                return Err(format!("erolith serve ended: {status}\n{}", tail(&log)));
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "erolith serve does not listen\n{}",
                    tail(&daemon.setup.log())
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    /// Its status when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it has ended by itself, as at a fault point. Tells whether SIGKILL ended it.
    ///
    /// # Errors
    /// When it goes on.
    pub fn died(&mut self) -> Result<bool, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Ok(status.signal() == Some(9) || status.code() == Some(137));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err("erolith serve goes on".to_owned())
    }

    /// Its process id as this process counts; `None` when it is gone.
    pub fn pid(&self) -> Option<u32> {
        let child = self.child.id();
        if self.setup.enter.is_empty() {
            return Some(child);
        }
        // The way in forks once.
        let children = fs::read_to_string(format!("/proc/{child}/task/{child}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended in the meantime.
            let _ = kill_process(pid, signal);
        }
    }

    /// `kill -9`, and waits.
    pub fn kill(mut self) -> Setup {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
        self.setup.clone()
    }

    /// SIGTERM, and waits.
    ///
    /// # Errors
    /// When it takes too long, or its status is not 0.
    pub fn stop(mut self) -> Result<Setup, String> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ended() {
                Some(status) if status.success() => return Ok(self.setup.clone()),
                Some(status) => return Err(format!("{status}\n{}", tail(&self.setup.log()))),
                None if Instant::now() > deadline => return Err("still there".to_owned()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
        relay_in_panic("erolith", || self.setup.log());
    }
}

/// Says what a program logged last, when a test fails with it.
pub(super) fn relay_in_panic(program: &str, log: impl FnOnce() -> String) {
    if std::thread::panicking() {
        crate::tools::relay(&format!("{program}'s log:\n{}", tail(&log())));
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
}
