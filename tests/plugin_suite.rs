//! containerd's own SnapshotterSuite over the daemon's socket, each subtest with a daemon of its own.
//!
//! `testdata/snapshotter-suite.sh` builds the suite. Beside what it asks, removing all snapshots and Cleanup must leave no
//! directory and no mount after each subtest.
#![allow(missing_docs, clippy::unwrap_used)]

use erolith_tests::node::isolated;
use erolith_tests::program::go_tests;
use erolith_tests::{need, tools};

/// What starts a daemon; see `tests/snapshotter-suite/suite/suite_test.go` for the variables.
const SERVER: &str = r#"
    cat >"$ROOT/../erolith.toml" <<TOML
root = "$ROOT"
state = "$STATE"
address = "$SOCKET"
[containerd]
address = "/nowhere"
root = ""
[snapshotter]
profile = "$PROFILE"
default_size = "$SIZE"
limit_by = "image"
TOML
    exec "$EROLITH" serve --config "$ROOT/../erolith.toml"
"#;

/// Runs one subtest, with this limit of writable layers.
fn suite(profile: &str, size: &str, subtest: &str) {
    isolated(|| {
        let program = need!(tools::program("snapshotter-suite"));
        let variables = [
            ("SUITE_SERVER", SERVER),
            ("SUITE_STRICT", "1"),
            ("EROLITH", env!("CARGO_BIN_EXE_erolith")),
            ("PROFILE", profile),
            ("SIZE", size),
        ];
        let said = go_tests(&program, &format!("^TestSnapshotter$/^{subtest}$"), &variables);
        let passed = said.contains(&format!("--- PASS: TestSnapshotter/{subtest} "));
        assert!(passed, "{profile} {size}, {subtest}: {said}");
    });
}

/// The subtests by the names that the suite gives them, misprints and all, once for each mount profile without
/// and with a limit, that of containerd's own test of this kind (`TestErofsWithQuota`).
macro_rules! subtests {
    ($($test:ident = $name:literal,)*) => {
        mod plain {
            $(#[test] fn $test() { super::suite("plain", "", $name); })*
        }
        mod managed {
            $(#[test] fn $test() { super::suite("managed", "", $name); })*
        }
        mod sized {
            $(#[test] fn $test() { super::suite("plain", "16MiB", $name); })*
        }
        mod managed_sized {
            $(#[test] fn $test() { super::suite("managed", "16MiB", $name); })*
        }
        /// Every subtest that there is.
        const KNOWN: &[&str] = &[$($name),*];
    };
}

subtests! {
    basic = "Basic",
    stat_active = "StatActive",
    stat_committed = "StatComitted",
    transitivity = "TransitivityTest",
    prepare_view_failing = "PreareViewFailingtest",
    update = "Update",
    remove = "Remove",
    walk = "Walk",
    layer_file_update = "LayerFileupdate",
    remove_directory_in_lower_layer = "RemoveDirectoryInLowerLayer",
    chown = "Chown",
    directory_permission_on_commit = "DirectoryPermissionOnCommit",
    remove_intermediate_snapshot = "RemoveIntermediateSnapshot",
    deleted_files_in_child_snapshot = "DeletedFilesInChildSnapshot",
    move_file_from_lower_layer = "MoveFileFromLowerLayer",
    view_readonly = "ViewReadonly",
    stat_in_walk = "StatInWalk",
    close_twice = "CloseTwice",
    root_permission = "RootPermission",
    rename = "Rename",
    layers_mount_128 = "128LayersMount",
}

/// The suite's source, from which it was built.
const SOURCE: &str = "sid/usr/share/gocode/src/github.com/containerd/containerd/v2/core/snapshots/testsuite/testsuite.go";

#[test]
fn no_subtest_is_left_out() {
    let text = std::fs::read_to_string(tools::cache().join(SOURCE));
    let text = need!(text.map_err(|e| format!("{SOURCE}: {e}: run testdata/sid-root.sh")));
    let runs = text.lines().filter_map(|line| line.trim().strip_prefix("t.Run(\""));
    let names: Vec<_> = runs.filter_map(|rest| rest.split_once("\", makeTest")).collect();
    assert_eq!(names.iter().map(|(name, _)| *name).collect::<Vec<_>>(), KNOWN);
    assert_eq!(KNOWN.len(), 21);
}
