//! `erolith diff`: what one tree has that another has not.

mod show;
mod side;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_differ::decode::Cancel;
use erolith_differ::oci::Platform;
use erolith_overlay::{Change, ChangeKind, DiffOptions, changes};

use crate::cli::layers::Opener;
use crate::exit::NO;
use crate::progress::{Count, Line};
use crate::source::{Named, named};

/// Show what changed between two images, layers or directories, or in a snapshot.
///
/// OLD and NEW are oci:DIR[:REF], oci-archive:FILE[:REF] or docker-archive:FILE[:REF] for a whole image, with #N or #DIGEST
/// behind it for one layer, #0 the lowest; or a path: an EROFS image, a layer as a tar archive (compressed or not), or a
/// directory. Layers that both images have are not read.
///
/// Each line says A for what was added, C for what changed and in what, D for what is gone, with the sizes of files, and the
/// path.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What there was.
    #[arg(required_unless_present = "snapshot", value_parser = named())]
    old: Option<Named>,
    /// What there is.
    #[arg(required_unless_present = "snapshot", value_parser = named())]
    new: Option<Named>,
    /// What an active snapshot of a running daemon has that its parents have not; KEY as in `erolith snapshots ls`.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["old", "new"])]
    snapshot: Option<String>,
    /// Socket of the daemon.
    #[arg(long, value_name = "SOCKET", requires = "snapshot")]
    address: Option<PathBuf>,
    /// Platform to take from an index, OS/ARCH[/VARIANT] [default: this machine's].
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Leave out what changed in nothing but its modification time.
    #[arg(long)]
    ignore_times: bool,
    /// Numbers and bytes for each directory below the root.
    #[arg(long)]
    stat: bool,
    /// One JSON object a line; with --stat one object.
    #[arg(long)]
    json: bool,
    /// End with status 1 if there are differences.
    #[arg(long)]
    exit_code: bool,
    /// Where layers that are archives become images for the comparison.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    scratch: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let cancel = Cancel::default();
    let stop = cancel.clone();
    ctrlc::set_handler(move || stop.cancel()).context("handling signals")?;
    let mut list = compare(args, &cancel)?;
    list.retain(|change| is_shown(change, args.ignore_times));
    match (args.stat, args.json) {
        (true, json) => show::totals(&list, json, out)?,
        (false, true) => show::objects(&list, out)?,
        (false, false) => show::lines(&list, out)?,
    }
    let differs = args.exit_code && !list.is_empty();
    Ok(if differs { ExitCode::from(NO) } else { ExitCode::SUCCESS })
}

/// What one side has that the other has not.
fn compare(args: &Args, cancel: &Cancel) -> anyhow::Result<Vec<Change>> {
    let line = Line::new(args.json);
    let platform = args.platform.as_ref();
    let mut opener = Opener::new(&args.scratch, cancel, &line);
    let mut open = |side: &Named| side::open(side, &mut opener, platform, &args.scratch);
    let (old, new) = match (&args.old, &args.new, &args.snapshot) {
        (Some(old), Some(new), _) => (open(old)?, open(new)?),
        (_, _, key) => {
            side::of_snapshot(key.as_deref().unwrap_or_default(), args.address.as_deref())?
        }
    };
    line.step("comparing", Count::Names);
    let how = DiffOptions { thorough: true, ..DiffOptions::default() };
    let list = changes::<erolith_differ::Error>(&old, &new, &how, || {
        line.advance(1);
        cancel.check()
    })?;
    Ok(list)
}

fn is_shown(change: &Change, ignore_times: bool) -> bool {
    match change.what {
        ChangeKind::Kept => false,
        ChangeKind::Added | ChangeKind::Removed => true,
        ChangeKind::Modified(mut found) => {
            found.time &= !ignore_times;
            found != Default::default() || change.hides
        }
    }
}
