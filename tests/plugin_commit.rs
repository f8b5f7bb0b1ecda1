//! `erolith commit` with a real containerd: containers become images, and the images containers again.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod rpc;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use erolith_tests::layout::{Layout, sha256};
use erolith_tests::node::{Containerd, Node, isolated};
use erolith_tests::{need, tools};
use serde_json::Value;

use crate::rpc::{Client, Descriptor};

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");

/// The name of the real image after [`Node::import`].
const IMAGE: &str = "image:latest";

/// A node with the real image and a container, [`one`], which runs.
fn node(containerd: Containerd) -> Result<Node, String> {
    let image = Layout::real_image()?;
    let node = Node::start(EROLITH, containerd, &[("erolith", "erolith")], "")?;
    node.import(&image.0);
    let words = ["run", "--detach", "--snapshotter", "erolith", "--label", "nerdctl/name=first"];
    node.ctr(&[&words[..], &[IMAGE, &one(&node), "sleep", "600"]].concat());
    Ok(node)
}

/// The ID of the node's container. Control groups are called by it, and tests share them: one that paused its own would
/// pause those of others.
fn one(node: &Node) -> String {
    let place = node.place();
    let dir = place.parent().and_then(|dir| dir.file_name()).unwrap();
    format!("one-{}", dir.to_str().unwrap())
}

fn socket(node: &Node) -> String {
    node.place().join("sock").display().to_string()
}

/// `erolith commit`, which may fail.
fn try_commit(node: &Node, words: &[&str]) -> Result<String, String> {
    node.try_exec(&[&[EROLITH, "commit", "--address", &socket(node)], words].concat())
}

/// What `erolith commit --json` prints.
fn commit(node: &Node, words: &[&str]) -> Value {
    let printed =
        try_commit(node, &[&["--json"], words].concat()).unwrap_or_else(|e| panic!("{e}"));
    serde_json::from_str(&printed).unwrap()
}

/// A document of containerd's content store.
fn document(node: &Node, digest: &Value) -> Value {
    serde_json::from_str(&node.ctr(&["content", "get", digest.as_str().unwrap()])).unwrap()
}

/// The labels of a blob, as `ctr` shows them.
fn labels(node: &Node, digest: &Value) -> String {
    let list = node.ctr(&["content", "ls"]);
    // Others name it in their labels.
    let line = list.lines().find(|line| line.starts_with(digest.as_str().unwrap()));
    line.unwrap_or_default().to_owned()
}

fn exec(node: &Node, shell: &str) -> String {
    node.ctr(&["task", "exec", "--exec-id", "test", &one(node), "sh", "-c", shell])
}

/// What a shell in a new container of an image prints.
fn run(node: &Node, image: &str, shell: &str) -> String {
    let again = format!("{}-run", one(node));
    node.ctr(&["run", "--rm", "--snapshotter", "erolith", image, &again, "sh", "-c", shell])
}

fn end(node: &Node) {
    node.ctr(&["task", "rm", "--force", &one(node)]);
    node.ctr(&["container", "rm", &one(node)]);
}

/// Keys of views that commits made.
fn views(node: &Node) -> Vec<String> {
    let keys = node.snapshots("erolith").into_iter().map(|(key, ..)| key);
    keys.filter(|key| key.starts_with("erolith-commit-")).collect()
}

fn is_running(node: &Node) -> bool {
    node.ctr(&["task", "ls"]).contains("RUNNING")
}

/// Everything that a layer can say: something new, something changed, something gone, something replaced.
const CHANGES: &str = "echo new >/root/new && chmod 4755 /root/new && echo more >>/etc/issue && \
                       rm /etc/debian_version && rm -r /srv/data && mkdir /srv/data && \
                       ln -s ../new /srv/data/link && mkfifo /srv/data/pipe";

