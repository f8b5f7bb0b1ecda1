//! The change sets of containerd's fstest, made in overlays, written as layers by `erolith commit`, and checked against what
//! containerd unpacks and what the kernel mounts. `testdata/snapshotter-suite.sh` builds the suite.
#![allow(missing_docs, clippy::unwrap_used)]

use erolith_tests::node::isolated;
use erolith_tests::program::go_tests;
use erolith_tests::{need, tools};

/// What `fstest.FSSuite` runs.
const SUBTESTS: usize = 8;

fn suite(test: &str) {
    isolated(|| {
        let program = need!(tools::program("changes-suite"));
        let variables = [("EROLITH", env!("CARGO_BIN_EXE_erolith"))];
        let said = go_tests(&program, &format!("^{test}$"), &variables);
        let passed = said.matches(&format!("    --- PASS: {test}/")).count();
        assert_eq!(passed, SUBTESTS, "{test}: {said}");
    });
}

#[test]
fn archives_are_what_changed_to_containerd() {
    suite("TestTar");
}

#[test]
fn images_are_what_changed_to_the_kernel() {
    suite("TestErofs");
}
