//! `erolith snapshots`: look at the snapshots of a running daemon, as containerd sees them.

pub(super) mod client;
mod show;
mod tree;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use self::client::Client;
use crate::serve::config::Config;

/// Show the snapshots of a running daemon.
///
/// Keys are those of the daemon: `<namespace>/<number>/<key>` when containerd made them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Socket of the daemon.
    #[arg(long, value_name = "SOCKET", global = true)]
    address: Option<PathBuf>,
    /// One JSON object a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: SnapshotsCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotsCommand {
    /// List them, one a line.
    Ls {
        /// Only those that one of these matches, for example `kind==active` or `labels.name==value`.
        filter: Vec<String>,
    },
    /// Show snapshots below their parents.
    Tree,
    /// Everything about some of them: labels, times, size, what to mount.
    Inspect {
        /// Which ones.
        #[arg(required = true)]
        key: Vec<String>,
    },
    /// What they take on disk, each without its parents.
    Usage {
        /// Which ones; all when none is named.
        key: Vec<String>,
    },
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(args.address.as_ref().unwrap_or(&Config::default().address))?;
    match &args.what {
        SnapshotsCommand::Ls { filter } => show::list(&client.list(filter)?, args.json, out)?,
        SnapshotsCommand::Tree => tree::write(&client.list(&[])?, args.json, out)?,
        SnapshotsCommand::Inspect { key } => {
            for key in key {
                show::details(&client.details(key)?, args.json, out)?;
            }
        }
        SnapshotsCommand::Usage { key } => {
            let keys = if key.is_empty() {
                client.list(&[])?.into_iter().map(|info| info.name).collect()
            } else {
                key.clone()
            };
            let usage = |key: String| client.usage(&key).map(|usage| (key, usage));
            show::usage(
                &keys.into_iter().map(usage).collect::<anyhow::Result<Vec<_>>>()?,
                args.json,
                out,
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