/// What shows all of that.
const SHOW: &str = "cat /root/new; stat -c %a /root/new; tail -n 1 /etc/issue; \
                    ls /etc/debian_version 2>/dev/null; ls /srv/data; readlink /srv/data/link; \
                    python3 -c 'import numpy; print(numpy.arange(9).sum())'";

const SHOWN: &str = "new\n4755\nmore\nlink\npipe\n../new\n36\n";

/// What `erolith diff` says of the snapshot of [`one`]: a letter and a path, for each of these paths that it names.
fn changes(node: &Node, paths: &[&str]) -> Vec<String> {
    let address = node.socket().display().to_string();
    let erolith =
        |words: &[&str]| node.exec(&[&[EROLITH], words, &["--address", &address]].concat());
    let snapshots = erolith(&["snapshots", "ls", "--json", "kind==active"]);
    let keys = snapshots.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let keys = keys.map(|info| info["key"].as_str().unwrap().to_owned());
    let key = keys.into_iter().find(|key| key.ends_with(&one(node))).unwrap();
    let said = erolith(&["diff", "--snapshot", &key]);
    let line = |line: &str| {
        let (letter, path) = (line.split_whitespace().next()?, line.split_whitespace().last()?);
        paths.contains(&path).then(|| format!("{letter} {path}"))
    };
    said.lines().filter_map(line).collect()
}

fn life(containerd: Containerd) {
    let node = need!(node(containerd));
    exec(&node, CHANGES);
    let paths =
        ["/etc/debian_version", "/etc/issue", "/root/new", "/srv/data/", "/usr/bin/python3"];
    let expected = ["D /etc/debian_version", "C /etc/issue", "A /root/new", "C /srv/data/"];
    assert_eq!(changes(&node, &paths), expected);
    let name = "registry.test/made:1";
    let words =
        ["-a", "me", "-m", "why", "-c", "ENV A=$PATH:/b", "-c", "CMD [\"x\"]", &one(&node), name];
    let made = commit(&node, &words);
    assert!(is_running(&node), "the container goes on");
    assert_eq!(views(&node), [""; 0]);
    // Neither the command nor the daemon keeps what the image holds now.
    let leases = node.ctr(&["leases", "ls"]);
    assert!(!leases.contains("erolith-"), "{leases}");
    assert_eq!(run(&node, name, SHOW), SHOWN);

    let manifest = document(&node, &made["manifest"]);
    assert_eq!(manifest["config"]["digest"], made["config"]);
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!((layers.len(), &layers[4]["digest"]), (5, &made["layer"]["digest"]));
    let base = manifest["annotations"]["org.opencontainers.image.base.digest"].clone();
    assert_eq!(base, made["base"]["manifest"]);
    let config = document(&node, &made["config"]);
    assert_eq!(config["rootfs"]["diff_ids"][4], made["layer"]["diff_id"]);
    assert_eq!(config["author"], "me");
    let last = config["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["created_by"], &last["comment"]), (&"sleep 600".into(), &"why".into()));
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["x"]));
    let kept = labels(&node, &made["manifest"]);
    for (label, digest) in [
        ("containerd.io/gc.ref.content.config", &made["config"]),
        ("containerd.io/gc.ref.content.l.0", &layers[0]["digest"]),
        ("containerd.io/gc.ref.content.l.4", &layers[4]["digest"]),
    ] {
        let want = format!("{label}={}", digest.as_str().unwrap());
        assert!(kept.contains(&want), "no {want} in {kept}");
    }
    // The new image keeps what it needs, without the one below.
    node.ctr(&["images", "rm", "--sync", IMAGE]);
    node.ctr(&["images", "export", "/dev/null", name]);
    assert_eq!(run(&node, name, SHOW), SHOWN);
    end(&node);
    // Its blob goes with it, at once.
    let blob = made["layer"]["digest"].as_str().unwrap();
    assert!(node.ctr(&["content", "ls"]).contains(blob));
    node.ctr(&["images", "rm", "--sync", name]);
    assert!(!node.ctr(&["content", "ls"]).contains(blob));
    node.leaves_nothing();
}

