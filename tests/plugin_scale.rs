//! Many snapshots, many layers, many mounts, many callers: it works, nothing leaks, and calls take as long as with few.
#![allow(missing_docs, clippy::unwrap_used)]

mod life;
mod rpc;

use std::fs;
use std::time::{Duration, Instant};

use erolith_tests::need;
use erolith_tests::node::{Daemon, Leftovers, Setup, disk, isolated};
use erolith_tests::tarball::Tarball;
use erolith_tests::tools;

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

/// Latencies of one kind of call.
struct Times(Vec<Duration>);

impl Times {
    fn of(count: usize, mut call: impl FnMut(usize)) -> Self {
        let mut all: Vec<_> = (0..count)
            .map(|i| {
                let start = Instant::now();
                call(i);
                start.elapsed()
            })
            .collect();
        all.sort();
        Self(all)
    }

    fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() - 1) * percent / 100]
    }
}

/// Latencies of the calls that a node makes all the time, on top of `parent`.
fn latencies(client: &Client, parent: &str, run: &str) -> [(&'static str, Times); 5] {
    const COUNT: usize = 200;
    let key = |i: usize| format!("{run}-{i}");
    [
        ("Prepare", Times::of(COUNT, |i| drop(client.prepare(&key(i), parent).unwrap()))),
        ("Mounts", Times::of(COUNT, |i| drop(client.mounts(&key(i)).unwrap()))),
        ("Stat", Times::of(COUNT, |i| drop(client.stat(&key(i)).unwrap()))),
        ("Usage", Times::of(COUNT, |i| assert!(client.usage(&key(i)).is_ok()))),
        ("Remove", Times::of(COUNT, |i| client.remove(&key(i)).unwrap())),
    ]
}

#[test]
fn ten_thousand_snapshots_make_no_call_slower() {
    isolated(|| {
        let dir = need!(disk());
        let setup = Setup { config: UNSYNCED.into(), ..Setup::alone(EROLITH, dir.path()) };
        let (daemon, client) = start(&setup);
        chains(&client, 0..1);
        let few = latencies(&client, "c0-9", "few");
        chains(&client, 1..1000);
        let many = latencies(&client, "c0-9", "many");
        for ((name, few), (_, many)) in few.iter().zip(&many) {
            let (before, after) = (few.at(50), many.at(50));
            tools::relay(&format!(
                "measured: {name}: p50 {before:?} with 10 snapshots, {after:?} with 10,000; p99 {:?}, {:?}",
                few.at(99),
                many.at(99)
            ));
            assert!(after < before * 2 + Duration::from_millis(1), "{name}: {before:?}, {after:?}");
        }
        let start_of_list = Instant::now();
        assert_eq!(client.list(&[]).unwrap().len(), 10_000);
        let filtered = client.list(&["kind==committed,parent==c7-3"]).unwrap();
        assert_eq!(filtered.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["c7-4"]);
        let listed = start_of_list.elapsed();
        drop(client);
        daemon.stop().unwrap();
        let start_again = Instant::now();
        let (daemon, client) = start(&setup);
        let restarted = start_again.elapsed();
        assert_eq!(client.list(&[]).unwrap().len(), 10_000);
        let again = Instant::now();
        client.cleanup().unwrap();
        tools::relay(&format!(
            "measured: two lists {listed:?}, restart {restarted:?}, cleanup of nothing {:?}",
            again.elapsed()
        ));
        assert!(listed < Duration::from_secs(2) && restarted < Duration::from_secs(4));
        finish(daemon, &client);
    });
}

/// Commits chains of ten empty snapshots each, named `cCHAIN-LEVEL`.
fn chains(client: &Client, chains: std::ops::Range<usize>) {
    for chain in chains {
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
        let start_of_all = Instant::now();
        for i in 0..1000 {
            let mounts = client.prepare(&format!("box-{i}"), "layer-3").unwrap();
            attach(&mounts, &target(i)).unwrap();
        }
        tools::relay(&format!(
            "measured: 1,000 containers mounted in {:?}",
            start_of_all.elapsed()
        ));
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
