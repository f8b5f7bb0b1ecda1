//! Compiles the messages and services of `proto/`, without a `protoc` to install.

use std::error::Error;
use std::io::{self, Write};

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
    let files = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        // What is read from and written to the content store is not copied once more.
        .bytes(".containerd.services.content.v1")
        .include_file("containerd.rs")
        .compile_fds(files)?;
    Ok(())
}
