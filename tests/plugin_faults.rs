//! The daemon is killed, fails and runs out of room at every step of its work: what it has answered stays, what it has not
//! can be repeated, and nothing is left behind.
#![allow(missing_docs, clippy::unwrap_used)]

mod life;
mod rpc;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use erolith_durable::fault::{LAYER_POINTS, SNAPSHOT_POINTS};
use erolith_tests::need;
use erolith_tests::node::{Daemon, Leftovers, Setup, disk, isolated};
use tonic::Code;

use crate::life::{Life, STEPS};
use crate::rpc::Client;

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");

/// Points of the differ that only conversions of whole images pass.
const CONVERSIONS: [&str; 4] = ["ingest.", "convert.", "publish.", "archive."];

/// Every point that the daemon passes.
fn points() -> Vec<&'static str> {
    let layers = LAYER_POINTS.iter();
    let layers = layers.filter(|point| !CONVERSIONS.iter().any(|prefix| point.starts_with(prefix)));
    layers.chain(SNAPSHOT_POINTS).copied().collect()
}

/// What one life with a fault showed.
#[derive(Debug, Default)]
struct Outcome {
    /// The daemon died, or a call failed.
    happened: bool,
    /// The codes of the calls that failed.
    codes: Vec<Code>,
}

/// Runs a whole life in `dir` with a fault armed in the daemon's first life, and checks everything.
fn live(dir: &Path, fault: &str, environment: String) -> Outcome {
    let calm = Setup::alone(EROLITH, dir);
    let life = Life::new(&calm);
    let mut outcome = Outcome::default();
    let armed = Setup { environment: vec![environment], ..calm.clone() };
    let mut daemon = Daemon::start(armed).unwrap_or_else(|_| {
        outcome.happened = true;
        Daemon::start(calm.clone()).unwrap_or_else(|e| panic!("{fault}: {e}"))
    });
    let mut client = Client::connect(&calm.socket());
    for (name, step) in STEPS {
        let mut tries = 0;
        while let Err(status) = step(&life, &client) {
            tries += 1;
            assert!(tries < 3, "{fault}: {name}: {status}");
            outcome.happened = true;
            if fault.contains("kill") {
                assert!(daemon.died().unwrap_or_else(|e| panic!("{fault}: {name}: {status}: {e}")));
                daemon = Daemon::start(calm.clone()).unwrap_or_else(|e| panic!("{fault}: {e}"));
                client = Client::connect(&calm.socket());
            } else {
                outcome.codes.push(status.code());
            }
        }
    }
    // A fault that has not struck by now strikes no longer: what is there is checked by a daemon without one.
    drop(client);
    daemon.kill();
    let daemon = Daemon::start(calm.clone()).unwrap_or_else(|e| panic!("{fault}: {e}"));
    life.check(&Client::connect(&calm.socket()), &calm, fault);
    daemon.stop().unwrap_or_else(|e| panic!("{fault}: stop: {e}"));
    assert_eq!(calm.database_verdict(), "ok", "{fault}");
    outcome
}

/// Every point, at its first and second visit. Gives the points at which something happened.
fn break_everywhere(action: &str, codes: &[Code]) {
    let mut passed = BTreeSet::new();
    for point in points() {
        for visit in [1, 2] {
            let fault = format!("{point}={action}:{visit}");
            let dir = need!(disk());
            let outcome = live(dir.path(), &fault, format!("EROLITH_FAULTS={fault}"));
            for code in &outcome.codes {
                assert!(codes.contains(code), "{fault}: {code:?}");
            }
            if outcome.happened {
                passed.insert(point);
            }
        }
    }
    let all = points().len();
    assert!(passed.len() > all / 2, "only {passed:?} of {all} points");
}

#[test]
fn a_kill_at_any_step_loses_nothing_and_leaves_nothing() {
    isolated(|| break_everywhere("kill", &[]));
}

#[test]
fn no_space_at_any_step_loses_nothing_and_leaves_nothing() {
    isolated(|| break_everywhere("error(ENOSPC)", &[Code::ResourceExhausted]));
}

