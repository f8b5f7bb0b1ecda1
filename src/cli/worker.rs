//! `erolith worker`: started by other commands to read a layer, never by hand.

use std::process::ExitCode;

/// Read one layer for the process that started this.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Takes an order from standard input and answers it.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    erolith_differ::sandbox::run()?;
    Ok(ExitCode::SUCCESS)
}
