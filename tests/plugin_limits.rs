//! Containers that may write only so much: with the daemon alone, and with a real containerd.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod life;
mod rpc;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use erolith_tests::layout::Layout;
use erolith_tests::need;
use erolith_tests::node::{Containerd, Daemon, Leftovers, Node, Setup, disk, isolated};
use erolith_tests::tarball::Tarball;

use crate::rpc::{Client, attach, detach};

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");
const IMAGE: &str = "image:latest";
const SIZE: &str = "containerd.io/snapshot/max-size";
const MIB: u64 = 1 << 20;

/// Writes 64 MiB of zeroes to a file, or as many as there is room for. Gives their number and what was said.
const FILL: &str = "dd if=/dev/zero of=/full bs=1M count=64 conv=fsync 2>&1; stat -c %s /full";

fn filled(node: &Node, name: &str) -> (String, u64) {
    let said = exec(node, name, FILL);
    let bytes = said.lines().last().unwrap().parse().unwrap();
    (said, bytes)
}

fn start(node: &Node, name: &str, more: &[&str]) {
    let words = ["run", "--detach", "--snapshotter", "erolith"];
    node.ctr(&[&words[..], more, &[IMAGE, name, "sleep", "600"]].concat());
}

fn exec(node: &Node, name: &str, shell: &str) -> String {
    node.ctr(&["task", "exec", "--exec-id", "test", name, "sh", "-c", shell])
}

fn end(node: &Node, name: &str) {
    node.ctr(&["task", "rm", "--force", name]);
    node.ctr(&["container", "rm", name]);
}

/// The sizes of writable layers that are filesystems of their own.
fn sizes(root: &Path) -> Vec<u64> {
    let dirs = fs::read_dir(root.join("snapshots")).unwrap();
    let files = dirs.map(|entry| entry.unwrap().path().join("rwlayer.img"));
    let mut sizes: Vec<_> =
        files.filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn a_container_that_is_full_is_alone_with_it() {
    isolated(|| {
        let image = need!(Layout::real_image());
        let config = "[snapshotter]\ndefault_size = \"32MiB\"\nlimit_by = \"image\"\n";
        let pairs = [("erolith", "erolith")];
        let mut node = need!(Node::start(EROLITH, Containerd::Sid, &pairs, config));
        node.import(&image.0);
        start(&node, "small", &[]);
        start(&node, "other", &[]);
        let large = format!("{SIZE}={}", 100 * MIB);
        start(&node, "large", &["--snapshotter-label", &large]);
        // Containers have one, and layers have none.
        assert_eq!(sizes(&node.root()), [32 * MIB, 32 * MIB, 100 * MIB]);
        node.settles("four layers and three uppers", |left| {
            (left.layers.len(), left.mounts.len(), left.loops.len()) == (7, 7, 3)
        });
        let (said, bytes) = filled(&node, "small");
        assert!(said.contains("No space left on device"), "{said}");
        assert!((20 * MIB..32 * MIB).contains(&bytes), "{bytes}");
        let (said, bytes) = filled(&node, "large");
        assert_eq!(bytes, 64 * MIB, "{said}");
        assert_eq!(exec(&node, "other", "echo fine >/file; cat /file"), "fine\n");
        // What a container runs on is not the daemon.
        node.kill_daemon();
        assert_eq!(exec(&node, "small", "rm /full; echo again >/file; cat /file"), "again\n");
        node.start_daemon();
        node.reconnected();
        let usage = node.ctr(&["snapshots", "--snapshotter", "erolith", "usage", "-b", "large"]);
        let bytes: u64 = usage.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
        assert!((64 * MIB..100 * MIB).contains(&bytes), "{usage}");
        compared(&node, "small");
        for name in ["small", "other", "large"] {
            end(&node, name);
        }
        node.leaves_nothing();
    });
}

/// What is in the filesystem of a container becomes a layer by `Diff`.
fn compared(node: &Node, name: &str) {
    let layer = node.place().join("layer.tar").display().to_string();
    let diff = format!(
        "ctr --address {} snapshots --snapshotter erolith diff --media-type \
         application/vnd.oci.image.layer.v1.tar {name} >{layer}",
        node.place().join("sock").display()
    );
    node.exec(&["sh", "-c", &diff]);
    let list = Command::new("tar").args(["-tf", &layer]).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.lines().any(|entry| entry == "file"), "{list}");
    for absent in ["full", "lost+found", "upper", "work"] {
        assert!(!list.contains(absent), "{list}");
    }
}

/// A differ finds the directory of a snapshot that has a limit, and the layer it writes needs none.
#[test]
fn layers_are_applied_to_limited_snapshots() {
    isolated(|| {
        for profile in ["plain", "managed"] {
            let dir = need!(disk());
            let config = format!("[snapshotter]\nprofile = {profile:?}\nlimit_by = \"image\"\n");
            let setup = Setup { config, ..Setup::alone(EROLITH, dir.path()) };
            let layer = life::put(&setup, &Tarball::new().dir("etc/").file("etc/name", "x").end());
            let daemon = Daemon::start(setup.clone()).unwrap();
            let client = Client::connect(&setup.socket());
            let size = (16 * MIB).to_string();
            let mounts = client.prepare_with("k", "", &[(SIZE, &size)]).unwrap();
            assert_eq!(sizes(&setup.root), [16 * MIB]);
            assert_eq!(client.apply(&layer, &mounts).unwrap().digest, layer.digest, "{profile}");
            client.commit("l", "k").unwrap();
            client.cleanup().unwrap();
            assert_eq!(sizes(&setup.root), [0; 0]);
            let image = fs::metadata(setup.root.join("snapshots/1/layer.erofs")).unwrap();
            assert!(image.blocks() > 0);
            if profile == "plain" {
                let target = dir.path().join("v");
                attach(&client.view("v", "l").unwrap(), &target).unwrap();
                assert_eq!(fs::read_to_string(target.join("etc/name")).unwrap(), "x");
                detach(&target);
            }
            client.empty().unwrap();
            daemon.stop().unwrap();
            Leftovers::vanish(std::process::id(), &setup.root, &setup.state).unwrap();
        }
    });
}

#[test]
fn a_size_that_is_none_leaves_the_default() {
    isolated(|| {
        let dir = need!(disk());
        let setup = Setup::alone(EROLITH, dir.path());
        let daemon = Daemon::start(setup.clone()).unwrap();
        let client = Client::connect(&setup.socket());
        for size in ["0", "-5", "10GiB", "1000", ""] {
            client.prepare_with(&format!("k{size}"), "", &[(SIZE, size)]).unwrap();
            assert!(setup.log().contains(&format!("{SIZE} {size}: ")), "{size}");
        }
        assert_eq!(sizes(&setup.root), [0; 0]);
        client.empty().unwrap();
        daemon.stop().unwrap();
        let small = "[snapshotter]\ndefault_size = \"1MiB\"\n".to_owned();
        let error = Daemon::start(Setup { config: small, ..setup }).unwrap_err();
        assert!(error.contains("default size 1048576"), "{error}");
    });
}
