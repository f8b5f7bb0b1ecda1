//! Real containers on erolith: containerd 2.1 and 1.7 with the real image, alone and mixed with containerd's own plugins.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use erolith_tests::containerd::{bounded, comparable, now};
use erolith_tests::layout::Layout;
use erolith_tests::listing::{Blind, Listing};
use erolith_tests::need;
use erolith_tests::node::{Containerd, Node, Pair, isolated};
use erolith_tests::tarball::Tarball;

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");

/// The name of the real image after [`Node::import`].
const IMAGE: &str = "image:latest";

/// What a container with Python is asked, and its answer.
const PYTHON: [&str; 3] = ["python3", "-c", "import numpy; print(numpy.arange(9).sum())"];
const ANSWER: &str = "36\n";

/// A node with the real image, not unpacked.
fn node(containerd: Containerd, pairs: &[Pair]) -> Result<Node, String> {
    let image = Layout::real_image()?;
    let node = Node::start(EROLITH, containerd, pairs, "")?;
    node.import(&image.0);
    Ok(node)
}

/// `ctr run` with erolith's snapshots, or others.
fn run(node: &Node, snapshotter: &str, name: &str, command: &[&str]) -> String {
    let words = ["run", "--rm", "--snapshotter", snapshotter, IMAGE, name];
    node.ctr(&[&words, command].concat())
}

/// A container that stays.
fn start(node: &Node, name: &str) {
    node.ctr(&["run", "--detach", "--snapshotter", "erolith", IMAGE, name, "sleep", "600"]);
}

fn exec(node: &Node, name: &str, shell: &str) -> String {
    node.ctr(&["task", "exec", "--exec-id", "test", name, "sh", "-c", shell])
}

fn end(node: &Node, name: &str) {
    node.ctr(&["task", "rm", "--force", name]);
    node.ctr(&["container", "rm", name]);
}

/// An image with the configuration of another, and so its diffIDs, and with other layers.
#[test]
fn a_stranger_with_the_right_diff_ids_gets_an_error() {
    isolated(|| {
        let node = need!(Node::start(EROLITH, Containerd::Sid, &[("erolith", "erolith")], ""));
        let tar = Tarball::new().dir("data/").file("data/f2", "the victim's bytes").end();
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        let layouts = [("victim", tar.as_slice()), ("stranger", b"not the layer 1")];
        for (namespace, blob) in layouts {
            let layout = node.place().join(namespace);
            Layout::of_blobs(&layout, &[(media_type, blob, &tar)]).unwrap();
            let archive = format!("{}.tar", layout.display());
            let mut tar = Command::new("tar");
            tar.arg("-C").arg(&layout).args(["-cf", &archive, "."]);
            assert!(tar.status().unwrap().success());
            let import = ["images", "import", "--local", "--snapshotter", "erolith"];
            let what = ["--base-name", "image", &archive];
            let unpacked = node.try_ctr(&[&["-n", namespace], &import[..], &what].concat());
            assert_eq!(unpacked.is_ok(), namespace == "victim", "{namespace}: {unpacked:?}");
        }
        let layers = fs::read_dir(node.root().join("snapshots")).unwrap();
        let images = layers
            .filter(|dir| dir.as_ref().is_ok_and(|dir| dir.path().join("layer.erofs").exists()));
        assert_eq!(images.count(), 1);
    });
}

/// Everything a user does, from an import to nothing.
fn life(containerd: Containerd) {
    let node = need!(node(containerd, &[("erolith", "erolith")]));
    assert_eq!(run(&node, "erolith", "python", &PYTHON), ANSWER);
    // The container's own snapshot goes when containerd has the time.
    node.settles("four layers", |left| left.layers.len() == 4);
    let names = ["one", "two", "three"];
    for name in names {
        start(&node, name);
    }
    for name in names {
        exec(
            &node,
            name,
            &format!("rm -r /srv/data && mkdir /srv/data && echo {name} >/srv/data/who"),
        );
    }
    for name in names {
        assert_eq!(exec(&node, name, "cat /srv/data/*"), format!("{name}\n"));
    }
    node.settles("three containers share the mounts of four layers", |left| left.mounts.len() == 4);
    let usage = node.ctr(&["snapshots", "--snapshotter", "erolith", "usage", "-b", "one"]);
    assert!(usage.contains("one"), "{usage}");
    committed(&node, "two");
    for name in names {
        end(&node, name);
    }
    node.leaves_nothing();
}