#[test]
fn containers_become_images_with_containerd_2_1() {
    isolated(|| life(Containerd::Sid));
}

#[test]
fn containers_become_images_with_containerd_1_7() {
    isolated(|| life(Containerd::Trixie));
}

#[test]
fn the_same_container_gives_the_same_image() {
    isolated(|| {
        let node = need!(node(Containerd::Sid));
        exec(&node, CHANGES);
        let epoch = ["--source-date-epoch", "1700000000", "--compression", "zstd"];
        let of = |words: &[&str]| commit(&node, &[&epoch[..], words].concat());
        let (first, second) =
            (of(&[&one(&node), "made:1"]), of(&["--pause=false", "first", "made:2"]));
        for what in ["manifest", "config", "layer"] {
            assert_eq!(first[what], second[what], "{what}");
        }
        assert!(first["layer"]["media_type"].as_str().unwrap().ends_with("+zstd"));
        let created = document(&node, &first["config"])["created"].clone();
        assert_eq!(created, "2023-11-14T22:13:20Z");
        // A name leads to the newest image of that name.
        exec(&node, "echo other >/root/new");
        let third = of(&[&one(&node), "made:1"]);
        assert_ne!(third["manifest"], first["manifest"]);
        assert_eq!(run(&node, "made:1", "cat /root/new"), "other\n");
        assert_eq!(run(&node, "made:2", SHOW), SHOWN);
        // Now that all of its layers are unpacked, its config keeps them.
        of(&[&one(&node), "made:1"]);
        let kept = labels(&node, &third["config"]);
        assert!(kept.contains("containerd.io/gc.ref.snapshot.erolith=sha256:"), "{kept}");
        end(&node);
        node.leaves_nothing();
    });
}

#[test]
fn what_is_committed_can_be_committed_again() {
    isolated(|| {
        let node = need!(node(Containerd::Sid));
        exec(&node, "echo 1 >/root/one");
        commit(&node, &[&one(&node), "made:1"]);
        let two = format!("{}-again", one(&node));
        let words = ["run", "--detach", "--snapshotter", "erolith", "made:1", &two];
        node.ctr(&[&words[..], &["sleep", "600"]].concat());
        let shell = ["sh", "-c", "rm /root/one; echo 2 >/root/two"];
        node.ctr(&[&["task", "exec", "--exec-id", "x", &two][..], &shell].concat());
        node.ctr(&["task", "rm", "--force", &two]);
        let made = commit(&node, &[&two, "made:2"]);
        assert_eq!(document(&node, &made["manifest"])["layers"].as_array().unwrap().len(), 6);
        assert_eq!(run(&node, "made:2", "ls /root/one 2>&-; cat /root/two"), "2\n");
        node.ctr(&["container", "rm", &two]);
        end(&node);
        node.leaves_nothing();
    });
}

/// What containerd does from 2.2 on, and 2.1 only for archives: the layer that was made is applied over those below.
/// Returns the name of its snapshot, which the collector does not take.
fn unpack(node: &Node, made: &Value) -> String {
    let parent =
        node.snapshots("erolith").into_iter().find(|(key, ..)| *key == one(node)).unwrap().1;
    let diff_id = made["layer"]["diff_id"].as_str().unwrap();
    let chain = format!("sha256:{}", sha256(format!("{parent} {diff_id}").as_bytes()));
    let key = format!("unpack-{chain}");
    node.ctr(&["snapshots", "--snapshotter", "erolith", "prepare", &key, &parent]);
    let client = Client::connect(&node.socket());
    // containerd gives it another name.
    let snapshot = client.list(&[]).unwrap().into_iter().find(|info| info.name.ends_with(&key));
    let mounts = client.mounts(&snapshot.unwrap().name).unwrap();
    let layer = Descriptor {
        media_type: made["layer"]["media_type"].as_str().unwrap().into(),
        digest: made["layer"]["digest"].as_str().unwrap().into(),
        size: made["layer"]["size"].as_i64().unwrap(),
        annotations: BTreeMap::new(),
    };
    assert_eq!(client.apply(&layer, &mounts).unwrap().digest, diff_id);
    node.ctr(&["snapshots", "--snapshotter", "erolith", "commit", &chain, &key]);
    chain
}

