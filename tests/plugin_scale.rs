//! Many snapshots, many layers, many mounts, many callers: it works, and nothing leaks.
#![allow(missing_docs, clippy::unwrap_used)]

mod life;
mod rpc;

use std::fs;

use erolith_tests::need;
use erolith_tests::node::{Daemon, Leftovers, Setup, disk, isolated};
use erolith_tests::tarball::Tarball;

use crate::rpc::{Client, attach, detach, labels, option_bytes, snapshots};

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");

/// Without waiting for the disk: what is measured here is our own work.
const UNSYNCED: &str = "[snapshotter]\nsync = false\n";

/// Most that mount options may come to, so that callers can add a little to the page that the kernel takes.
const OPTION_LIMIT: usize = 3584;

fn start(setup: &Setup) -> (Daemon, Client) {
    let daemon = Daemon::start(setup.clone()).unwrap_or_else(|e| panic!("{e}"));
    let client = Client::connect(&setup.socket());
    (daemon, client)
}

/// Removes everything and asks that nothing stays.
fn finish(daemon: Daemon, client: &Client) {
    client.empty().unwrap();
    let setup = daemon.stop().unwrap();
    Leftovers::vanish(std::process::id(), &setup.root, &setup.state).unwrap();
}

/// That no call gets slower with their number is shown by `tests/bench` and by the store's own tests, which count steps.
#[test]
fn ten_thousand_snapshots_are_listed_filtered_and_found_again() {
    isolated(|| {
        let dir = need!(disk());
        let setup = Setup { config: UNSYNCED.into(), ..Setup::alone(EROLITH, dir.path()) };
        let (daemon, client) = start(&setup);
        chains(&client, 1000);
        let all = client.list(&[]).unwrap();
        assert_eq!(all.len(), 10_000);
        let filtered = client.list(&["kind==committed,parent==c7-3"]).unwrap();
        assert_eq!(filtered.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["c7-4"]);
        client.prepare("box", "c999-9").unwrap();
        drop(client);
        daemon.stop().unwrap();
        let (daemon, client) = start(&setup);
        client.cleanup().unwrap();
        assert_eq!(client.list(&["kind==committed"]).unwrap(), all);
        assert_eq!(client.stat("box").unwrap().parent, "c999-9");
        finish(daemon, &client);
    });
}

/// Commits chains of ten empty snapshots each, named `cCHAIN-LEVEL`.
fn chains(client: &Client, count: usize) {
    for chain in 0..count {
        let mut parent = String::new();
        for level in 0..10 {
            let name = format!("c{chain}-{level}");
            client.prepare("making", &parent).unwrap();
            client.commit(&name, "making").unwrap();
            parent = name;
        }
    }
}

/// A layer with one file of its own, applied by our differ and committed as `layer-N`.
fn layers(client: &Client, setup: &Setup, count: usize) {
    let mut parent = String::new();
    for i in 0..count {
        let tar = Tarball::new()
            .file(format!("file-{i}"), format!("{i}\n"))
            .file("last", format!("{i}\n"))
            .end();
        let mounts = client.prepare("making", &parent).unwrap();
        client.apply(&life::put(setup, &tar), &mounts).unwrap();
        parent = format!("layer-{i}");
        client.commit(&parent, "making").unwrap();
    }
}

#[test]
fn a_hundred_and_twenty_eight_layers_are_one_mount() {
    isolated(|| {
        let dir = need!(disk());
        // Where nodes have it: the state directory that is the default.
        let state = "/run/erolith".into();
        let setup = Setup { state, config: UNSYNCED.into(), ..Setup::alone(EROLITH, dir.path()) };
        let (daemon, client) = start(&setup);
        layers(&client, &setup, 128);
        let target = dir.path().join("mnt");
        for mounts in
            [client.prepare("box", "layer-127").unwrap(), client.view("view", "layer-127").unwrap()]
        {
            let bytes = option_bytes(&mounts);
            assert!(bytes <= OPTION_LIMIT, "{bytes} bytes of options");
            attach(&mounts, &target).unwrap();
            assert_eq!(fs::read_dir(&target).unwrap().count(), 129);
            assert_eq!(fs::read_to_string(target.join("last")).unwrap(), "127\n");
            assert_eq!(fs::read_to_string(target.join("file-0")).unwrap(), "0\n");
            detach(&target);
        }
        finish(daemon, &client);
    });
}

#[test]
fn a_thousand_containers_share_the_mounts_of_their_layers() {
    isolated(|| {
        let dir = need!(disk());
        let setup = Setup { config: UNSYNCED.into(), ..Setup::alone(EROLITH, dir.path()) };
        let (daemon, client) = start(&setup);
        layers(&client, &setup, 4);
        let descriptors = || {
            let path = format!("/proc/{}/fd", daemon.pid().unwrap());
            fs::read_dir(path).unwrap().count()
        };
        let before = descriptors();
        let target = |i: usize| dir.path().join(format!("mnt/{i}"));
        for i in 0..1000 {
            let mounts = client.prepare(&format!("box-{i}"), "layer-3").unwrap();
            attach(&mounts, &target(i)).unwrap();
        }
        let ours = life::left(&setup).mounts;
        assert_eq!(ours.len(), 4, "{ours:?}");
        assert!(descriptors() <= before + 8, "{before} descriptors became {}", descriptors());
        // They are found again, not made again.
        daemon.kill();
        let (daemon, client) = start(&setup);
        for i in [0, 500, 999] {
            assert_eq!(fs::read_to_string(target(i).join("last")).unwrap(), "3\n");
            client.mounts(&format!("box-{i}")).unwrap();
        }
        assert_eq!(life::left(&setup).mounts, ours);
        for i in 0..1000 {
            detach(&target(i));
        }
        finish(daemon, &client);
    });
}

