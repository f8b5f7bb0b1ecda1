//! A registry that a node's containerd pulls from.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Node, daemon, spawn};
use crate::tools::cache;

/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry on loopback, stopped when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    log: std::path::PathBuf,
    /// Where it listens: `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// Starts one in the world of `node`.
    ///
    /// # Errors
    /// What is missing, for [`crate::need!`].
    ///
    /// # Panics
    /// When everything is there and does not start.
    pub fn start(node: &Node) -> Result<Self, String> {
        let program = cache().join("sid/usr/bin/docker-registry");
        if !program.exists() {
            return Err(format!("{} is missing: run testdata/sid-root.sh", program.display()));
        }
        let dir = node.place().join("r");
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        // A port that is free now; the network is that of the machine.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.unwrap_or_else(|e| panic!("a port: {e}")).to_string();
        // JSON is YAML.
        let settings = json!({
            "version": "0.1",
            "storage": { "filesystem": { "rootdirectory": dir.join("data") } },
            "http": { "addr": address },
        });
        let config = dir.join("config.yml");
        let written = File::create(&config).and_then(|mut file| write!(file, "{settings}"));
        written.unwrap_or_else(|e| panic!("{}: {e}", config.display()));
        let log = dir.join("log");
        let words = ["docker-registry", "serve", &config.display().to_string()];
        let child = spawn(node, &words, &log);
        let registry = Self { child, log, address };
        let probe = format!(": <>/dev/tcp/{}", registry.address.replace(':', "/"));
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = node.try_exec(&["bash", "-c", &probe]) {
            assert!(Instant::now() < deadline, "the registry does not answer: {why}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        daemon::relay_in_panic("registry", || fs::read_to_string(&self.log).unwrap_or_default());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
