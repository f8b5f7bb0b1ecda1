//! Tests that mount things run in namespaces of their own, which take mounts and processes with them however they end.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::tools;

/// Set in a test process that is inside.
const INSIDE: &str = "EROLITH_TESTS_INSIDE";

/// What process 1 inside does: `/run` is empty, so that state directories are short and vanish; and it reaps what the test
/// leaves behind.
const PREPARE: &str = r#"mount -t tmpfs tmpfs /run && { "$@" & wait $!; }"#;

/// Runs `body`, the body of the calling test, in a process with mount and process namespaces of its own.
///
/// The process is this program once more, running just that test.
///
/// # Panics
/// When the test fails there, with everything it said.
pub fn isolated(body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    if !rustix::process::geteuid().is_root() {
        return tools::skipped("mounting needs root");
    }
    let this = std::thread::current();
    let (program, test) = (std::env::current_exe(), this.name().unwrap_or_default());
    let program = program.unwrap_or_else(|e| panic!("the path of this test: {e}"));
    let mut child = Command::new("unshare");
    child
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["--propagation", "private", "bash", "-c", PREPARE, "bash"])
        .arg(&program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null());
    let out = child.output().unwrap_or_else(|e| panic!("unshare: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{test}: {}\n{said}{complained}", out.status);
    assert!(said.contains("1 passed"), "{test} did not run inside:\n{said}{complained}");
    // What it skipped, and what it measured.
    for line in complained.lines() {
        if ["skipped: ", "measured: "].iter().any(|word| line.starts_with(word)) {
            tools::relay(line);
        }
    }
}

/// A directory on disk for one test, with a short name: paths of layers and sockets are in it.
///
/// # Errors
/// Why there is none.
pub fn disk() -> Result<tempfile::TempDir, String> {
    let parent = Path::new("/var/tmp");
    tempfile::Builder::new().prefix("en").tempdir_in(parent).map_err(|e| e.to_string())
}
