//! Layers read in workers, with the real image: the same bytes as without, from a daemon and from `erolith convert`.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use erolith_differ::Digest;
use erolith_tests::layout::Layout;
use erolith_tests::need;
use erolith_tests::node::{Containerd, Node, isolated};

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");

/// The images that a daemon made of the layers of the real image.
fn images(sandbox: bool) -> Result<BTreeSet<String>, String> {
    let image = Layout::real_image()?;
    let config = format!("[differ]\nsandbox = {sandbox}\n[log]\nlevel = \"debug\"\n");
    let node = Node::start(EROLITH, Containerd::Sid, &[("erolith", "erolith")], &config)?;
    node.import(&image.0);
    let words = ["run", "--rm", "--snapshotter", "erolith", "image:latest", "box"];
    assert_eq!(node.ctr(&[&words[..], &["sh", "-c", "echo there"]].concat()), "there\n");
    let log = node.place().join("e/erolith.log");
    let log = fs::read_to_string(&log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
    assert_eq!(log.contains("layers are read by workers"), sandbox, "{log}");
    let dirs = fs::read_dir(node.root().join("snapshots")).unwrap();
    let layers = dirs.filter_map(|dir| fs::read(dir.unwrap().path().join("layer.erofs")).ok());
    Ok(layers.map(|bytes| Digest::of(&bytes).to_string()).collect())
}

#[test]
fn a_daemon_makes_the_same_images_with_workers() {
    isolated(|| {
        let with = need!(images(true));
        assert_eq!(with.len(), 4);
        assert_eq!(with, need!(images(false)));
    });
}

#[test]
fn an_image_is_converted_by_workers_to_the_same_digests() {
    let source = need!(Layout::real_image());
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let convert = |more: &[&str]| {
        let out = dir.path().join(more.len().to_string());
        let out = Command::new(EROLITH)
            .args(["convert", "--json"])
            .args(more)
            .arg(format!("oci:{}:latest", source.0.display()))
            .arg(format!("oci:{}:latest", out.display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    assert_eq!(convert(&["--sandbox"]), convert(&[]));
}