/// containerd 2.1 does not unpack such layers, but it has them made, stores them, names them and runs them.
#[test]
fn layers_can_be_erofs_images() {
    isolated(|| {
        let node = need!(node(Containerd::Sid));
        exec(&node, CHANGES);
        for (compression, suffix) in [("none", ""), ("zstd", "+zstd")] {
            let form = ["--format", "erofs", "--compression", compression];
            let made = commit(&node, &[&form[..], &[&one(&node), "made:erofs"]].concat());
            let want = format!("application/vnd.erofs.layer.v1{suffix}");
            assert_eq!(made["layer"]["media_type"], want);
            let config = document(&node, &made["config"]);
            assert_eq!(config["os.features"], serde_json::json!(["erofs"]));
            assert_eq!(config["rootfs"]["diff_ids"][4], made["layer"]["diff_id"]);
            if compression == "none" {
                let digest = made["layer"]["digest"].as_str().unwrap();
                assert_eq!(made["layer"]["diff_id"], digest);
                let blobs = "root/io.containerd.content.v1.content/blobs/sha256";
                let blob = node.place().join(blobs).join(digest.trim_start_matches("sha256:"));
                let blob = blob.display().to_string();
                node.exec(&[EROLITH, "fsck", &blob]);
                assert_eq!(node.exec(&[EROLITH, "cat", &blob, "/root/new"]), "new\n");
                // What did not change is not in there.
                assert!(node.try_exec(&[EROLITH, "stat", &blob, "/etc/passwd"]).is_err());
            }
            let layer = unpack(&node, &made);
            assert_eq!(run(&node, "made:erofs", SHOW), SHOWN, "{compression}");
            node.ctr(&["snapshots", "--snapshotter", "erolith", "rm", &layer]);
        }
        end(&node);
        node.leaves_nothing();
    });
}

/// A snapshot without a container; one that is committed already; one without layers below.
#[test]
fn snapshots_become_images() {
    isolated(|| {
        let node = need!(node(Containerd::Sid));
        let snapshots = |words: &[&str]| {
            node.ctr(&[&["snapshots", "--snapshotter", "erolith"][..], words].concat())
        };
        let found = node.snapshots("erolith");
        let parent = &found.iter().find(|(key, ..)| *key == one(&node)).unwrap().1;
        snapshots(&["prepare", "changed", parent]);
        let made = commit(&node, &["changed", "made:active"]);
        assert_eq!(made["base"]["name"], IMAGE);
        assert_eq!(run(&node, "made:active", "tail -n 1 /etc/issue"), "built for tests\n");
        snapshots(&["commit", "done", "changed"]);
        commit(&node, &["done", "made:committed"]);
        assert_eq!(run(&node, "made:committed", "tail -n 1 /etc/issue"), "built for tests\n");
        snapshots(&["prepare", "scratch"]);
        let made = commit(&node, &["scratch", "made:scratch"]);
        assert_eq!(made["base"], Value::Null);
        assert_eq!(document(&node, &made["manifest"])["layers"].as_array().unwrap().len(), 1);
        assert_eq!(views(&node), [""; 0]);
        for key in ["scratch", "done"] {
            snapshots(&["rm", key]);
        }
        end(&node);
        node.leaves_nothing();
    });
}

