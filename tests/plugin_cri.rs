//! Kubernetes' side of a node: a real containerd with CRI on the daemon's snapshots, asked what a kubelet asks.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use erolith_tests::busybox;
use erolith_tests::layout::Layout;
use erolith_tests::need;
use erolith_tests::node::cri::{OTHER, Pull, Space};
use erolith_tests::node::{Containerd, Cri, isolated};
use erolith_tests::tarball::{Header, Tarball};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tonic::Code;

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");
const APP: &str = "127.0.0.1:5000/app:1";
const DATA: &str = "127.0.0.1:5000/data:1";
/// The users of a pod begin here.
const USERS: u32 = 100_000;
const BOTH: [Containerd; 2] = [Containerd::Sid, Containerd::Trixie];

/// Owners and modes that a container sees, each with the file that has them.
const OWNERS: &str = "stat -c '%u:%g %a %n' /own /own/a /own/b /own/c /own/d";
/// What [`OWNERS`] says of the image.
const OWNED: &str = "0:0 755 /own\n0:0 644 /own/a\n1000:1000 600 /own/b\n65535:65534 644 /own/c\n33:42 4755 /own/d\n";
/// A sum of everything in the image.
const SUM: &str = "find /own /big /etc/passwd /late -type f | sort | sha256sum; \
                   find /own /big /etc/passwd /late -type f | sort | while read f; do sha256sum $f; done | sha256sum";

/// Three layers: a system with owners, one more that removes, and a large file.
fn app(cri: &Cri) {
    let owned = |name: &str, mode, uid, gid| Header::new(b'0', name).mode(mode).owner(uid, gid);
    let system = busybox::system()
        .dir("own")
        .member(owned("own/a", 0o644, 0, 0), "a")
        .member(owned("own/b", 0o600, 1000, 1000), "b")
        .member(owned("own/c", 0o644, 65535, 65534), "c")
        .member(owned("own/d", 0o4755, 33, 42), "d")
        .file("gone", "gone");
    let second = Tarball::new().file("late", "late").file(".wh.gone", "");
    let large: Vec<u8> =
        (0..1_u32 << 20).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let third = Tarball::new().file("big", large);
    let layers = [system, second, third].map(Tarball::end);
    publish(cri, "app", &layers, APP);
}

/// Two layers without programs.
fn data(cri: &Cri) {
    let lower = Tarball::new().file("file", "lower").file("gone", "gone");
    let upper = Tarball::new()
        .file("file", "upper")
        .member(Header::new(b'0', "owned").owner(1000, 1000), "owned")
        .file(".wh.gone", "");
    publish(cri, "data", &[lower, upper].map(Tarball::end), DATA);
}

fn publish(cri: &Cri, name: &str, layers: &[Vec<u8>], image: &str) {
    let layout = Layout::create_running(&cri.node.place().join(name), layers, &["/bin/sh"]);
    cri.publish(&layout.unwrap(), image);
}

/// A node with the image of [`app`] in its registry.
fn start(containerd: Containerd, pull: Pull) -> Result<Cri, String> {
    let cri = Cri::start(EROLITH, containerd, pull, |printed| printed)?;
    app(&cri);
    Ok(cri)
}

