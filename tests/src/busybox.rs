//! A small system that runs: one static program under many names.

use crate::tarball::{Header, Tarball};
use crate::tools::cache;

/// What containers of tests call.
const APPLETS: [&str; 18] = [
    "cat",
    "chmod",
    "chown",
    "dd",
    "df",
    "echo",
    "find",
    "id",
    "ln",
    "ls",
    "mkdir",
    "rm",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "touch",
];

/// A layer with a shell and what it calls.
///
/// # Panics
/// When `testdata/sid-root.sh` has not been run.
pub fn layer() -> Vec<u8> {
    system().end()
}

/// The same, not finished: more members can follow.
///
/// # Panics
/// When `testdata/sid-root.sh` has not been run.
pub fn system() -> Tarball {
    let path = cache().join("sid/usr/bin/busybox");
    let program = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut tar = Tarball::new();
    for dir in ["bin", "dev", "etc", "proc", "root", "run", "sys"] {
        tar = tar.dir(dir);
    }
    tar = tar.header(&Header::new(b'5', "tmp/").mode(0o1777));
    tar = tar.member(Header::new(b'0', "bin/busybox").mode(0o755), program);
    tar = tar.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    APPLETS.iter().fold(tar, |tar, applet| tar.symlink(format!("bin/{applet}"), "busybox"))
}
