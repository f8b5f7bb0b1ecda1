//! A node: erolith's daemon and a real containerd that uses it, both stopped and everything unmounted when dropped.

pub mod cri;
mod daemon;
mod docker;
mod isolated;
mod leftovers;
mod registry;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::cri::Cri;
pub use self::daemon::{Daemon, Setup};
pub use self::docker::Docker;
pub use self::isolated::{disk, isolated};
pub use self::leftovers::Leftovers;
pub use self::registry::Registry;
use crate::tools::cache;

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containerd {
    /// 2.1, of Debian sid.
    Sid,
    /// 1.7, of Debian trixie.
    Trixie,
}

/// One way to unpack: a snapshotter of containerd and its differ. `erolith` is ours, in both places.
pub type Pair = (&'static str, &'static str);

/// A containerd with the plugins of a daemon, in namespaces of their own.
#[derive(Debug)]
pub struct Node {
    // First, so that it is dropped before the world it runs in.
    daemon: Option<Daemon>,
    setup: Setup,
    dir: tempfile::TempDir,
    world: u32,
    /// Which containerd it is.
    pub containerd: Containerd,
}

impl Containerd {
    fn root(self) -> &'static str {
        match self {
            Self::Sid => "sid",
            Self::Trixie => "trixie",
        }
    }

    fn installed(self) -> Result<(), String> {
        let path = cache().join(self.root()).join("usr/bin/containerd");
        if path.exists() {
            return Ok(());
        }
        Err(format!("{} is missing: run testdata/{}-root.sh", path.display(), self.root()))
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/containerd.sh")
}

/// Plugins of `address` and the ways to unpack; the first differ is that of the diff service too.
fn plugins(address: &Path, root: &Path, pairs: &[Pair]) -> String {
    let mut text = format!(
        "[proxy_plugins.erolith]\ntype = \"snapshot\"\naddress = {address:?}\n\
         [proxy_plugins.erolith.exports]\nroot = {root:?}\n\
         [proxy_plugins.erolith-diff]\ntype = \"diff\"\naddress = {address:?}\n"
    );
    let differ =
        |name: &str| if name == "erolith" { "erolith-diff".into() } else { name.to_owned() };
    let mut order: Vec<_> = pairs.iter().map(|(_, name)| differ(name)).collect();
    order.push("walking".to_owned());
    order.dedup();
    text += &format!("[plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = {order:?}\n");
    for (snapshotter, name) in pairs {
        let platform = format!("linux/{}", crate::layout::host_architecture());
        text += &format!(
            "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = {platform:?}\n\
             snapshotter = {snapshotter:?}\ndiffer = {:?}\n",
            differ(name)
        );
    }
    text
}

impl Node {
    /// Starts both. `config` is more of erolith's configuration: tables.
    ///
    /// # Errors
    /// What is missing, for [`crate::need!`].
    ///
    /// # Panics
    /// When everything is there and does not start.
    pub fn start(
        program: &str,
        containerd: Containerd,
        pairs: &[Pair],
        config: &str,
    ) -> Result<Self, String> {
        containerd.installed()?;
        let dir = disk()?;
        let place = dir.path().join("c");
        let setup = Setup {
            state: "/run/e".into(),
            containerd: (place.join("sock"), place.join("root")),
            config: config.to_owned(),
            ..Setup::alone(program, &place.join("e"))
        };
        let extra = plugins(&setup.socket(), &setup.root, pairs);
        Ok(Self::start_with(dir, setup, containerd, &extra, false))
    }

    /// Starts both with the part of containerd's configuration that concerns erolith as `erolith serve` prints it, in a
    /// file of its own that is imported.
    ///
    /// # Errors
    /// What is missing, for [`crate::need!`].
    ///
    /// # Panics
    /// When everything is there and does not start.
    pub fn start_as_printed(program: &str, containerd: Containerd) -> Result<Self, String> {
        Self::start_printed(program, containerd, |printed| printed, None)
    }

