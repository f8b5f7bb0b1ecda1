//! The daemon as its service manager and its users meet it: sockets, notifications, signals, metrics.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(20);

/// Directories for a daemon.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let mut builder = tempfile::Builder::new();
        Self(builder.permissions(Permissions::from_mode(0o700)).tempdir_in("/var/tmp").unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }

    /// `erolith serve` with everything in this place.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("serve")
            .args([self.flag("root", "root"), self.flag("state", "state")])
            .args([self.flag("address", "sock"), self.flag("containerd-address", "none")])
            .arg("--containerd-root=")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.path("log")).unwrap());
        command
    }

    fn start(&self, change: impl FnOnce(&mut Command)) -> Daemon<'_> {
        let mut command = self.command(env!("CARGO_BIN_EXE_erolith"));
        change(&mut command);
        Daemon { place: self, child: command.spawn().unwrap() }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Waits until a process answers at a socket.
    fn connect(&self, name: &str) -> UnixStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(self.path(name)) {
                Ok(stream) => return stream,
                Err(e) => assert!(Instant::now() < deadline, "{e}: {}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Daemon<'p> {
    place: &'p Place,
    child: Child,
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon<'_> {
    /// Waits until it serves, and has it stop.
    fn stop_when_up(self) {
        drop(self.place.connect("sock"));
        self.stop(Signal::TERM);
    }

    /// Asks it to stop; it must, in time and without an error.
    fn stop(mut self, signal: Signal) {
        let start = Instant::now();
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.place.log());
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

fn refused(mut command: Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.stderr(Stdio::piped()).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn it_stops_when_asked_and_takes_its_socket_away() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let daemon = place.start(|_| ());
        place.connect("sock");
        daemon.stop(signal);
        assert!(!place.path("sock").exists());
        assert!(place.log().contains("stopping"), "{}", place.log());
    }
}

#[test]
fn a_killed_daemon_is_no_obstacle_and_a_living_one_is() {
    let place = Place::new();
    let daemon = place.start(|_| ());
    place.connect("sock");
    let pid = daemon.child.id().to_string();
    let (code, message) = refused(place.command(env!("CARGO_BIN_EXE_erolith")));
    assert_eq!(code, 4, "{message}");
    assert!(message.contains(&pid), "{message} names not {pid}");

    let other = Place::new();
    let mut command = other.command(env!("CARGO_BIN_EXE_erolith"));
    command.arg(place.flag("address", "sock"));
    // A flag that is given twice is a mistake of its own.
    let (code, _) = refused(command);
    assert_eq!(code, 2);

    drop(daemon);
    assert!(place.path("sock").exists(), "it was killed");
    let daemon = place.start(|_| ());
    place.connect("sock");
    daemon.stop(Signal::TERM);
}

#[test]
fn a_lost_or_damaged_database_is_refused_and_can_be_made_again() {
    use erolith_snapshotter::service::{Config, Snapshotter};
    use erolith_snapshotter::store::Labels;
    let place = Place::new();
    let config = || Config { state: place.path("state"), ..Config::new(place.path("root")) };
    let repair = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_erolith"));
        command.arg("repair").arg(place.flag("root", "root")).args(flags);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said = String::from_utf8([stdout, stderr].concat()).unwrap();
        (status.code().unwrap(), said)
    };
    let service = Snapshotter::open(config()).unwrap();
    for key in ["a-container", "another"] {
        service.prepare(key, "", &Labels::new()).unwrap();
    }
    let (code, said) = repair(&[]);
    assert!(code == 4 && said.contains("in use by process"), "{code}: {said}");
    drop(service);
    let (code, said) = repair(&[]);
    assert!(code == 2 && said.contains("sound") && said.contains("--force"), "{code}: {said}");

    let database = place.path("root").join("metadata.db");
    let breaks: [fn(&std::path::Path); 3] = [
        |database| fs::write(database, "no database").unwrap(),
        |database| fs::write(database, "").unwrap(),
        |database| fs::remove_file(database).unwrap(),
    ];
    for break_it in breaks {
        break_it(&database);
        let (code, said) = refused(place.command(env!("CARGO_BIN_EXE_erolith")));
        assert!(code != 0 && said.contains("erolith repair"), "{code}: {said}");
        let before = fs::read(&database).ok();
        let (code, said) = repair(&["--dry-run"]);
        assert!(code == 0 && said.contains("nothing was changed"), "{code}: {said}");
        assert!(said.contains("a-container") && said.contains("another"), "{said}");
        assert_eq!(fs::read(&database).ok(), before);
        let (code, said) = repair(&["--json"]);
        let lines: Vec<serde_json::Value> =
            said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((code, lines.len()), (0, 3), "{said}");
        assert_eq!((&lines[0]["action"], &lines[2]["done"]), (&"restore".into(), &true.into()));
        place.start(|_| ()).stop_when_up();
        let service = Snapshotter::open(config()).unwrap();
        assert_eq!(service.stat("a-container").unwrap().name, "a-container");
    }
}

