//! `erolith completions`: for a shell to load.

use std::io::Write;
use std::process::ExitCode;

use clap_complete::Shell;

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    // The generator panics when writing fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::definition(), "erolith", &mut script);
    out.write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
