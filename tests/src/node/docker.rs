//! A Docker Engine on a node: its images and containers are containerd's, on the daemon's snapshots.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Containerd, Leftovers, Node, daemon, spawn};
use crate::layout::Layout;
use crate::tools::cache;

/// What is started, or starts another, in the Debian root.
const PROGRAMS: [&str; 5] = [
    "usr/sbin/dockerd",
    "usr/bin/docker",
    "usr/libexec/docker/cli-plugins/docker-buildx",
    "usr/bin/docker-registry",
    "usr/bin/ip",
];

/// It changes the network it finds, so it finds one of its own.
const ENGINE: &str = "ip link set lo up && exec dockerd --config-file \"$0\"";

/// How long the engine may take to listen or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The namespace of containerd that everything of Docker's is in.
const NAMESPACE: &str = "moby";

/// A Docker Engine, stopped when dropped.
#[derive(Debug)]
pub struct Docker {
    engine: Child,
    registry: Option<Child>,
    /// What it runs on.
    pub node: Node,
}

impl Docker {
    /// Starts a node whose containerd is configured as `erolith serve` prints it, and the engine.
    ///
    /// # Errors
    /// What is missing, for [`crate::need!`].
    ///
    /// # Panics
    /// When everything is there and does not start.
    pub fn start(program: &str) -> Result<Self, String> {
        for program in PROGRAMS {
            let path = cache().join("sid").join(program);
            if !path.exists() {
                return Err(format!("{} is missing: run testdata/sid-root.sh", path.display()));
            }
        }
        let node = Node::start_as_printed(program, Containerd::Sid)?;
        let dir = node.place().join("d");
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let config = dir.join("daemon.json");
        write(&config, &settings(&node.place(), &dir).to_string());
        let words = ["unshare", "--net", "sh", "-c", ENGINE, &config.display().to_string()];
        let engine = spawn(&node, &words, &dir.join("log"));
        let mut docker = Self { engine, registry: None, node };
        docker.listening();
        Ok(docker)
    }

    fn listening(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = self.try_exec(&["version"]) {
            assert!(self.engine.try_wait().is_ok_and(|status| status.is_none()), "dockerd ended");
            assert!(Instant::now() < deadline, "dockerd does not answer: {why}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts a registry in the engine's network. It is reachable only there. Returns the address.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_registry(&mut self) -> &'static str {
        let config = self.dir().join("registry.yml");
        // JSON is YAML.
        let settings = json!({
            "version": "0.1",
            "storage": { "filesystem": { "rootdirectory": self.dir().join("registry") } },
            "http": { "addr": "127.0.0.1:5000" },
        });
        write(&config, &settings.to_string());
        let pid = self.pid();
        let network = ["nsenter", "--target", &pid, "--net"];
        let words = ["docker-registry", "serve", &config.display().to_string()];
        let log = self.dir().join("registry.log");
        self.registry = Some(spawn(&self.node, &[&network[..], &words].concat(), &log));
        let connect = ["bash", "-c", ": <>/dev/tcp/127.0.0.1/5000"];
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = self.node.try_exec(&[&network[..], &connect].concat()) {
            assert!(Instant::now() < deadline, "the registry does not answer: {why}");
            std::thread::sleep(Duration::from_millis(50));
        }
        "127.0.0.1:5000"
    }

    /// The engine's process id, as the node counts.
    fn pid(&self) -> String {
        let pid = fs::read_to_string(self.dir().join("pid")).unwrap_or_default();
        pid.trim().to_owned()
    }

    fn dir(&self) -> PathBuf {
        self.node.place().join("d")
    }

    /// `docker`, which may fail.
    ///
    /// # Errors
    /// What it says.
    pub fn try_exec(&self, words: &[&str]) -> Result<String, String> {
        let host = format!("unix://{}", self.dir().join("sock").display());
        self.node.try_exec(&[&["docker", "--host", &host], words].concat())
    }

    /// `docker`; it must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn exec(&self, words: &[&str]) -> String {
        self.try_exec(words).unwrap_or_else(|e| panic!("{e}"))
    }

    /// `ctr` among what is Docker's; it must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn ctr(&self, words: &[&str]) -> String {
        self.node.ctr(&[&["--namespace", NAMESPACE], words].concat())
    }

    /// `docker load` of a layout's image, as `image:latest`.
    ///
    /// # Panics
    /// When that fails.
    pub fn load(&self, layout: &Layout) {
        let path = layout.0.join("index.json");
        let index = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut index: Value = serde_json::from_slice(&index).unwrap_or_default();
        // Of the names of a layout, Docker takes only those that are whole.
        let name = json!({ "io.containerd.image.name": "docker.io/library/image:latest" });
        index["manifests"][0]["annotations"] = name;
        write(&self.dir().join("index.json"), &index.to_string());
        let archive = self.dir().join("load.tar").display().to_string();
        let mut tar = Command::new("tar");
        tar.args(["-cf", &archive, "-C"]).arg(&layout.0).args(["oci-layout", "blobs"]);
        let status = tar.arg("-C").arg(self.dir()).arg("index.json").status();
        assert!(status.is_ok_and(|status| status.success()), "tar of {}", layout.0.display());
        self.exec(&["load", "--input", &archive]);
        fs::remove_file(&archive).unwrap_or_else(|e| panic!("{archive}: {e}"));
    }

    /// containerd's content store, where all blobs of images are.
    pub fn content(&self) -> Layout {
        Layout(self.node.place().join("root/io.containerd.content.v1.content"))
    }