#[test]
fn a_hundred_callers_at_once() {
    isolated(|| {
        let dir = need!(disk());
        let setup = Setup::alone(EROLITH, dir.path());
        let (daemon, client) = start(&setup);
        layers(&client, &setup, 3);
        let answers = client.wait(async {
            let calls: Vec<_> = (0..100)
                .map(|i| {
                    let mut channel = client.channel();
                    let request = snapshots::PrepareSnapshotRequest {
                        snapshotter: "erolith".into(),
                        key: format!("box-{i}"),
                        parent: "layer-2".into(),
                        labels: labels(&[("containerd.io/snapshot/n", &i.to_string())]),
                    };
                    tokio::spawn(async move { channel.prepare(request).await })
                })
                .collect();
            let mut answers = Vec::new();
            for call in calls {
                answers.push(call.await.unwrap().map(|answer| answer.into_inner().mounts));
            }
            answers
        });
        let mut uppers: Vec<_> =
            answers.into_iter().map(|mounts| upper(&mounts.unwrap())).collect();
        uppers.sort();
        uppers.dedup();
        assert_eq!(uppers.len(), 100, "two callers were given one directory");
        assert_eq!(client.list(&["kind==active"]).unwrap().len(), 100);
        assert_eq!(life::left(&setup).mounts.len(), 3);
        finish(daemon, &client);
    });
}

fn upper(mounts: &[rpc::Mount]) -> String {
    let options = mounts.last().unwrap().options.iter();
    let mut found = options.filter_map(|option| option.strip_prefix("upperdir="));
    found.next().unwrap_or_else(|| panic!("no upperdir in {mounts:?}")).to_owned()
}

/// The same key from many callers: one gets it.
#[test]
fn one_of_many_callers_gets_a_key() {
    isolated(|| {
        let dir = need!(disk());
        let setup = Setup::alone(EROLITH, dir.path());
        let (daemon, client) = start(&setup);
        let won = client.wait(async {
            let calls: Vec<_> = (0..50)
                .map(|_| {
                    let mut channel = client.channel();
                    let request = snapshots::PrepareSnapshotRequest {
                        snapshotter: "erolith".into(),
                        key: "same".into(),
                        ..Default::default()
                    };
                    tokio::spawn(async move { channel.prepare(request).await.map(|_| ()) })
                })
                .collect();
            let mut won = 0;
            for call in calls {
                match call.await.unwrap() {
                    Ok(()) => won += 1,
                    Err(status) => {
                        assert_eq!(status.code(), tonic::Code::AlreadyExists, "{status}")
                    }
                }
            }
            won
        });
        assert_eq!(won, 1);
        client.cleanup().unwrap();
        assert_eq!(life::left(&setup).layers.len(), 1);
        finish(daemon, &client);
    });
}

/// Layers that were unpacked at the same time, each without a parent, are committed onto one another (containerd 2.2).
#[test]
fn layers_unpacked_in_parallel_are_rebased() {
    isolated(|| {
        let dir = need!(disk());
        let setup = Setup::alone(EROLITH, dir.path());
        let (daemon, client) = start(&setup);
        let tars = [
            Tarball::new().dir("etc").file("etc/a", b"1").file("etc/gone", b"1").end(),
            Tarball::new().file("etc/a", b"2").file("etc/.wh.gone", b"").end(),
            Tarball::new().file("etc/b", b"3").end(),
        ];
        let blobs: Vec<_> = tars.iter().map(|tar| life::put(&setup, tar)).collect();
        let mounts: Vec<_> =
            (0..3).map(|i| client.prepare(&format!("extract-{i}"), "").unwrap()).collect();
        std::thread::scope(|scope| {
            for (blob, mounts) in blobs.iter().zip(&mounts).rev() {
                let client = Client::connect(&setup.socket());
                scope.spawn(move || {
                    let applied = client.apply(blob, mounts).unwrap();
                    assert_eq!(applied.digest, blob.digest);
                });
            }
        });
        let mut parent = String::new();
        for i in 0..3 {
            let name = format!("chain-{i}");
            client.commit_onto(&name, &format!("extract-{i}"), &parent).unwrap();
            assert_eq!(client.stat(&name).unwrap().parent, parent);
            parent = name;
        }
        let target = dir.path().join("mnt");
        attach(&client.prepare("box", &parent).unwrap(), &target).unwrap();
        let read = |name: &str| fs::read_to_string(target.join("etc").join(name)).ok();
        assert_eq!((read("a").as_deref(), read("b").as_deref()), (Some("2"), Some("3")));
        assert_eq!(read("gone"), None);
        detach(&target);
        finish(daemon, &client);
    });
}