/// A container's changes become a layer, which makes the same files in an image of its own.
fn committed(node: &Node, name: &str) {
    let layer = node.place().join("layer.tar.gz").display().to_string();
    let diff = format!(
        "ctr --address {} snapshots --snapshotter erolith diff --media-type \
         application/vnd.oci.image.layer.v1.tar+gzip {name} >{layer}",
        node.place().join("sock").display()
    );
    node.exec(&["sh", "-c", &diff]);
    let list = Command::new("tar").args(["-tzf", &layer]).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    // The directory was replaced: it is opaque, or every name of the lower one has a whiteout.
    for entry in ["srv/data/who", "srv/data/.wh."] {
        assert!(list.contains(entry), "no {entry} in {list}");
    }
    let tar = Command::new("gzip").args(["-dc", &layer]).output().unwrap().stdout;
    let base = Layout::real_image().unwrap();
    let image = base.with_layer(&node.place().join("committed"), &tar).unwrap();
    import(node, &image.0, "committed");
    let words = ["run", "--rm", "--snapshotter", "erolith", "committed:latest", "again"];
    let shown = node.ctr(&[&words[..], &["sh", "-c", "ls /srv/data; cat /srv/data/who"]].concat());
    assert_eq!(shown, format!("who\n{name}\n"));
}

#[test]
fn containers_of_containerd_2_1() {
    isolated(|| life(Containerd::Sid));
}

#[test]
fn containers_of_containerd_1_7() {
    isolated(|| life(Containerd::Trixie));
}

#[test]
fn the_configuration_that_we_print_works() {
    isolated(|| {
        for containerd in [Containerd::Sid, Containerd::Trixie] {
            let node = need!(Node::start_as_printed(EROLITH, containerd));
            node.import(&need!(Layout::real_image()).0);
            assert_eq!(run(&node, "erolith", "python", &PYTHON), ANSWER, "{containerd:?}");
            node.leaves_nothing();
        }
    });
}

/// Unpacks through the transfer service, as `ctr images pull` does.
#[test]
fn the_transfer_service_unpacks_with_us() {
    isolated(|| {
        let image = need!(Layout::real_image());
        let node = need!(Node::start(EROLITH, Containerd::Sid, &[("erolith", "erolith")], ""));
        let archive = node.place().join("image.tar").display().to_string();
        let status =
            Command::new("tar").arg("-C").arg(&image.0).args(["-cf", &archive, "."]).status();
        assert!(status.unwrap().success());
        let import = ["images", "import", "--base-name", "image", "--snapshotter", "erolith"];
        node.ctr(&[&import[..], &[&archive]].concat());
        let found = node.snapshots("erolith");
        assert_eq!(found.iter().filter(|(_, _, kind)| kind == "Committed").count(), 4, "{found:?}");
        assert_eq!(run(&node, "erolith", "python", &PYTHON), ANSWER);
        fs::remove_file(archive).unwrap();
        node.leaves_nothing();
    });
}

/// containerd's differ fills our directories, and ours those of its EROFS snapshotter.
#[test]
fn plugins_of_containerd_and_ours_are_mixed() {
    isolated(|| {
        for (snapshotter, differ) in
            [("erolith", "walking"), ("erolith", "erofs"), ("erofs", "erolith")]
        {
            let node = need!(node(Containerd::Sid, &[(snapshotter, differ)]));
            let name = format!("{snapshotter}-{differ}");
            assert_eq!(run(&node, snapshotter, &name, &PYTHON), ANSWER, "{name}");
            let tree = mounted(&node, snapshotter, "/mixed");
            assert!(tree.nodes.len() > 3000, "{name}: {} names", tree.nodes.len());
            unmount(&node, snapshotter, "/mixed");
            node.leaves_nothing();
        }
    });
}

/// The tree of the image, mounted by `ctr images mount`.
fn mounted(node: &Node, snapshotter: &str, at: &str) -> Listing {
    node.exec(&["mkdir", at]);
    node.ctr(&["images", "mount", "--snapshotter", snapshotter, IMAGE, at]);
    Listing::from_dir(&node.inside(at)).unwrap()
}

fn unmount(node: &Node, snapshotter: &str, at: &str) {
    node.ctr(&["images", "unmount", "--rm", "--snapshotter", snapshotter, at]);
}

#[test]
fn the_tree_is_that_of_overlayfs_and_the_walking_differ() {
    isolated(|| {
        let start = now();
        let theirs = {
            let node = need!(node(Containerd::Sid, &[("overlayfs", "walking")]));
            mounted(&node, "overlayfs", "/theirs")
        };
        // overlayfs counts no sub-directories, and a lower file keeps the links of names that upper layers hide.
        let blind = [Blind::DirLinks, Blind::Links, Blind::OverlayXattrs];
        let theirs = theirs.blind(&blind);
        for differ in ["erolith", "walking"] {
            let node = need!(node(Containerd::Sid, &[("erolith", differ)]));
            let ours = mounted(&node, "erolith", "/ours").blind(&blind);
            let (a, b) = comparable(ours.clone(), bounded(&ours, theirs.clone()), start);
            a.assert_eq(&b, ("erolith", "overlayfs"), differ);
        }
    });
}

