//! Converted images in the content store of a real containerd: kept, taken from there, pushed from there, collected.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use erolith_tests::layout::Layout;
use erolith_tests::need;
use erolith_tests::node::{Containerd, Node, isolated};
use erolith_tests::tarball::Tarball;

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");
const IMAGE: &str = "image:latest";
const CONFIG: &str = "[differ]\nkeep_images = true\n[log]\nformat = \"json\"\n";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

const IMAGE_OF: &str = "containerd.io/gc.ref.content.erofs";
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
const SOURCE: &str = "org.erolith.source.layer.diff-id";

type Labels = BTreeMap<String, String>;

/// What `ctr content ls` shows: labels by digest.
fn content(node: &Node, namespace: &str) -> BTreeMap<String, Labels> {
    let text = node.ctr(&["--namespace", namespace, "content", "ls"]);
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let digest = words.next().filter(|word| word.starts_with("sha256:"))?;
        let pairs = words.last()?.split(',').filter_map(|pair| pair.split_once('='));
        let labels = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Some((digest.to_owned(), labels))
    };
    text.lines().filter_map(line).collect()
}

/// The digests of the kept images by those of their layers' blobs, once there are `count`.
fn kept(node: &Node, namespace: &str, count: usize) -> BTreeMap<String, String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let content = content(node, namespace);
        let named = content
            .iter()
            .filter_map(|(blob, labels)| Some((blob.clone(), labels.get(IMAGE_OF)?.clone())));
        let named: BTreeMap<_, _> = named.collect();
        if named.len() == count {
            for (blob, image) in &named {
                let (blob, of) = (&content[blob], &content[image]);
                assert_eq!(of[UNCOMPRESSED], *image);
                assert_eq!(of[SOURCE], blob[UNCOMPRESSED]);
            }
            return named;
        }
        assert!(Instant::now() < deadline, "{} of {count} are kept: {content:#?}", named.len());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How layers came to be, as the daemon logged it, in its whole life and those before.
fn hows(node: &Node) -> Vec<String> {
    let log = fs::read_to_string(node.place().join("e/erolith.log")).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
    let applied = lines.filter(|line: &serde_json::Value| line["message"] == "applied");
    applied.map(|line| line["how"].as_str().unwrap().to_owned()).collect()
}

/// Removes every snapshot, and everything else that the daemon has.
fn forget(node: &mut Node) {
    while let Some((leaf, ..)) = {
        let all = node.snapshots("erolith");
        all.iter().find(|(name, ..)| !all.iter().any(|(_, parent, _)| parent == name)).cloned()
    } {
        // The garbage collector may be faster.
        let _ = node.try_ctr(&["snapshots", "--snapshotter", "erolith", "rm", &leaf]);
    }
    node.settles("no layer", |left| left.layers.is_empty() && left.mounts.is_empty());
    node.stop_daemon();
    fs::remove_dir_all(node.root()).unwrap();
    node.start_daemon();
    node.reconnected();
}

fn run(node: &Node, name: &str) -> String {
    let command = ["cat", "/srv/kept"];
    let words = ["run", "--rm", "--snapshotter", "erolith", IMAGE, name];
    node.ctr(&[&words[..], &command].concat())
}

fn collected(node: &Node) {
    node.leaves_nothing();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let content = content(node, "default");
        if content.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "containerd keeps {content:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// How often each way occurs.
fn count(hows: &[String]) -> BTreeMap<&str, usize> {
    let mut out = BTreeMap::new();
    hows.iter().for_each(|how| *out.entry(how.as_str()).or_default() += 1);
    out
}

fn life(containerd: Containerd) {
    let mut node = need!(Node::start(EROLITH, containerd, &[("erolith", "erolith")], CONFIG));
    // Three layers of the real image name files in directories that they do not describe: those are not kept.
    let last = Tarball::new().dir("srv/").file("srv/kept", "kept\n").end();
    let image = need!(Layout::real_image()).with_layer(&node.place().join("layout"), &last);
    let image = image.unwrap();
    node.import(&image.0);
    assert_eq!(run(&node, "first"), "kept\n");
    assert_eq!(count(&hows(&node)), [("converted", 5)].into());
    let images = kept(&node, "default", 2);
    // The store has verified their digests; their structure is what the daemon will check.
    let blobs = node.place().join("root/io.containerd.content.v1.content/blobs/sha256");
    for image in images.values() {
        node.exec(&[EROLITH, "fsck", blobs.join(&image[7..]).to_str().unwrap()]);
    }

    forget(&mut node);
    assert_eq!(run(&node, "second"), "kept\n");
    assert_eq!(count(&hows(&node)[5..]), [("converted", 3), ("linked", 2)].into());
    assert_eq!(kept(&node, "default", 2), images);

    // One that is damaged is converted.
    forget(&mut node);
    let damaged = blobs.join(&images.values().next().unwrap()[7..]);
    fs::File::options().write(true).open(&damaged).unwrap().set_len(4096).unwrap();
    assert_eq!(run(&node, "third"), "kept\n");
    assert_eq!(count(&hows(&node)[10..]), [("converted", 4), ("linked", 1)].into());
    collected(&node);
}

#[test]
fn images_are_kept_and_taken_by_containerd_2_1() {
    isolated(|| life(Containerd::Sid));
}

#[test]
fn images_are_kept_and_taken_by_containerd_1_7() {
    isolated(|| life(Containerd::Trixie));
}

/// A daemon that is told to stop while it keeps a large image ends, and leaves nothing half-done in the store.
#[test]
fn keeping_ends_with_the_daemon() {
    isolated(|| {
        let mut node =
            need!(Node::start(EROLITH, Containerd::Sid, &[("erolith", "erolith")], CONFIG));
        let noise: Vec<u8> =
            (0..64 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut layers = Vec::new();
        for n in 0..4 {
            layers.push(Tarball::new().dir("d/").file(format!("d/{n}"), noise.as_slice()).end());
        }
        let blobs: Vec<_> = layers.iter().map(|tar| (TAR, &tar[..], &tar[..])).collect();
        let layout = Layout::of_blobs(&node.place().join("large"), &blobs).unwrap();
        node.import(&layout.0);
        node.exec(&["mkdir", "-p", "/mnt"]);
        node.ctr(&["images", "mount", "--snapshotter", "erolith", IMAGE, "/mnt"]);
        let start = Instant::now();
        node.stop_daemon();
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        let deadline = Instant::now() + Duration::from_secs(10);
        while node.ctr(&["content", "active"]).lines().count() > 1 {
            assert!(Instant::now() < deadline, "{}", node.ctr(&["content", "active"]));
            std::thread::sleep(Duration::from_millis(50));
        }
        node.start_daemon();
        node.reconnected();
        node.ctr(&["images", "unmount", "--rm", "--snapshotter", "erolith", "/mnt"]);
        collected(&node);
    });
}
