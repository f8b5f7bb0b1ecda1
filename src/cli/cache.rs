//! `erolith cache`: directories of converted layers, which snapshotters take instead of unpacking.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use erolith_differ::apply::Isolation;
use erolith_differ::cache::{self, CacheOutcome, Filled, Options};
use erolith_differ::convert::Progress;
use erolith_differ::decode::{Budget, Cancel};
use erolith_differ::oci::{ImageSource, Location, Platform, Select};
use erolith_differ::sandbox::Worker;
use erolith_mkfs::build;
use erolith_snapshotter::layerdir::layer_path;
use serde_json::json;

use super::layer_limits::LayerLimits;
use crate::json;
use crate::progress::Bars;

/// Work on directories of converted layers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Fill(Fill),
}

/// Put the layers of images into a directory, as EROFS images by their diffIDs.
///
/// DIR is what `caches` in the section [snapshotter] of erolith's configuration and `layer_content_caches` of containerd's
/// EROFS snapshotter read: DIR/sha256/12/1234....erofs for each layer. REF is oci:DIR[:REF], oci-archive:FILE[:REF] or
/// docker-archive:FILE[:REF], several of them if wanted. Layers that are there and whole stay as they are; others appear
/// whole and durable, or not at all.
///
/// A layer that takes attributes of directories from the layers below is another image on every chain, so it is left out:
/// nodes unpack it as they do without a cache.
#[derive(Debug, clap::Args)]
struct Fill {
    /// Directory of the cache; it is made if it is not there.
    dir: PathBuf,
    /// Images whose layers go there.
    #[arg(required = true)]
    source: Vec<Location>,
    /// Platform to take from an index, OS/ARCH[/VARIANT]; may be repeated [default: this machine's].
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all")]
    platform: Vec<Platform>,
    /// Take all platforms of an index.
    #[arg(long)]
    all: bool,
    /// Give each image a dm-verity hash tree, and a sidecar that names it. An image that has none is made anew.
    #[arg(long)]
    dm_verity: bool,
    /// Layers to make at the same time [default: the number of processors].
    #[arg(short, long, value_name = "NUMBER")]
    jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    limits: LayerLimits,
    /// Read each layer in a process of its own that can do nothing else.
    #[arg(long)]
    sandbox: bool,
    /// Print nothing.
    #[arg(long)]
    quiet: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let Command::Fill(fill) = &args.command;
    fill.run(out)
}

impl Fill {
    fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let cancel = Cancel::default();
        let interrupted = cancel.clone();
        ctrlc::set_handler(move || interrupted.cancel()).context("handling signals")?;
        let select = match &self.platform[..] {
            _ if self.all => Select::All,
            [] => Select::default(),
            platforms => Select::Platforms(platforms.to_vec()),
        };
        let scratch = self.dir.ancestors().find(|path| path.is_dir());
        let scratch = scratch.unwrap_or(std::path::Path::new("."));
        let open = |location: &Location| {
            let opened = ImageSource::open(location, &select, scratch);
            opened.with_context(|| format!("source {location}"))
        };
        let sources = self.source.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
        let bars = Arc::new(Bars::new(self.quiet || self.json));
        let progress: Arc<dyn Progress> = bars.clone();
        let filled = cache::fill(&sources, &self.options(cancel), &progress);
        bars.clear();
        let filled = filled?;
        if self.json {
            let rows = filled.iter().map(as_json).collect::<Vec<_>>();
            serde_json::to_writer_pretty(&mut *out, &json!({ "layers": rows }))?;
            writeln!(out)?;
        } else if !self.quiet {
            print(&filled, out)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self, cancel: Cancel) -> Options {
        let mut budget = Budget::default();
        self.limits.apply(&mut budget);
        let here = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let room = match self.sandbox {
            true => Isolation::Worker(Arc::new(Worker::this_program())),
            false => Isolation::Here,
        };
        Options {
            dir: self.dir.clone(),
            place: layer_path,
            build: build::Options::default(),
            dm_verity: self.dm_verity,
            jobs: self.jobs.unwrap_or(here),
            room,
            budget,
            cancel,
        }
    }
}

fn word(outcome: CacheOutcome) -> &'static str {
    match outcome {
        CacheOutcome::Made => "made",
        CacheOutcome::Present => "present",
        CacheOutcome::LeftOut => "left_out",
    }
}

fn as_json(filled: &Filled) -> serde_json::Value {
    let Filled { diff_id, path, size, verity, outcome } = filled;
    json!({
        "diff_id": diff_id.to_string(),
        "path": (*outcome != CacheOutcome::LeftOut).then(|| path.to_string_lossy()),
        "size": size,
        "dm_verity": verity.as_ref().map(json::verity),
        "outcome": word(*outcome),
    })
}

fn print(filled: &[Filled], out: &mut dyn Write) -> anyhow::Result<()> {
    for Filled { diff_id, size, verity, outcome, .. } in filled {
        let what = match outcome {
            CacheOutcome::Made => "",
            CacheOutcome::Present => "  (was there)",
            CacheOutcome::LeftOut => "  (left out: it depends on the layers below)",
        };
        writeln!(out, "{diff_id}  {size:>14}{what}")?;
        if let Some(verity) = verity {
            writeln!(out, "    dm-verity root hash {}", verity.root)?;
        }
    }
    Ok(())
}
