//! Every system call of the daemon that changes something fails once, in every way it can: what it has answered stays, what
//! failed can be repeated, and nothing is left behind.
//!
//! `EROLITH_TESTS_EVERY_CALL=1` tries each call with each failure, which takes a quarter of an hour; otherwise each call
//! fails in one way, and all ways have their turn.
#![allow(missing_docs, clippy::unwrap_used)]

mod life;
mod rpc;

use std::collections::BTreeMap;
use std::path::Path;

use erolith_tests::injector::{Failure, Family, Fault, Seen};
use erolith_tests::need;
use erolith_tests::node::{Daemon, Setup, disk, isolated};
use tonic::Code;

use crate::life::{Life, STEPS};
use crate::rpc::Client;

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");

/// What a call may answer that had a failure on its way.
const CODES: [Code; 5] =
    [Code::Internal, Code::DataLoss, Code::Unknown, Code::ResourceExhausted, Code::Unavailable];

/// What one life showed.
#[derive(Debug)]
struct Outcome {
    seen: Seen,
    /// Steps that failed, or that the daemon did not start.
    complaints: Vec<String>,
}

/// Runs a whole life in `dir`, with one call of the daemon failing, and checks everything.
fn live(dir: &Path, fault: Option<Fault>) -> Outcome {
    let context = format!("{fault:?}");
    let setup = Setup::alone(EROLITH, dir);
    let life = Life::new(&setup);
    let mut complaints = Vec::new();
    let started = Daemon::start_failing(setup.clone(), fault);
    let (injector, started) = started.unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut injector = Some(injector);
    let mut seen = Seen::default();
    let daemon = started.unwrap_or_else(|why| {
        seen = injector.take().unwrap().finish().unwrap();
        assert!(seen.struck.is_some(), "{context}: {why}");
        complaints.push(why);
        Daemon::start(setup.clone()).unwrap_or_else(|e| panic!("{context}: {e}"))
    });
    let client = Client::connect(&setup.socket());
    for (name, step) in STEPS {
        // Once more after a failure: there is one.
        let Err(status) = step(&life, &client) else { continue };
        assert!(CODES.contains(&status.code()), "{context}: {name}: {status}");
        complaints.push(format!("{name}: {status}"));
        step(&life, &client).unwrap_or_else(|s| panic!("{context}: {name} again: {s}"));
    }
    drop(client);
    daemon.kill();
    if let Some(injector) = injector {
        seen = injector.finish().unwrap_or_else(|e| panic!("{context}: {e}"));
    }
    let context = format!("{context}, {seen:?}, {complaints:?}");
    let daemon = Daemon::start(setup.clone()).unwrap_or_else(|e| panic!("{context}: {e}"));
    life.check(&Client::connect(&setup.socket()), &setup, &context);
    daemon.stop().unwrap_or_else(|e| panic!("{context}: stop: {e}"));
    assert_eq!(setup.database_verdict(), "ok", "{context}");
    Outcome { seen, complaints }
}

/// What shall happen to the n-th call: one failure after the other, or that one whose turn it is. A call that cannot fail
/// in that way fails with EIO.
fn failures(nth: u64) -> Vec<Vec<Failure>> {
    if std::env::var_os("EROLITH_TESTS_EVERY_CALL").is_some() {
        return Failure::ALL.map(|failure| vec![failure]).to_vec();
    }
    let turn = usize::try_from(nth).unwrap() % Failure::ALL.len();
    vec![vec![Failure::ALL[turn], Failure::Io]]
}

/// Half of the calls, so that two processors have work.
fn break_calls(first: u64) {
    let dir = need!(disk());
    let calls = live(dir.path(), None).seen.calls;
    assert!(calls > 100, "only {calls} calls are seen");
    let mut struck: BTreeMap<(Family, Failure), u64> = BTreeMap::new();
    let mut silent = Vec::new();
    for nth in (first..=calls).step_by(2) {
        for failures in failures(nth) {
            let dir = need!(disk());
            let outcome = live(dir.path(), Some(Fault { nth, failures }));
            let Some((family, failure, what)) = outcome.seen.struck else { continue };
            *struck.entry((family, failure)).or_default() += 1;
            // Interrupted, it is done again. What the database learns of blobs, and can do without, is not reported. And
            // SQLite ignores the result of syncing the directory of its journal and of its log: we sync it once more.
            let by_sqlite = what.ends_with("/root, 1") || what.ends_with("/root, 2");
            let is_made_good = what.contains("/metadata.db-wal") || by_sqlite;
            let counts = failure != Failure::Interrupted && !is_made_good;
            if outcome.complaints.is_empty() && family == Family::Sync && counts {
                silent.push(format!("{nth} {failure:?}: {what}"));
            }
        }
    }
    erolith_tests::tools::relay(&format!("measured: {calls} calls, {struck:?}"));
    assert!(silent.is_empty(), "not synced, and nobody was told: {silent:?}");
    assert!(struck.values().sum::<u64>() > calls / 3, "{struck:?}");
}

#[test]
fn a_failure_of_any_odd_call_loses_nothing_and_leaves_nothing() {
    isolated(|| break_calls(1));
}

#[test]
fn a_failure_of_any_even_call_loses_nothing_and_leaves_nothing() {
    isolated(|| break_calls(2));
}
