//! Compiles the messages and services of `proto/`, without a `protoc` to install, and says which commit this is.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

const FILES: [&str; 11] = [
    "types.proto",
    "snapshots.proto",
    "diff.proto",
    "content.proto",
    "leases.proto",
    "introspection.proto",
    "containers.proto",
    "images.proto",
    "task.proto",
    "tasks.proto",
    "version.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    writeln!(io::stdout(), "cargo::rerun-if-changed=proto")?;
    version()?;
    let files = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        // What is read from and written to the content store is not copied once more.
        .bytes(".containerd.services.content.v1")
        .include_file("containerd.rs")
        .compile_fds(files)?;
    Ok(())
}

/// Sets `EROLITH_COMMIT` to the abbreviated digest and the day of the commit, empty where the source lies in no git
/// repository. Builds with debug assertions have none: each commit would link every test program anew.
fn version() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let top = release.then(|| git(&["rev-parse", "--show-toplevel"])).flatten();
    // A source that lies somewhere below another repository has not that repository's commit.
    let own = top.filter(|top| std::env::var("CARGO_MANIFEST_DIR").is_ok_and(|dir| dir == *top));
    let commit = own.and_then(|_| git(&["log", "-1", "--abbrev=12", "--format=%h %cs"]));
    // What changes with every commit, and with every change of branch.
    let log = commit.as_ref().and_then(|_| git(&["rev-parse", "--git-path", "logs/HEAD"]));
    if let Some(log) = log.filter(|log| Path::new(log).exists()) {
        writeln!(out, "cargo::rerun-if-changed={log}")?;
    }
    writeln!(out, "cargo::rustc-env=EROLITH_COMMIT={}", commit.unwrap_or_default())?;
    Ok(())
}

/// What git prints, if it succeeds.
fn git(words: &[&str]) -> Option<String> {
    let out = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
