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
    let all = quoted(&format!("{said}{complained}"));
    assert!(out.status.success(), "{test}: {}\n{all}", out.status);
    assert!(said.contains("1 passed"), "{test} did not run inside:\n{all}");
    // What it skipped, and what it measured.
    for line in complained.lines() {
        if ["skipped: ", "measured: "].iter().any(|word| line.starts_with(word)) {
            tools::relay(line);
        }
    }
}

/// The output of another test program, which no line of counts as this program's: `tests/run.sh` counts results by the
/// lines that begin with "test result:".
fn quoted(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// A directory on disk for one test, with a short name: paths of layers and sockets are in it.
///
/// # Errors
/// Why there is none.
pub fn disk() -> Result<tempfile::TempDir, String> {
    let parent = Path::new("/var/tmp");
    tempfile::Builder::new().prefix("en").tempdir_in(parent).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn results_inside_are_not_counted_as_results() {
        let inside = "running 1 test\ntest result: FAILED. 0 passed; 1 failed\n";
        let shown = quoted(inside);
        assert!(shown.contains("test result: FAILED"), "{shown}");
        assert!(shown.lines().all(|line| line.starts_with("    ")), "{shown}");
    }
}
