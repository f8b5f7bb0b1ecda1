//! The `erolith` command: argument parsing, wiring and output. No format, mount or store logic.

mod causes;
mod cli;
mod containerd;
mod exit;
mod json;
mod progress;
mod proto;
mod ranges;
mod serve;
mod source;
mod sys;
mod term;
mod xattr_text;

use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    sys::memory::give_back();
    let cli = cli::Cli::of_process();
    // Unlocked, so that a progress bar can be drawn at the same time; buffered, so that a listing is not a write a line.
    let mut out = io::BufWriter::new(io::stdout());
    let result = cli.run(&mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    result.unwrap_or_else(|error| exit::report(&error))
}