    /// As [`Node::start_as_printed`], where `dropin` may change what is printed. `cri` gives more of containerd's own file,
    /// for the node's place, and has CRI be served.
    fn start_printed(
        program: &str,
        containerd: Containerd,
        dropin: impl FnOnce(String) -> String,
        cri: Option<&dyn Fn(&Path) -> String>,
    ) -> Result<Self, String> {
        containerd.installed()?;
        let dir = disk()?;
        let place = dir.path().join("c");
        let setup = Setup {
            state: "/run/e".into(),
            containerd: (place.join("sock"), place.join("root")),
            ..Setup::alone(program, &place.join("e"))
        };
        let version = if containerd == Containerd::Sid { "2.1" } else { "1.7" };
        let out = Command::new(program)
            .arg("serve")
            .args([format!("--print-containerd-config={version}")])
            .arg(format!("--address={}", setup.socket().display()))
            .arg(format!("--root={}", setup.root.display()))
            .output();
        let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let printed = dropin(String::from_utf8_lossy(&out.stdout).into_owned());
        let imported = place.join("conf.d");
        let written = fs::create_dir_all(&imported)
            .and_then(|()| File::create(imported.join("erolith.toml")))
            .and_then(|mut file| file.write_all(printed.as_bytes()));
        written.unwrap_or_else(|e| panic!("{}: {e}", imported.display()));
        let extra = cri.map(|cri| cri(&place)).unwrap_or_default();
        Ok(Self::start_with(dir, setup, containerd, &extra, cri.is_some()))
    }

    fn start_with(
        dir: tempfile::TempDir,
        setup: Setup,
        containerd: Containerd,
        extra: &str,
        cri: bool,
    ) -> Self {
        let file = dir.path().join("extra.toml");
        let written = File::create(&file).and_then(|mut file| file.write_all(extra.as_bytes()));
        written.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let place = dir.path().join("c");
        let shared = setup.program.parent().unwrap_or(Path::new("/")).to_owned();
        let out = Command::new(script())
            .arg("start")
            .args([&place, &file])
            .env("EROLITH_CONTAINERD", containerd.root())
            .env("EROLITH_SHARED", shared)
            .env("EROLITH_CACHE", cache())
            .envs(cri.then_some(("EROLITH_CRI", "1")))
            .stdin(Stdio::null())
            .output();
        let out = out.unwrap_or_else(|e| panic!("containerd.sh: {e}"));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let created = fs::create_dir_all(&setup.dir);
        created.unwrap_or_else(|e| panic!("{}: {e}", setup.dir.display()));
        let mut node = Self { daemon: None, setup, dir, world: 0, containerd };
        node.enter_world();
        node.start_daemon();
        node
    }

