//! The subcommands, one file each.

mod cache;
mod cat;
mod commit;
mod completions;
mod convert;
mod diff;
mod doctor;
mod examples;
mod export;
mod extract;
mod fsck;
mod image_options;
mod inspect;
mod layer_limits;
pub(crate) mod layers;
mod ls;
mod man;
mod mkfs;
mod mount;
mod reference;
mod repair;
mod root;
mod scrub;
mod serve;
mod sign;
mod snapshots;
mod stat;
mod umount;
mod version;
mod worker;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// The exit codes of all commands; `crate::exit` chooses them.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 negative answer, 2 wrong usage, 3 bad input, \
                          4 kernel or environment, 5 input/output, 130 interrupted";

/// Convert OCI container images to EROFS, make, read, check and mount EROFS images, and run containerd's
/// containers from them.
#[derive(Debug, Parser)]
#[command(name = "erolith", version, long_version = version::long(), propagate_version = true)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Cache(cache::Args),
    Cat(cat::Args),
    Commit(commit::Args),
    Completions(completions::Args),
    Convert(convert::Args),
    Diff(diff::Args),
    Doctor(doctor::Args),
    Export(export::Args),
    Extract(extract::Args),
    Fsck(fsck::Args),
    Inspect(inspect::Args),
    Ls(ls::Args),
    Man(man::Args),
    Mkfs(mkfs::Args),
    Mount(mount::Args),
    #[command(hide = true)]
    Reference(reference::Args),
    Repair(repair::Args),
    Scrub(scrub::Args),
    Serve(serve::Args),
    Snapshots(snapshots::Args),
    Stat(stat::Args),
    Umount(umount::Args),
    #[command(hide = true)]
    Worker(worker::Args),
}

impl Cli {
    /// The definitions of all commands, with their examples.
    fn definition() -> clap::Command {
        examples::add_to(Self::command())
    }

    /// The command line of this process. Wrong usage and `--help` end the process.
    pub(crate) fn of_process() -> Self {
        let mut definition = Self::definition();
        let matches = definition.get_matches_mut();
        Self::from_arg_matches(&matches)
            .unwrap_or_else(|error| error.format(&mut definition).exit())
    }

    /// Runs the command. What it prints goes to `out`.
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        match &self.command {
            Command::Cache(args) => cache::run(args, out),
            Command::Cat(args) => cat::run(args, out),
            Command::Commit(args) => commit::run(args, out),
            Command::Completions(args) => completions::run(args, out),
            Command::Convert(args) => convert::run(args, out),
            Command::Diff(args) => diff::run(args, out),
            Command::Doctor(args) => doctor::run(args, out),
            Command::Export(args) => export::run(args, out),
            Command::Extract(args) => extract::run(args, out),
            Command::Fsck(args) => fsck::run(args, out),
            Command::Inspect(args) => inspect::run(args, out),
            Command::Ls(args) => ls::run(args, out),
            Command::Man(args) => man::run(args, out),
            Command::Mkfs(args) => mkfs::run(args, out),
            Command::Mount(args) => mount::run(args, out),
            Command::Reference(args) => reference::run(args, out),
            Command::Repair(args) => repair::run(args, out),
            Command::Scrub(args) => scrub::run(args, out),
            Command::Serve(args) => serve::run(args, out),
            Command::Snapshots(args) => snapshots::run(args, out),
            Command::Stat(args) => stat::run(args, out),
            Command::Umount(args) => umount::run(args, out),
            Command::Worker(worker::Args {}) => worker::run(),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definitions_of_all_commands_are_sound() {
        super::Cli::definition().debug_assert();
    }
}
