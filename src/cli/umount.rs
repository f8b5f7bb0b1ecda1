//! `erolith umount`: undo a mount, with everything below it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use erolith_snapshotter::mounts::{UmountOptions, umount};
use serde_json::json;

/// Unmount what `erolith mount` mounted, with its layers and loop devices.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where it is mounted.
    dir: PathBuf,
    /// Also unmount what erolith did not mount.
    #[arg(long, short)]
    force: bool,
    /// Detach now, free when nothing uses it any more.
    #[arg(long, short)]
    lazy: bool,
    /// Print what was unmounted as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let options = UmountOptions { force: args.force, lazy: args.lazy };
    let entry = umount(&args.dir, options)?;
    if args.json {
        let value = json!({
            "mount_point": entry.mount_point.to_string_lossy(),
            "type": entry.fs_type,
            "source": entry.source.to_string_lossy(),
        });
        writeln!(out, "{value}")?;
    }
    Ok(ExitCode::SUCCESS)
}
