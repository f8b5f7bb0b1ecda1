//! Layers read in workers: the same bytes as without, from a daemon and from `erolith convert`, whatever the order.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod rpc;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use erolith_differ::Digest;
use erolith_tests::layout::Layout;
use erolith_tests::need;
use erolith_tests::node::{Containerd, Daemon, Node, Setup, disk, isolated};
use erolith_tests::tarball::{Header, Tarball};

use crate::rpc::{Client, Descriptor, Mount};

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

/// Layers of which all but the lowest name files in directories that they do not describe.
fn undescribed(count: usize) -> Vec<Vec<u8>> {
    let base = Tarball::new().header(&Header::new(b'5', "data/").mode(0o700).owner(1000, 1000));
    let upper = |n: usize| Tarball::new().file("data/f", n.to_string()).end();
    std::iter::once(base.end()).chain((1..count).map(upper)).collect()
}

/// Has a daemon with one place for conversions unpack these layers: one after the other, or side by side, the topmost first,
/// as containerd with the capability `rebase` may. Returns the images.
fn unpack(layers: &[Vec<u8>], is_beside: bool, dir: &Path) -> Vec<Vec<u8>> {
    let setup = Setup { config: "[differ]\nparallel = 1\n".into(), ..Setup::alone(EROLITH, dir) };
    let daemon = Daemon::start(setup.clone()).unwrap();
    let client = Client::connect(&setup.socket());
    let blobs = setup.containerd.1.join("io.containerd.content.v1.content/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let (mut chain, mut prepared) = (String::new(), Vec::<(Descriptor, Vec<Mount>)>::new());
    for (n, layer) in layers.iter().enumerate() {
        let digest = Digest::of(layer);
        fs::write(blobs.join(digest.hex()), layer).unwrap();
        let (digest, below) = (digest.to_string(), chain.clone());
        chain = match below.as_str() {
            "" => digest.clone(),
            below => Digest::of(format!("{below} {digest}").as_bytes()).to_string(),
        };
        let labels = [
            ("containerd.io/snapshot.ref", chain.as_str()),
            ("containerd.io/snapshot/diff-id", digest.as_str()),
            ("containerd.io/snapshot/parent-chain-id", below.as_str()),
        ];
        let parent = if n > 0 && !is_beside { format!("layer-{}", n - 1) } else { String::new() };
        let labels = &labels[..if n > 0 { 3 } else { 2 }];
        let mounts = client.prepare_with(&format!("k{n}"), &parent, labels).unwrap();
        let descriptor = Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            digest,
            size: i64::try_from(layer.len()).unwrap(),
            ..Descriptor::default()
        };
        if is_beside {
            prepared.push((descriptor, mounts));
        } else {
            client.apply(&descriptor, &mounts).unwrap();
            client.commit(&format!("layer-{n}"), &format!("k{n}")).unwrap();
        }
    }
    std::thread::scope(|scope| {
        for (descriptor, mounts) in prepared.iter().rev() {
            let socket = setup.socket();
            scope.spawn(move || Client::connect(&socket).apply(descriptor, mounts).unwrap());
        }
    });
    for n in 0..prepared.len() {
        let parent = if n > 0 { format!("layer-{}", n - 1) } else { String::new() };
        client.commit_onto(&format!("layer-{n}"), &format!("k{n}"), &parent).unwrap();
    }
    daemon.stop().unwrap();
    let image = |n| fs::read(setup.root.join(format!("snapshots/{n}/layer.erofs"))).unwrap();
    (1..=layers.len()).map(image).collect()
}

/// A worker that waits for the layer below does not keep the daemon from reading that.
#[test]
fn layers_side_by_side_wait_for_those_below_without_their_place() {
    isolated(|| {
        let dir = need!(disk());
        let layers = undescribed(24);
        let [order, beside] = [("order", false), ("beside", true)].map(|(name, is_beside)| {
            let dir = dir.path().join(name);
            fs::create_dir(&dir).unwrap();
            unpack(&layers, is_beside, &dir)
        });
        for (n, (beside, order)) in beside.iter().zip(&order).enumerate() {
            assert!(beside == order, "layer {n}");
        }
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