    /// The manifest of an image; of several, the first.
    ///
    /// # Panics
    /// When there is none.
    pub fn manifest(&self, image: &str) -> Value {
        let document = |digest: &str| {
            self.content().document(digest).unwrap_or_else(|e| panic!("{image}: {e}"))
        };
        let digest = self.exec(&["image", "inspect", "--format", "{{.Id}}", image]);
        let found = document(digest.trim());
        match found["manifests"][0]["digest"].as_str() {
            Some(digest) => document(digest),
            None => found,
        }
    }

    /// The directory of a container as the engine has it mounted, for this process.
    pub fn mounted(&self, container: &str) -> PathBuf {
        let id = self.exec(&["inspect", "--format", "{{.Id}}", container]);
        let path = self.dir().join("root/rootfs/erolith").join(id.trim());
        self.node.inside(&path.display().to_string())
    }

    /// Removes all containers, images and what builds keep, and waits until nothing of the daemon's is left; then stops the
    /// engine, which leaves no mounts either.
    ///
    /// # Panics
    /// With what stays.
    pub fn leaves_nothing(mut self) {
        for (list, remove) in [
            (&["ps", "--all", "--quiet"][..], &["rm", "--force", "--volumes"][..]),
            (&["image", "ls", "--all", "--quiet"], &["image", "rm", "--force"]),
        ] {
            let list = self.exec(list);
            // The same image has several names.
            let ids: std::collections::BTreeSet<_> = list.lines().collect();
            for id in ids {
                self.exec(&[remove, &[id]].concat());
            }
        }
        self.exec(&["builder", "prune", "--all", "--force"]);
        self.collected();
        let setup = &self.node.setup;
        let left = Leftovers::vanish(self.node.world, &setup.root, &setup.state);
        left.unwrap_or_else(|e| panic!("{e}"));
        self.stop();
        let table = format!("/proc/{}/mountinfo", self.node.world);
        let table = fs::read_to_string(&table).unwrap_or_else(|e| panic!("{table}: {e}"));
        assert_eq!(mounts_below(&table, &self.dir()), [""; 0], "mounts of Docker");
    }

    /// Has containerd collect its garbage until Docker has no snapshots.
    ///
    /// # Panics
    /// With those that it keeps.
    pub fn collected(&self) {
        let listed = || self.ctr(&["snapshots", "--snapshotter", "erolith", "ls"]);
        let deadline = Instant::now() + PATIENCE;
        while listed().lines().count() > 1 {
            assert!(Instant::now() < deadline, "snapshots that Docker keeps:\n{}", listed());
            // Deleting a lease so makes the collector run now.
            self.ctr(&["leases", "create", "--id", "collect"]);
            self.ctr(&["leases", "delete", "--sync", "collect"]);
        }
    }

    /// SIGTERM to the engine, which ends.
    fn stop(&mut self) {
        self.node.exec(&["sh", "-c", "kill $0", &self.pid()]);
        let deadline = Instant::now() + PATIENCE;
        while self.engine.try_wait().is_ok_and(|status| status.is_none()) {
            assert!(Instant::now() < deadline, "dockerd goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let log = || fs::read_to_string(self.dir().join("log")).unwrap_or_default();
        daemon::relay_in_panic("dockerd", log);
        // They go with the namespaces; these are the ways in.
        for child in [Some(&mut self.engine), self.registry.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The lines of a table of mounts for mount points below the engine's directory, without that of its `root`. The engine
/// mounts that on itself, and unmounts it at its end only where the path ends in the path within the filesystem: not where
/// a directory above is a bind mount or a subvolume.
fn mounts_below<'a>(table: &'a str, dir: &Path) -> Vec<&'a str> {
    let point = |line: &'a str| line.split(' ').nth(4).map(Path::new);
    let is_left = |point: &Path| point.starts_with(dir) && point != dir.join("root");
    table.lines().filter(|line| point(line).is_some_and(is_left)).collect()
}

/// What `docs/install.md` says, and what lets an engine live in a directory, without a bridge and packet filters.
fn settings(place: &Path, dir: &Path) -> Value {
    json!({
        "features": { "containerd-snapshotter": true },
        "storage-driver": "erolith",
        "containerd": place.join("sock"),
        "data-root": dir.join("root"),
        "exec-root": "/run/docker",
        "pidfile": dir.join("pid"),
        "hosts": [format!("unix://{}", dir.join("sock").display())],
        "bridge": "none",
        "iptables": false,
        "ip6tables": false,
        "ip-forward": false,
    })
}

fn write(path: &Path, text: &str) {
    let written = File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_root_on_itself_is_no_mount_that_is_left() {
        let table = "1 0 8:1 /tmp/x/c /var/tmp/x/c rw - ext4 a rw\n\
                     2 1 8:1 /tmp/x/c/d/root /var/tmp/x/c/d/root rw - ext4 a rw\n\
                     3 2 0:9 / /var/tmp/x/c/d/root/rootfs/erolith/1 rw - overlay b rw,upperdir=/var/tmp/x/c/d/u\n\
                     4 1 0:9 / /elsewhere rw - overlay b rw,lowerdir=/var/tmp/x/c/d/l\n";
        let left = mounts_below(table, Path::new("/var/tmp/x/c/d"));
        assert!(matches!(left.as_slice(), [line] if line.starts_with("3 ")), "{left:?}");
    }
}