/// The name of an image may lead elsewhere since the container was made.
#[test]
fn the_image_below_is_known_by_its_layers() {
    isolated(|| {
        let node = need!(node(Containerd::Sid));
        exec(&node, "echo 1 >/root/one");
        commit(&node, &[&one(&node), "made:1"]);
        node.ctr(&["images", "tag", IMAGE, "kept:1"]);
        node.ctr(&["images", "tag", "--force", "made:1", IMAGE]);
        let made = commit(&node, &[&one(&node), "made:2"]);
        assert_eq!(made["base"]["name"], "kept:1");
        assert_eq!(run(&node, "made:2", "cat /root/one"), "1\n");
        node.ctr(&["images", "rm", "--sync", "kept:1"]);
        let error = try_commit(&node, &[&one(&node), "made:3"]).unwrap_err();
        for word in ["exit status: 3", "no image in namespace", IMAGE, "get the image again"] {
            assert!(error.contains(word), "no {word:?} in {error}");
        }
        assert_eq!(views(&node), [""; 0]);
        end(&node);
        node.leaves_nothing();
    });
}

/// What packages do to a container: those of the image are installed anew, as by an upgrade, others come and go.
const CHURN: &str = "dpkg --install /churn/*.deb >/dev/null && \
                     dpkg --purge less python3-setuptools python3-wheel >/dev/null 2>&1; \
                     python3 -m pip install --quiet --no-index --find-links /churn \
                         --break-system-packages --root-user-action ignore pandas && \
                     rm -r /usr/share/locale /usr/share/zoneinfo && sync";

/// What shows that it works.
const WORKS: &str = "git --version; python3 -c 'import pandas; print(pandas.Series([1, 2]).sum())'; \
                     dpkg --audit; dpkg --get-selections | grep -c install";

/// All that there is in the container's own filesystem, and what it holds.
const TREE: &str = "cd / && roots=$(ls -A | grep -vxE 'churn|dev|proc|run|sys') && \
                    find $roots -xdev -type d -printf 'd %p %m %U:%G %T@\\n' -o \
                        -type f -printf 'f %p %m %U:%G %T@ %s\\n' -o \
                        -printf '%y %p %m %U:%G %T@ %l\\n' && \
                    find $roots -xdev -type f -print0 | xargs -0 sha256sum";

/// Packages in a real container, committed and run again: everything is as it was, and does what it did.
#[test]
fn installed_packages_are_there_again() {
    isolated(|| {
        let node = need!(Node::start(EROLITH, Containerd::Sid, &[("erolith", "erolith")], ""));
        let packages = need!(tools::cached("churn", "testdata/churn.sh"));
        node.import(&need!(Layout::real_image()).0);
        let churn = node.place().join("churn");
        let copied = Command::new("cp").arg("-r").args([&packages, &churn]).status();
        assert!(copied.unwrap().success());
        let mount = format!("type=bind,src={},dst=/churn,options=rbind:ro", churn.display());
        let run = |words: &[&str], image: &str, id: &str, last: &[&str]| {
            let first = ["run", "--snapshotter", "erolith", "--mount", &mount];
            node.ctr(&[&first[..], words, &[image, id], last].concat())
        };
        run(&["--detach"], IMAGE, &one(&node), &["sleep", "600"]);
        exec(&node, CHURN);
        let (works, tree) = (exec(&node, WORKS), exec(&node, TREE));
        assert!(works.contains("git version") && works.contains("\n3\n"), "{works}");
        for format in ["oci", "erofs"] {
            let made = commit(&node, &["--format", format, &one(&node), "made:churn"]);
            let layer = (format == "erofs").then(|| unpack(&node, &made));
            let again = format!("{}-{format}", one(&node));
            let shell = |shell: &str| run(&["--rm"], "made:churn", &again, &["sh", "-c", shell]);
            same_lines(&tree, &shell(TREE));
            assert_eq!(shell(WORKS), works, "{format}");
            if let Some(layer) = layer {
                node.ctr(&["snapshots", "--snapshotter", "erolith", "rm", &layer]);
            }
        }
        end(&node);
        node.leaves_nothing();
    });
}