#[test]
fn an_io_error_at_any_step_loses_nothing_and_leaves_nothing() {
    isolated(|| break_everywhere("error(EIO)", &[Code::Internal, Code::DataLoss, Code::Unknown]));
}

/// Killed while it tidies up after having been killed.
#[test]
fn a_kill_during_recovery_changes_nothing() {
    isolated(|| {
        let first = [
            "create.after_directory",
            "create.after_rename",
            "commit.after_name",
            "remove.after_transaction",
        ];
        let second = SNAPSHOT_POINTS.iter();
        let second: Vec<_> = second
            .filter(|p| ["open.", "recover.", "cleanup."].iter().any(|s| p.starts_with(s)))
            .collect();
        let mut deaths = 0;
        for first in first {
            for second in &second {
                let dir = need!(disk());
                let calm = Setup::alone(EROLITH, dir.path());
                let life = Life::new(&calm);
                let armed = |point: &str| Setup {
                    environment: vec![format!("EROLITH_FAULTS={point}=kill")],
                    ..calm.clone()
                };
                let mut daemon = Daemon::start(armed(first)).unwrap();
                let client = Client::connect(&calm.socket());
                let died = STEPS.iter().position(|(_, step)| step(&life, &client).is_err());
                assert!(died.is_some() && daemon.died().unwrap(), "{first}");
                drop(daemon);
                match Daemon::start(armed(second)) {
                    Ok(daemon) => drop(daemon.kill()),
                    Err(_) => deaths += 1,
                }
                let context = format!("{first}, {second}");
                let daemon =
                    Daemon::start(calm.clone()).unwrap_or_else(|e| panic!("{context}: {e}"));
                let client = Client::connect(&calm.socket());
                for (name, step) in STEPS.iter().skip(died.unwrap()) {
                    step(&life, &client).unwrap_or_else(|s| panic!("{context}: {name}: {s}"));
                }
                life.check(&client, &calm, &context);
                daemon.stop().unwrap_or_else(|e| panic!("{context}: {e}"));
            }
        }
        assert!(deaths >= first.len() * 2, "only {deaths} deaths while starting");
    });
}

#[test]
fn a_root_has_one_daemon() {
    isolated(|| {
        let (dir, other) = (need!(disk()), need!(disk()));
        let setup = Setup::alone(EROLITH, dir.path());
        let first = Daemon::start(setup.clone()).unwrap();
        let second = Setup { root: setup.root.clone(), ..Setup::alone(EROLITH, other.path()) };
        let refused = Daemon::start(second.clone()).unwrap_err();
        let pid = first.pid().unwrap().to_string();
        assert!(refused.contains(&pid), "{refused} does not name {pid}");
        let client = Client::connect(&setup.socket());
        client.prepare("a", "").unwrap();
        first.kill();
        let second = Daemon::start(second).unwrap();
        let client = Client::connect(&second.setup.socket());
        assert_eq!(client.list(&[]).unwrap().len(), 1);
        second.stop().unwrap();
    });
}

/// The real thing: a small filesystem that fills up, wherever that happens to be.
#[test]
fn a_full_filesystem_refuses_clearly_and_goes_on_with_room() {
    isolated(|| {
        let mut failures = 0;
        for room in [0, 8, 40, 64, 100, 200, 320, 400, 640] {
            let dir = need!(disk());
            let small = dir.path().join("small");
            let calm = Setup { root: small.join("root"), ..Setup::alone(EROLITH, dir.path()) };
            mount_small(dir.path(), &small, 12 << 20);
            let life = Life::new(&calm);
            let daemon = Daemon::start(calm.clone()).unwrap();
            let client = Client::connect(&calm.socket());
            let ballast = fill(&small, room << 10);
            for (name, step) in STEPS {
                // What containers write is not ours: only calls may run out of room.
                if name == "run it" {
                    fs::remove_file(&ballast).ok();
                }
                let Err(status) = step(&life, &client) else { continue };
                let code = status.code();
                assert_eq!(code, Code::ResourceExhausted, "{room} KiB: {name}: {status}");
                failures += 1;
                fs::remove_file(&ballast).unwrap();
                step(&life, &client).unwrap_or_else(|s| panic!("{room} KiB: {name}: {s}"));
            }
            life.check(&client, &calm, &format!("{room} KiB"));
            daemon.stop().unwrap();
            assert_eq!(calm.database_verdict(), "ok", "{room} KiB");
            rpc::detach(&small);
        }
        assert!(failures >= 3, "only {failures} lives ran out of room");
    });
}