#[test]
fn the_service_manager_is_told() {
    let place = Place::new();
    let manager = UnixDatagram::bind(place.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut buf = [0; 256];
        let n = manager.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..n]).trim().to_owned()
    };
    let daemon = place.start(|command| {
        command.env("NOTIFY_SOCKET", place.path("notify")).env("WATCHDOG_USEC", "300000");
    });
    // The watchdog begins as soon as it is ready; the first tick may arrive before.
    let mut told = vec![next(), next(), next()];
    told.sort();
    assert_eq!(told, ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
    place.connect("sock");
    daemon.stop(Signal::TERM);
    let last = std::iter::repeat_with(next).find(|state| state != "WATCHDOG=1");
    assert_eq!(last.unwrap(), "STOPPING=1");
}

#[test]
fn a_socket_that_is_handed_over_is_served_and_stays() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path("handed")).unwrap();
    let program = env!("CARGO_BIN_EXE_erolith");
    // What sd_listen_fds(3) says: descriptor 3, and our own process id.
    let script = r#"exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@""#;
    let inner = place.command(program);
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", program]).args(inner.get_args());
    command.stdin(OwnedFd::from(listener)).stderr(fs::File::create(place.path("log")).unwrap());
    let daemon = Daemon { place: &place, child: command.spawn().unwrap() };
    let mut stream = place.connect("handed");
    // The server of HTTP/2 speaks first.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[3], 4, "SETTINGS");
    drop(stream);
    assert!(!place.path("sock").exists(), "its own socket");
    daemon.stop(Signal::TERM);
    assert!(place.path("handed").exists());
}

#[test]
fn metrics_and_logs_are_for_machines() {
    let place = Place::new();
    let address = format!("--metrics-address=unix:{}", place.path("metrics").display());
    let daemon = place.start(|command| {
        command.args([&address, "--log-format=json"]);
    });
    let mut stream = place.connect("metrics");
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.contains("erolith_snapshots{kind=\"active\"} 0\n"), "{reply}");
    assert_eq!(fs::metadata(place.path("metrics")).unwrap().permissions().mode() & 0o777, 0o600);
    daemon.stop(Signal::TERM);
    assert!(!place.path("metrics").exists());
    for line in place.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
}

#[test]
fn words_of_the_last_release_are_taken_with_a_warning_each() {
    let place = Place::new();
    let old =
        "[snapshotter]\nfs_verity = 'if-possible'\ndm_verity = 'on'\n[differ]\ndm_verity = false\n";
    let new =
        "[snapshotter]\nfs_verity = 'auto'\ndm_verity = 'auto'\n[differ]\ndm_verity = 'off'\n";
    for (text, warnings) in [(old, 3), (new, 0)] {
        fs::write(place.path("config.toml"), text).unwrap();
        let config = place.flag("config", "config.toml");
        let daemon = place.start(|command| {
            command.arg(config);
        });
        daemon.stop_when_up();
        let log = place.log();
        let found: Vec<_> =
            log.lines().filter(|line| line.contains("in this release only")).collect();
        assert_eq!(found.len(), warnings, "{log}");
        for word in ["auto", "required", "off"].iter().take(warnings) {
            let named = |line: &&str| line.contains(&format!("write \"{word}\""));
            assert_eq!(found.iter().filter(|line| named(line)).count(), 1, "{word}: {log}");
        }
    }
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    let place = Place::new();
    for (text, word) in [
        ("adress = '/x'", "adress"),
        ("[log]\nlevel = 'erolith=loud'", "loud"),
        ("root = 'relative'", "root"),
        ("[snapshotter]\noverlay_options = ['lowerdir=/']", "lowerdir"),
    ] {
        fs::write(place.path("config.toml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_erolith"));
        command.arg("serve").arg(place.flag("config", "config.toml"));
        if !text.starts_with("root") {
            command.args([place.flag("root", "root"), place.flag("state", "state")]);
        }
        command.arg(place.flag("address", "sock"));
        let (code, message) = refused(command);
        assert_eq!(code, 2, "{message}");
        assert!(message.contains(word), "{message}");
    }
}
