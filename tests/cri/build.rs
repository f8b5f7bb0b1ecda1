//! Compiles `cri.proto`, without a `protoc` to install.

use std::error::Error;
use std::io::{self, Write};

fn main() -> Result<(), Box<dyn Error>> {
    writeln!(io::stdout(), "cargo::rerun-if-changed=cri")?;
    let files = protox::compile(["cri.proto"], ["cri"])?;
    tonic_prost_build::configure().btree_map(".").build_server(false).compile_fds(files)?;
    Ok(())
}
