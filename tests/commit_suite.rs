//! The change sets of containerd's fstest, made in overlays, written as layers by `erolith commit`, and judged by what
//! containerd unpacks and what the kernel mounts. `testdata/snapshotter-suite.sh` builds the suite.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;

use erolith_tests::node::isolated;
use erolith_tests::{need, tools};

/// What `fstest.FSSuite` runs.
const SUBTESTS: usize = 8;

fn suite(test: &str) {
    isolated(|| {
        let program = need!(tools::judge("changes-suite"));
        let out = Command::new(program)
            .args(["-test.v", "-test.run", &format!("^{test}$")])
            .env("EROLITH", env!("CARGO_BIN_EXE_erolith"))
            .env("TMPDIR", "/var/tmp")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&out.stderr).into_owned();
        let passed = text.matches(&format!("    --- PASS: {test}/")).count();
        assert!(out.status.success() && passed == SUBTESTS, "{test}: {text}{complaint}");
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