    /// Starts the daemon.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_daemon(&mut self) {
        self.daemon = Some(Daemon::start(self.setup.clone()).unwrap_or_else(|e| panic!("{e}")));
    }

    /// Starts a daemon that a fault kills, armed by the variable `fault`, and waits until it is dead.
    ///
    /// # Panics
    /// When it goes on.
    pub fn die_of(&mut self, fault: &str) {
        let armed = Setup { environment: vec![fault.to_owned()], ..self.setup.clone() };
        // It may die before it listens.
        let Ok(mut daemon) = Daemon::start(armed) else { return };
        assert!(daemon.died().unwrap_or_else(|e| panic!("{fault}: {e}")), "{fault}");
    }

    /// `kill -9` of the daemon.
    pub fn kill_daemon(&mut self) {
        self.daemon.take().map(Daemon::kill);
    }

    /// SIGTERM to the daemon.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn stop_daemon(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop().unwrap_or_else(|e| panic!("{e}"));
        }
    }

    /// Runs a command of the script that keeps containerd.
    fn command(&self, word: &str) -> Command {
        let mut command = Command::new(script());
        command.arg(word).arg(self.place()).stdin(Stdio::null());
        command
    }

    fn script(&self, word: &str) -> String {
        let out = self.command(word).output();
        let out = out.unwrap_or_else(|e| panic!("containerd.sh {word}: {e}"));
        assert!(out.status.success(), "{word}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Finds the namespaces.
    fn enter_world(&mut self) {
        let world = self.script("world");
        self.world =
            world.trim().parse().unwrap_or_else(|_| panic!("no process of the world: {world}"));
        self.setup.enter = entering(self.world);
    }

    /// `kill -9` of containerd, and starts it again.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn restart_containerd(&self) {
        self.script("restart");
    }

    /// [`Node::restart_containerd`], not waited for: `wait` of what is returned does.
    ///
    /// # Panics
    /// When there is no such script.
    pub fn restarting_containerd(&self) -> Child {
        let child = self.command("restart").stdout(Stdio::null()).spawn();
        child.unwrap_or_else(|e| panic!("containerd.sh restart: {e}"))
    }

    /// A power cut that loses nothing on disk: all processes and mounts end at once, and the daemon and containerd start
    /// again, in this order.
    ///
    /// # Panics
    /// When they do not.
    pub fn reboot(&mut self) {
        self.script("reboot");
        drop(self.daemon.take());
        self.enter_world();
        self.start_daemon();
        self.script("up");
    }

    /// Ends all processes and mounts.
    fn end_world(&mut self) {
        drop(self.daemon.take());
        let _ = self.command("stop").output();
    }

    /// From now on the daemon's socket is held for it, as systemd does with `dist/erolith.socket`: who connects while the
    /// daemon is away waits. Call it while there is no daemon.
    ///
    /// # Panics
    /// When there can be no socket.
    pub fn hold_socket(&mut self) -> Arc<UnixListener> {
        let path = self.setup.socket();
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path);
        let listener = Arc::new(listener.unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        self.setup.handed = Some(Arc::clone(&listener));
        listener
    }

    /// Everything of containerd and, in `e`, of the daemon; the same name inside and outside.
    pub fn place(&self) -> PathBuf {
        self.dir.path().join("c")
    }

    /// Where the daemon keeps its snapshots.
    pub fn root(&self) -> PathBuf {
        self.setup.root.clone()
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> PathBuf {
        self.setup.socket()
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        self.setup.log()
    }

    /// A path of the node's world as this process reaches it, mounts included.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.world))
    }

    /// Runs a command in the node's world.
    ///
    /// # Panics
    /// When there is no way in.
    pub fn run(&self, words: &[&str]) -> Output {
        let enter = entering(self.world);
        let (first, rest) = enter.split_first().unwrap_or_else(|| panic!("no way in"));
        let out = Command::new(first).args(rest).args(words).stdin(Stdio::null()).output();
        out.unwrap_or_else(|e| panic!("{first}: {e}"))
    }

    /// What a command in the node's world prints, or its complaint.
    ///
    /// # Errors
    /// The complaint.
    pub fn try_exec(&self, words: &[&str]) -> Result<String, String> {
        let out = self.run(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if out.status.success() {
            return Ok(text(&out.stdout));
        }
        Err(format!("{words:?}: {}: {}{}", out.status, text(&out.stdout), text(&out.stderr)))
    }

    /// What a command in the node's world prints; it must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn exec(&self, words: &[&str]) -> String {
        self.try_exec(words).unwrap_or_else(|e| panic!("{e}"))
    }

    /// `ctr`, which may fail.
    ///
    /// # Errors
    /// What it says.
    pub fn try_ctr(&self, words: &[&str]) -> Result<String, String> {
        let socket = self.place().join("sock").display().to_string();
        self.try_exec(&[&["ctr", "--address", &socket], words].concat())
    }

    /// `ctr`; it must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn ctr(&self, words: &[&str]) -> String {
        self.try_ctr(words).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Imports a layout's image under the name it has there with `image:` before it, and unpacks nothing.
    ///
    /// # Panics
    /// When that fails.
    pub fn import(&self, layout: &Path) {
        let archive = self.place().join("import.tar");
        let tar =
            Command::new("tar").arg("-C").arg(layout).arg("-cf").arg(&archive).arg(".").status();
        assert!(tar.is_ok_and(|status| status.success()), "tar of {}", layout.display());
        let archive = archive.display().to_string();
        self.ctr(&["images", "import", "--no-unpack", "--base-name", "image", &archive]);
        fs::remove_file(&archive).unwrap_or_else(|e| panic!("{archive}: {e}"));
    }

    /// The keys of the snapshots that containerd lists: name, parent and kind.
    ///
    /// # Panics
    /// When `ctr` fails.
    pub fn snapshots(&self, snapshotter: &str) -> Vec<(String, String, String)> {
        let text = self.ctr(&["snapshots", "--snapshotter", snapshotter, "ls"]);
        let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines
            .filter_map(|words| match words.as_slice() {
                [name, kind] => Some(((*name).into(), String::new(), (*kind).into())),
                [name, parent, kind] => Some(((*name).into(), (*parent).into(), (*kind).into())),
                _ => None,
            })
            .collect()
    }

    /// Removes every image, has containerd collect its garbage, and waits until nothing of the daemon's is left.
    ///
    /// # Panics
    /// With what stays.
    pub fn leaves_nothing(&self) {
        for image in self.ctr(&["images", "ls", "-q"]).lines() {
            self.ctr(&["images", "rm", "--sync", image]);
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.snapshots("erolith").is_empty() && Instant::now() < deadline {
            // Deleting a lease so makes the collector run now.
            self.ctr(&["leases", "create", "--id", "collect"]);
            self.ctr(&["leases", "delete", "--sync", "collect"]);
        }
        assert_eq!(self.snapshots("erolith"), [], "snapshots that containerd keeps");
        let left = Leftovers::vanish(self.world, &self.setup.root, &self.setup.state);
        left.unwrap_or_else(|e| panic!("{e}"));
    }

    /// Waits until what there is of the daemon's is as wanted.
    ///
    /// # Panics
    /// When that takes more than 10 s, with what there is.
    pub fn settles(&self, what: &str, wanted: impl Fn(&Leftovers) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = Leftovers::of(self.world, &self.root(), &self.setup.state);
            let left = left.unwrap_or_else(|e| panic!("{e}"));
            if wanted(&left) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {left:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until containerd speaks to the daemon again, which it tries every few seconds.
    ///
    /// # Panics
    /// When it does not.
    pub fn reconnected(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(why) = self.try_ctr(&["snapshots", "--snapshotter", "erolith", "ls"]) {
            assert!(Instant::now() < deadline, "{why}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let log = || fs::read_to_string(self.place().join("log")).unwrap_or_default();
        daemon::relay_in_panic("containerd", log);
        // Everything goes with the namespaces.
        self.end_world();
    }
}

/// The command that runs those behind it in the namespaces of process `world`, with an environment of its own.
fn entering(world: u32) -> Vec<String> {
    let world = world.to_string();
    let words = [
        "nsenter",
        "--target",
        &world,
        "--mount",
        "--pid",
        "--net",
        "--root",
        "--wd",
        "env",
        "-i",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
    ];
    words.map(str::to_owned).to_vec()
}

/// Starts what stays, in the node's world.
fn spawn(node: &Node, words: &[&str], log: &Path) -> Child {
    let file = File::create(log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
    let again = file.try_clone().unwrap_or_else(|e| panic!("{}: {e}", log.display()));
    let enter = entering(node.world);
    let (first, rest) = enter.split_first().unwrap_or_else(|| panic!("no way in"));
    let mut command = Command::new(first);
    command.args(rest).args(words).stdin(Stdio::null()).stdout(again).stderr(file);
    command.spawn().unwrap_or_else(|e| panic!("{first}: {e}"))
}
