//! `erolith man`: the manual pages, made from the same definitions as the parser.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;

/// Write the manual pages, one for each subcommand, into a directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for the pages; it must be there.
    dir: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args, _: &mut dyn Write) -> anyhow::Result<ExitCode> {
    clap_mangen::generate_to(super::Cli::command(), &args.dir)
        .with_context(|| format!("writing manual pages to {}", args.dir.display()))?;
    Ok(ExitCode::SUCCESS)
}