/// The same lines, in whatever order.
fn same_lines(one: &str, other: &str) {
    let [one, other] = [one, other].map(|text| text.lines().collect::<BTreeSet<_>>());
    let missing: Vec<_> = one.difference(&other).take(10).collect();
    let new: Vec<_> = other.difference(&one).take(10).collect();
    assert!(one.len() > 8000, "{} lines", one.len());
    assert!(missing.is_empty() && new.is_empty(), "missing: {missing:#?}, new: {new:#?}");
}

#[test]
fn errors_say_what_to_do() {
    isolated(|| {
        let node = need!(node(Containerd::Sid));
        let socket = socket(&node);
        for (words, code, word) in [
            (&["nobody", "made:1"][..], 3, "`ctr containers ls`"),
            (&["--namespace", "other", &one(&node), "made:1"], 3, "in namespace \"other\""),
            (
                &["--snapshotter", "overlayfs", &one(&node), "made:1"],
                3,
                "--snapshotter names another",
            ),
            (&[&one(&node), "made 1"], 2, "no name of an image"),
            (&["--compression", "gzip", "--format", "erofs", &one(&node), "made:1"], 2, "zstd"),
            (&["-c", "CMD ['x']", &one(&node), "made:1"], 2, "JSON"),
            (&["--address", "/run/nobody", &one(&node), "made:1"], 4, "--address names another"),
        ] {
            let address = match words.first() {
                Some(&"--address") => &[][..],
                _ => &["--address", &socket],
            };
            let words = [&[EROLITH, "commit"], address, words].concat();
            let error = node.try_exec(&words).unwrap_err();
            assert!(error.contains(&format!("exit status: {code}")), "{words:?}: {error}");
            assert!(error.contains(word), "{words:?}: no {word:?} in {error}");
        }
        assert_eq!(views(&node), [""; 0]);
        assert!(is_running(&node));
        end(&node);
        node.leaves_nothing();
    });
}

/// What runs `erolith commit` until it has made its view, and ends it with a signal. Prints its exit status.
fn ended_half_way(node: &Node, signal: &str) -> String {
    let shell = format!(
        "{EROLITH} commit --address {0} {1} made:1 >/dev/null 2>&1 & pid=$!; \
         until ctr --address {0} snapshots --snapshotter erolith ls | grep -q erolith-commit; do \
         kill -0 $pid || exit 1; done; \
         until ctr --address {0} task ls | grep -q PAUSED; do kill -0 $pid || exit 1; done; \
         kill -{signal} $pid; wait $pid; echo $?",
        socket(node),
        one(node)
    );
    node.exec(&["bash", "-c", &shell])
}

#[test]
fn a_commit_that_ends_half_way_leaves_nothing() {
    isolated(|| {
        let node = need!(node(Containerd::Sid));
        exec(&node, "head -c 300000000 /dev/urandom >/root/large");
        assert_eq!(ended_half_way(&node, "INT"), "130\n");
        assert_eq!(views(&node), [""; 0], "interrupted");
        assert!(is_running(&node), "the container goes on");
        // After this one only containerd can clean up, with the lease.
        let ended = ended_half_way(&node, "KILL");
        // First of all: a container that is paused cannot be killed, and the test would not end.
        node.ctr(&["task", "resume", &one(&node)]);
        assert_eq!((ended.as_str(), views(&node).len()), ("137\n", 1));
        for lease in node.ctr(&["leases", "ls", "-q"]).lines() {
            // The daemon gives up its own when it sees that no caller waits.
            let _ = node.try_ctr(&["leases", "delete", "--sync", lease]);
        }
        assert_eq!(views(&node), [""; 0], "killed");
        assert!(!node.ctr(&["images", "ls", "-q"]).contains("made:1"));
        commit(&node, &[&one(&node), "made:1"]);
        assert!(is_running(&node));
        end(&node);
        node.leaves_nothing();
    });
}