#[test]
fn containers_outlive_the_daemon_and_containerd() {
    isolated(|| {
        let mut node = need!(node(Containerd::Sid, &[("erolith", "erolith")]));
        start(&node, "before");
        node.kill_daemon();
        assert_eq!(exec(&node, "before", "echo x >/root/x; cat /root/x"), "x\n");
        let failure = node.try_ctr(&["snapshots", "--snapshotter", "erolith", "ls"]).unwrap_err();
        assert!(failure.contains("navailable") || failure.contains("connect"), "{failure}");
        node.start_daemon();
        node.reconnected();
        start(&node, "after");
        node.restart_containerd();
        assert_eq!(exec(&node, "before", "cat /root/x"), "x\n");
        start(&node, "later");
        node.stop_daemon();
        for name in ["before", "after", "later"] {
            assert_eq!(exec(&node, name, "tail -n 1 /etc/issue"), "built for tests\n", "{name}");
        }
        node.start_daemon();
        node.reconnected();
        for name in ["before", "after", "later"] {
            end(&node, name);
        }
        node.leaves_nothing();
    });
}

/// A removed image that a container still uses goes with the container.
#[test]
fn what_is_in_use_stays() {
    isolated(|| {
        let node = need!(node(Containerd::Sid, &[("erolith", "erolith")]));
        start(&node, "user");
        node.ctr(&["images", "rm", "--sync", IMAGE]);
        assert_eq!(
            node.ctr(&[&["task", "exec", "--exec-id", "p", "user"][..], &PYTHON].concat()),
            ANSWER
        );
        node.settles("four layers and a container", |left| left.layers.len() == 5);
        end(&node, "user");
        node.leaves_nothing();
    });
}

/// The same layer in another chain is not converted again, nor when it comes uncompressed.
#[test]
fn a_layer_is_converted_once() {
    isolated(|| {
        let node = need!(node(Containerd::Sid, &[("erolith", "erolith")]));
        assert_eq!(run(&node, "erolith", "first", &["true"]), "");
        let image = need!(Layout::real_image());
        let manifest = image.manifest("latest").unwrap().unwrap();
        let gzip = fs::read(&image.layers(&manifest)[0]).unwrap();
        let base = inflated(&gzip);
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let compressed = "application/vnd.oci.image.layer.v1.tar+gzip";
        // An image counts for the blob that it was made from and for no other: what a worker says is in a blob must not reach
        // the images of others. So the same archive as another blob is converted once more.
        let forms = [("gzip", compressed, &gzip, 1), ("tar", tar, &base, 2)];
        for (name, media_type, blob, want) in forms {
            let before = layer_inodes(&node.root());
            let other = Tarball::new().file("other", name).end();
            let layers: [(&str, &[u8], &[u8]); 2] =
                [(tar, &other, &other), (media_type, blob, &base)];
            let layout = Layout::of_blobs(&node.place().join(name), &layers).unwrap();
            import(&node, &layout.0, name);
            let reference = format!("{name}:latest");
            node.ctr(&["run", "--rm", "--snapshotter", "erolith", &reference, name, "true"]);
            let after = layer_inodes(&node.root());
            assert_eq!(after.len(), before.len() + 2, "{name}");
            let added = after.iter().filter(|inode| !before.contains(inode)).count();
            assert_eq!(added, want, "{name}: files of new layers");
        }
        node.leaves_nothing();
    });
}

/// The inode of each committed layer's image.
fn layer_inodes(root: &Path) -> Vec<u64> {
    let layers = fs::read_dir(root.join("snapshots")).unwrap();
    let files = layers.map(|entry| entry.unwrap().path().join("layer.erofs"));
    files.filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.ino()).collect()
}

/// Imports a layout's image as `NAME:latest`, and deletes the layout.
fn import(node: &Node, layout: &Path, name: &str) {
    let archive = node.place().join("archive.tar").display().to_string();
    let packed = Command::new("tar").arg("-C").arg(layout).args(["-cf", &archive, "."]).status();
    assert!(packed.unwrap().success());
    node.ctr(&["images", "import", "--no-unpack", "--base-name", name, &archive]);
    fs::remove_file(archive).unwrap();
    fs::remove_dir_all(layout).unwrap();
}

fn inflated(gzip: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = gzip.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    out.stdout
}
