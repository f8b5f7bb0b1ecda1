//! One life of the machine whose power is cut: checks what the last cut left, then works until the next one.
//!
//! Runs in a virtual machine that `tests/vm/power.sh` starts, which says by variables of the environment what is wanted:
//! POWER_BOOT, the number of this life; POWER_SEED; POWER_SERVER, what is tested; POWER_SYNC, false for a daemon that must lose
//! something; POWER_LAST, true for a life that ends after its check, with nothing left.
#![allow(missing_docs, clippy::unwrap_used)]

mod check;
mod console;
mod content;
mod model;
#[path = "../rpc/mod.rs"]
mod rpc;
mod server;
mod work;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use erolith_tests::node::Setup;

use crate::console::Console;
use crate::content::Random;
use crate::model::Model;
use crate::server::Server;
use crate::work::Worker;
use crate::world::World;

/// Where the disk is mounted.
const DISK: &str = "/disk";
/// Callers at the same time.
const CALLERS: usize = 3;
/// All snapshots go in one life of so many.
const EMPTY_EVERY: u64 = 12;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A daemon with everything durable on the disk, and the rest in memory.
fn setup() -> Setup {
    let mut setup = Setup::alone("/bin/erolith", Path::new("/run/p"));
    setup.root = Path::new(DISK).join("root");
    setup.containerd.1 = Path::new(DISK).join("containerd");
    setup.config = format!("[snapshotter]\nsync = {}\n", variable("POWER_SYNC"));
    setup
}

/// Whatever goes wrong is said on the console, with the end of the daemon's log.
fn report_failures(console: &Arc<Console>, setup: &Setup) {
    let (console, setup) = (Arc::clone(console), setup.clone());
    std::panic::set_hook(Box::new(move |panic| {
        let log = setup.log();
        let lines: Vec<_> = log.lines().rev().take(8).collect();
        for line in lines.iter().rev() {
            console.say(&format!("log {line}"));
        }
        console.say_now(&format!("FAIL {panic}"));
    }));
}

fn main() {
    let (console, setup) = (Arc::new(Console::open()), setup());
    report_failures(&console, &setup);
    let number =
        |name: &str| variable(name).parse::<u64>().unwrap_or_else(|e| panic!("{name}: {e}"));
    let (boot, last) = (number("POWER_BOOT"), variable("POWER_LAST") == "true");
    let server = Server::named(&variable("POWER_SERVER"));
    let mut random = Random(number("POWER_SEED") ^ boot.rotate_left(32));
    let mut model = Model::replay(&console::transcript()).unwrap_or_else(|why| panic!("{why}"));
    // Before it starts, for there may be old blobs in the way of new ones.
    let blobs = setup.containerd.1.join("io.containerd.content.v1.content/blobs/sha256");
    fs::remove_dir_all(&blobs).ok();
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&setup.dir).unwrap();
    // The power may have been cut while what was spoiled was removed.
    if !server.must_be_right() && model.is_empty() {
        server::wipe(&setup);
    }
    let mut running = server.start(&setup);
    let world = World::new(Arc::clone(&console), (server, &setup), boot, "check");
    check::check(&world, &mut model, &mut random, last || boot.is_multiple_of(EMPTY_EVERY));
    if last {
        running.stop();
        console.say_now("passed");
        return;
    }
    if world.is_spoiled() {
        drop(running);
        server::wipe(&setup);
        running = server.start(&setup);
    }
    console.say_now("ready");
    work(&console, (server, &setup), boot, &model, &mut random);
    drop(running);
}

/// Until the power is cut.
fn work(
    console: &Arc<Console>,
    server: (Server, &Setup),
    boot: u64,
    model: &Model,
    random: &mut Random,
) {
    let kept: BTreeMap<_, _> =
        model.snapshots.keys().map(|name| (name.clone(), model.depth(name))).collect();
    let callers: Vec<_> = (0..CALLERS)
        .map(|i| {
            let world = World::new(Arc::clone(console), server, boot, &format!("w{i}"));
            let random = Random(random.next());
            let (kept, own, left) = (kept.clone(), Vec::new(), BTreeSet::new());
            std::thread::spawn(move || Worker { world, random, kept, own, left }.run())
        })
        .collect();
    for caller in callers {
        // It has said what went wrong.
        drop(caller.join());
    }
}