fn waits(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ready() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn images_are_pulled_and_pods_live_on_them() {
    isolated(|| {
        for (containerd, pull) in [
            (Containerd::Sid, Pull::Transfer),
            (Containerd::Sid, Pull::Local),
            (Containerd::Trixie, Pull::Local),
        ] {
            let cri = need!(start(containerd, pull));
            let id = cri.pull(APP).unwrap();
            // Every layer came through the daemon's differ: three of this image and the one of all pods.
            let log = cri.node.log();
            assert_eq!(log.matches("how=\"converted\"").count(), 4, "{log}");
            for name in [APP, &id] {
                assert_eq!(cri.image(name).unwrap().unwrap().repo_tags, [APP], "{name}");
            }
            assert_eq!(cri.image("127.0.0.1:5000/none:1").unwrap(), None);
            let usage = cri.image_filesystem().unwrap();
            // The root that the daemon exports.
            let mountpoint = usage.fs_id.unwrap().mountpoint;
            assert_eq!(mountpoint, cri.node.root().display().to_string());
            waits("images are counted", || {
                let bytes = cri.image_filesystem().unwrap().used_bytes.unwrap().value;
                bytes > 4 << 20
            });
            lives(&cri);
            cri.leaves_nothing();
        }
    });
}

/// What a container does, and what is said of it.
fn lives(cri: &Cri) {
    let pod = cri.pod("lives", Space::Node, "").unwrap();
    let once = "cat /late; echo complaint >&2; exit 7";
    let container = cri.create(&pod, "once", APP, once, Vec::new()).unwrap();
    cri.start_container(&container).unwrap();
    assert_eq!(cri.ended(&container), 7);
    let log = cri.log("once");
    assert!(log.contains(" stdout P late") && log.contains(" stderr F complaint"), "{log}");
    let container = cri.run(&pod, "stays", APP, Vec::new()).unwrap();
    assert_eq!(cri.exec(&container, OWNERS), OWNED);
    assert_eq!(cri.try_exec(&container, "cat /gone; exit 3").unwrap().0, 3);
    assert_eq!(cri.exec(&container, "stat -c %a /tmp"), "1777\n");
    // What it writes is counted to the byte, as `du` counts.
    cri.exec(
        &container,
        "dd if=/dev/zero of=/new bs=1024 count=2048 2>/dev/null; rm /late; mkdir /d",
    );
    let counted = "du -s --block-size=1 . | cut -f1; find . | wc -l";
    let upper = upper_of(cri);
    let disk = cri.node.exec(&["sh", "-c", &format!("cd {upper} && {counted}")]);
    let disk: Vec<u64> = disk.lines().map(|line| line.trim().parse().unwrap()).collect();
    let [bytes, inodes] = disk[..] else { panic!("{disk:?}") };
    waits("what a container wrote is counted", || {
        cri.written(&container).unwrap() == Some((bytes, inodes))
    });
    // A running container keeps its layers when its image goes.
    cri.remove_image(APP).unwrap();
    assert_eq!(cri.image(APP).unwrap(), None);
    assert_eq!(cri.exec(&container, "cat /own/a"), "a");
    assert_eq!(
        cri.create(&pod, "none", APP, "true", Vec::new()).unwrap_err().code(),
        Code::NotFound
    );
    cri.stop_container(&container).unwrap();
    cri.remove_container(&container).unwrap();
    cri.remove_pod(&pod.id).unwrap();
}

/// The upper directory of the one container that has written something.
fn upper_of(cri: &Cri) -> String {
    let written = cri.node.root().join("snapshots");
    let uppers = fs::read_dir(written).unwrap().map(|entry| entry.unwrap().path().join("fs"));
    let mut uppers = uppers.filter(|upper| upper.join("new").exists());
    uppers.next().unwrap().display().to_string()
}

#[test]
fn pods_in_user_namespaces_see_the_owners_of_their_image() {
    isolated(|| {
        for containerd in BOTH {
            let cri = need!(start(containerd, Pull::Local));
            cri.pull(APP).unwrap();
            let before = layers(&cri);
            for (name, first) in [("one", USERS), ("two", 2 * USERS)] {
                let pod = cri.pod(name, Space::Users(first), "").unwrap();
                let container = cri.run(&pod, name, APP, Vec::new()).unwrap();
                assert_eq!(
                    cri.exec(&container, "cat /proc/self/uid_map").split_whitespace().nth(1),
                    Some(first.to_string().as_str())
                );
                assert_eq!(cri.exec(&container, OWNERS), OWNED, "{containerd:?}");
                cri.exec(&container, "echo more >>/own/a && touch /new && chown 7:8 /new");
                assert_eq!(cri.exec(&container, "stat -c '%u:%g' /own/a /new"), "0:0\n7:8\n");
                let upper = upper_of_users(&cri, first);
                assert_eq!((upper.uid(), upper.gid()), (first + 7, first + 8));
            }
            // Two pods, each with the snapshots of its sandbox and its container; and no copy of a layer.
            assert_eq!(layers(&cri), before + 4, "{containerd:?}");
            cri.leaves_nothing();
        }
    });
}

fn layers(cri: &Cri) -> usize {
    fs::read_dir(cri.node.root().join("snapshots")).unwrap().count()
}

fn upper_of_users(cri: &Cri, first: u32) -> fs::Metadata {
    let snapshots = fs::read_dir(cri.node.root().join("snapshots")).unwrap();
    let mut files =
        snapshots.filter_map(|entry| fs::metadata(entry.unwrap().path().join("fs/new")).ok());
    files.find(|file| (first..first + 65536).contains(&file.uid())).unwrap()
}

/// A configuration written by hand, or before containerd knew of capabilities.
#[test]
fn without_capabilities_owners_are_mapped_once() {
    isolated(|| {
        for containerd in BOTH {
            let without = |printed: String| -> String {
                let lines = printed.lines().filter(|line| !line.contains("capabilities ="));
                lines.map(|line| format!("{line}\n")).collect()
            };
            let cri = need!(Cri::start(EROLITH, containerd, Pull::Local, without));
            app(&cri);
            cri.pull(APP).unwrap();
            let pod = cri.pod("copied", Space::Users(USERS), "").unwrap();
            let container = cri.run(&pod, "copied", APP, Vec::new()).unwrap();
            assert_eq!(
                cri.exec(&container, OWNERS).replace("4755", "755"),
                OWNED.replace("4755", "755")
            );
            cri.exec(&container, "touch /new && chown 7:8 /new");
            let upper = upper_of_users(&cri, USERS);
            assert_eq!((upper.uid(), upper.gid()), (USERS + 7, USERS + 8));
            let log = cri.node.log();
            assert!(log.contains("owners are mapped in this copy"), "{log}");
            cri.leaves_nothing();
        }
    });
}

#[test]
fn images_are_volumes_of_containers() {
    isolated(|| {
        let mut cri = need!(start(Containerd::Sid, Pull::Transfer));
        data(&cri);
        for image in [APP, DATA] {
            cri.pull(image).unwrap();
        }
        let look = "cat /v/file; ls /v; stat -c '%u:%g' /v/owned; touch /v/new; rm /v/file";
        let mut running = Vec::new();
        for (name, space) in [("plain", Space::Node), ("users", Space::Users(USERS))] {
            let pod = cri.pod(name, space, "").unwrap();
            // containerd 2.1 forgets for a second container of a pod that the volume is mapped already.
            let halves = if space == Space::Node { &["first", "second"][..] } else { &["first"] };
            for half in halves {
                let name = format!("{name}-{half}");
                let volume = vec![Cri::image_volume(DATA, "/v", space)];
                let container = cri.run(&pod, &name, APP, volume).unwrap();
                let (code, said) = cri.try_exec(&container, look).unwrap();
                assert!(code != 0 && said.matches("Read-only file system").count() == 2, "{said}");
                assert!(said.starts_with("upperfile\nowned\n1000:1000\n"), "{name}: {said}");
                running.push(container);
            }
        }
        cri.remove_image(DATA).unwrap();
        cri.node.kill_daemon();
        cri.node.start_daemon();
        cri.node.restart_containerd();
        cri.ready();
        for container in &running {
            assert_eq!(cri.exec(container, "cat /v/file"), "upper");
        }
        cri.leaves_nothing();
    });
}

#[test]
fn pods_go_on_when_the_daemon_or_containerd_is_killed() {
    isolated(|| {
        for containerd in BOTH {
            let mut cri = need!(start(containerd, Pull::Transfer));
            cri.pull(APP).unwrap();
            let plain = cri.pod("plain", Space::Node, "").unwrap();
            let users = cri.pod("users", Space::Users(USERS), "").unwrap();
            let old: Vec<_> = [("plain", &plain), ("users", &users)]
                .map(|(name, pod)| cri.run(pod, name, APP, Vec::new()).unwrap())
                .into();
            cri.node.kill_daemon();
            assert_eq!(cri.exec(&old[0], OWNERS), OWNED);
            let refused = cri.create(&plain, "early", APP, "true", Vec::new()).unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            // What is removed while the daemon is away goes later.
            cri.remove_pod(&users.id).unwrap();
            cri.node.start_daemon();
            cri.reconnected();
            let new = cri.run(&plain, "new", APP, Vec::new()).unwrap();
            assert_eq!(cri.exec(&new, OWNERS), OWNED);
            cri.node.restart_containerd();
            cri.ready();
            for container in [&old[0], &new] {
                assert_eq!(cri.exec(container, OWNERS), OWNED);
            }
            let pod = cri.pod("later", Space::Users(USERS), "").unwrap();
            let later = cri.run(&pod, "later", APP, Vec::new()).unwrap();
            assert_eq!(cri.exec(&later, OWNERS), OWNED);
            cri.leaves_nothing();
        }
    });
}

#[test]
fn a_node_that_reboots_has_its_images_and_no_mounts() {
    isolated(|| {
        for containerd in BOTH {
            let mut cri = need!(start(containerd, Pull::Transfer));
            cri.pull(APP).unwrap();
            for (name, space) in [("plain", Space::Node), ("users", Space::Users(USERS))] {
                let pod = cri.pod(name, space, "").unwrap();
                cri.run(&pod, name, APP, Vec::new()).unwrap();
            }
            let images = cri.images().unwrap();
            cri.reboot();
            cri.node.settles("no mounts", |left| left.mounts.is_empty() && left.loops.is_empty());
            assert_eq!(cri.images().unwrap(), images);
            let sandboxes = cri.sandboxes().unwrap();
            assert_eq!(sandboxes.iter().map(|(_, ready)| *ready).collect::<Vec<_>>(), [false; 2]);
            let pod = cri.pod("new", Space::Users(USERS), "").unwrap();
            let container = cri.run(&pod, "new", APP, Vec::new()).unwrap();
            assert_eq!(cri.exec(&container, OWNERS), OWNED);
            cri.leaves_nothing();
        }
    });
}

#[test]
fn an_image_serves_two_runtime_classes() {
    isolated(|| {
        let cri = need!(start(Containerd::Sid, Pull::Transfer));
        cri.pull(APP).unwrap();
        cri.pull_for(APP, OTHER).unwrap();
        let sums = ["", OTHER].map(|handler| {
            let name = if handler.is_empty() { "usual" } else { handler };
            let pod = cri.pod(name, Space::Node, handler).unwrap();
            let container = cri.run(&pod, name, APP, Vec::new()).unwrap();
            (is_ours(&cri, &container), cri.exec(&container, SUM))
        });
        assert_eq!([sums[0].0, sums[1].0], [true, false]);
        assert_eq!(sums[0].1, sums[1].1);
        cri.leaves_nothing();
    });
}

#[test]
fn a_node_is_switched_there_and_back() {
    isolated(|| {
        let dropin = std::cell::RefCell::new(String::new());
        let before = |printed: String| {
            let (none, _) =
                printed.split_once("[plugins.\"io.containerd.cri.v1.images\"]").unwrap();
            let none = none.to_owned();
            dropin.replace(printed);
            none
        };
        let cri = need!(Cri::start(EROLITH, Containerd::Sid, Pull::Transfer, before));
        app(&cri);
        cri.pull(APP).unwrap();
        let file = cri.node.place().join("conf.d/erolith.toml");
        let none = fs::read_to_string(&file).unwrap();
        let mut running = Vec::new();
        for (name, text, ours) in
            [("before", &none, false), ("there", &dropin.take(), true), ("back", &none, false)]
        {
            fs::write(&file, text).unwrap();
            cri.node.restart_containerd();
            cri.ready();
            // Nothing is pulled again.
            assert!(cri.images().unwrap().contains(&APP.to_owned()));
            let pod = cri.pod(name, Space::Node, "").unwrap();
            running.push((cri.run(&pod, name, APP, Vec::new()).unwrap(), ours));
            for (container, ours) in &running {
                assert_eq!(is_ours(&cri, container), *ours, "{name}");
                assert_eq!(cri.exec(container, OWNERS), OWNED);
            }
        }
        cri.leaves_nothing();
    });
}

/// Whether the root of a container is on the daemon's layers.
fn is_ours(cri: &Cri, container: &str) -> bool {
    let mounts = cri.exec(container, "cat /proc/mounts");
    let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).unwrap();
    root.contains("/run/e/")
}

/// containerd asks a snapshotter once what images are unpacked, when it starts; see `dist/erolith.socket`.
#[test]
fn a_socket_that_systemd_holds_keeps_the_images_of_a_containerd_that_starts_first() {
    isolated(|| {
        for containerd in BOTH {
            let mut cri = need!(start(containerd, Pull::Transfer));
            cri.pull(APP).unwrap();
            let images = cri.images().unwrap();
            cri.node.kill_daemon();
            let socket = cri.node.hold_socket();
            let mut starting = cri.node.restarting_containerd();
            // It has connected, and waits for an answer.
            let mut connected = [PollFd::new(&*socket, PollFlags::IN)];
            let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
            assert_eq!(poll(&mut connected, Some(&patience)).unwrap(), 1, "no client connects");
            cri.node.start_daemon();
            assert!(starting.wait().unwrap().success());
            cri.ready();
            assert_eq!(cri.images().unwrap(), images, "{containerd:?}");
            let pod = cri.pod("after", Space::Node, "").unwrap();
            let container = cri.run(&pod, "after", APP, Vec::new()).unwrap();
            assert_eq!(cri.exec(&container, OWNERS), OWNED);
            cri.leaves_nothing();
        }
    });
}