fn mount_small(dir: &Path, target: &Path, bytes: u64) {
    let image = dir.join("small.ext4");
    fs::File::create(&image).unwrap().set_len(bytes).unwrap();
    let mkfs =
        Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-N", "256"]).arg(&image).status();
    assert!(mkfs.unwrap().success());
    fs::create_dir(target).unwrap();
    let mount = Command::new("mount").args(["-o", "loop"]).args([&image, target]).status();
    assert!(mount.unwrap().success());
}

/// Fills a filesystem but for `room` bytes.
fn fill(dir: &Path, room: u64) -> std::path::PathBuf {
    let path = dir.join("ballast");
    let mut file = fs::File::create(&path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    file.sync_all().unwrap();
    let full = file.metadata().unwrap().len();
    file.set_len(full.saturating_sub(room)).unwrap();
    file.sync_all().unwrap();
    path
}

/// Killed at any moment while several callers are at work: what was answered is as it was answered.
#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_answered() {
    isolated(|| {
        let dir = need!(disk());
        let setup = Setup::alone(EROLITH, dir.path());
        let (mut there, mut calls) = (BTreeSet::new(), 0);
        for round in 0..15_u64 {
            let daemon = Daemon::start(setup.clone()).unwrap_or_else(|e| panic!("{round}: {e}"));
            let client = Client::connect(&setup.socket());
            let names = names(&client);
            let lost: Vec<_> = there.difference(&names).collect();
            assert!(lost.is_empty(), "round {round}: answered and lost: {lost:?}");
            let socket = setup.socket();
            let workers: Vec<_> = (0..4)
                .map(|i| {
                    let socket = socket.clone();
                    std::thread::spawn(move || {
                        work(&Client::connect(&socket), &format!("{round}-{i}"))
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(40 + round * 53 % 300));
            daemon.kill();
            for worker in workers {
                let answered = worker.join().unwrap();
                calls += answered.calls;
                there.extend(answered.there);
            }
        }
        assert!(calls > 100, "only {calls} calls were answered");
        let daemon = Daemon::start(setup.clone()).unwrap();
        let client = Client::connect(&setup.socket());
        let lost: Vec<_> = there.difference(&names(&client)).cloned().collect();
        assert!(lost.is_empty(), "answered and lost: {lost:?}");
        client.cleanup().unwrap();
        assert_eq!(life::left(&setup).layers.len(), names(&client).len());
        client.empty().unwrap();
        Leftovers::vanish(std::process::id(), &setup.root, &setup.state).unwrap();
        daemon.stop().unwrap();
        assert_eq!(setup.database_verdict(), "ok", "after many kills");
    });
}

fn names(client: &Client) -> BTreeSet<String> {
    client.list(&[]).unwrap().into_iter().map(|info| info.name).collect()
}

/// What a worker was answered.
#[derive(Debug, Default)]
struct Answered {
    calls: usize,
    there: BTreeSet<String>,
}

/// Makes chains and removes half of what it made, until the daemon is gone.
fn work(client: &Client, name: &str) -> Answered {
    let mut out = Answered::default();
    let mut parent = String::new();
    for i in 0.. {
        let (key, committed) = (format!("{name}-{i}-key"), format!("{name}-{i}"));
        if client.prepare(&key, &parent).is_err() {
            break;
        }
        if client.commit(&committed, &key).is_err() {
            break;
        }
        out.there.insert(committed.clone());
        out.calls += 2;
        if i % 3 == 2 {
            out.there.remove(&committed);
            if client.remove(&committed).is_err() || client.cleanup().is_err() {
                break;
            }
            out.calls += 2;
        } else {
            parent = if i % 3 == 0 { committed } else { String::new() };
        }
    }
    out
}
