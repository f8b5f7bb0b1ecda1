//! Decodes a layer blob and discards the result: how fast are decompression and hashing alone?
//!
//! ```text
//! cargo run --release -p erolith-differ --example decode -- layer.tar.gz
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::time::Instant;

use erolith_differ::decode::{LayerStream, Request};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args_os().skip(1) {
        let start = Instant::now();
        let decoded = LayerStream::open(File::open(&path)?, Request::default())?.finish()?;
        let seconds = start.elapsed().as_secs_f64();
        writeln!(
            io::stdout(),
            "{seconds:.3} s {} {}",
            decoded.size,
            decoded.diff_id.ok_or("no digest")?
        )?;
    }
    Ok(())
}
