//! `erolith convert`: a whole image, its layers turned into EROFS.

use std::collections::BTreeSet;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::ValueEnum;
use erolith_differ::apply::{Isolation, Output};
use erolith_differ::convert::{
    self, ImageReport, NonDistributable, Options, Progress, Report, Sign,
};
use erolith_differ::oci::{Destination, ImageSource, Location, Platform, Select};
use erolith_differ::sandbox::Worker;
use serde_json::json;

use super::image_options::ImageOptions;
use super::layer_limits::LayerLimits;
use super::sign::Signer;
use crate::containerd::version::RUNS_EROFS_NOTE;
use crate::exit::{self, Usage};
use crate::json;
use crate::progress::Bars;

/// Convert an OCI image, or all images of an index, so that its layers are EROFS images.
///
/// SRC is oci:DIR[:REF], oci-archive:FILE[:REF] or docker-archive:FILE[:REF]; FILE may be - for standard
/// input. DST is oci:DIR[:REF] or oci-archive:FILE[:REF]. The destination shows the new image when all of it
/// is there and durable, and what it showed before until then.
///
/// A platform takes what it can run, by containerd's order: arm/v7 also v6 and v5, amd64 no amd64/v3. What an index lists
/// besides images (attestations, signatures, artifacts) is about the original bytes: it is left out and named, and kept
/// with --all --keep-original.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to convert.
    source: Location,
    /// Where to write the converted image.
    destination: Location,
    /// Platform to take from an index, OS/ARCH[/VARIANT]; may be repeated [default: this machine's].
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all")]
    platform: Vec<Platform>,
    /// Take all platforms of an index.
    #[arg(long)]
    all: bool,
    /// How layers are stored: raw ones can be mounted in place.
    #[arg(long, value_name = "FORM", default_value = "raw")]
    layers: Form,
    /// zstd's level, 1 to 22.
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Keep the original image too: DST becomes an index of both.
    #[arg(long)]
    keep_original: bool,
    /// Convert layers that their owner does not allow to be distributed, when their bytes are there.
    #[arg(long)]
    convert_nondistributable: bool,
    /// Write the result in place of the source, where SRC and DST are the same.
    #[arg(long)]
    replace: bool,
    /// Layers to convert at the same time [default: the number of processors].
    #[arg(short, long, value_name = "NUMBER")]
    jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    limits: LayerLimits,
    /// Largest zstd window of a layer, as a power of two.
    #[arg(long, value_name = "BITS", default_value_t = 27, value_parser = clap::value_parser!(u32).range(10..=31))]
    zstd_window_max: u32,
    /// Have COMMAND sign the root hash of each layer's tree, for nodes that mount only what is signed. It reads 64 digits and
    /// writes a detached PKCS #7 signature in DER: openssl smime -sign -nocerts -noattr -binary -outform der ...
    #[arg(long, value_name = "COMMAND")]
    sign_root_hash: Option<String>,
    /// Say the fs-verity digest of each layer's image in an annotation. Every image is read once more.
    #[arg(long)]
    fs_verity: bool,
    /// Read each layer in a process of its own that can do nothing else.
    #[arg(long)]
    sandbox: bool,
    #[command(flatten)]
    build: ImageOptions,
    /// Print nothing but warnings.
    #[arg(long)]
    quiet: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// application/vnd.erofs.layer.v1
    Raw,
    /// application/vnd.erofs.layer.v1+zstd
    Zstd,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let options = options(args)?;
    let cancel = options.cancel.clone();
    ctrlc::set_handler(move || cancel.cancel()).context("handling signals")?;
    let select = match &args.platform[..] {
        _ if args.all => Select::All,
        [] => Select::default(),
        platforms => Select::Platforms(platforms.to_vec()),
    };
    // The source first: when there is none, nothing is made of the destination.
    let source = ImageSource::open(&args.source, &select, scratch(&args.destination))
        .with_context(|| format!("source {}", args.source))?;
    if !args.replace && Destination::replaces(&args.destination, &args.source, &source) {
        let text = format!(
            "{}: this would replace the source; give the result another name, or say --replace",
            args.destination
        );
        return Err(Usage(text).into());
    }
    let destination = Destination::open(&args.destination)
        .with_context(|| format!("destination {}", args.destination))?;
    let bars = Arc::new(Bars::new(args.quiet || args.json));
    let progress: Arc<dyn Progress> = bars.clone();
    let result = convert::convert(&source, destination, &options, &progress);
    bars.clear();
    let report = result?;
    warn(&report);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &as_json(&report))?;
        writeln!(out)?;
    } else if !args.quiet {
        print(&report, args, out)?;
    }
    // With the original beside it, older versions take that.
    if !args.quiet && !args.keep_original {
        exit::complain(RUNS_EROFS_NOTE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Where an archive from a pipe is kept while it is read: on the filesystem that must hold the result anyway.
fn scratch(destination: &Location) -> &Path {
    destination.path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."))
}

fn options(args: &Args) -> anyhow::Result<Options> {
    let mut options = Options {
        build: args.build.options()?,
        dm_verity: args.build.dm_verity,
        signer: args.sign_root_hash.clone().map(|line| Arc::new(Signer(line)) as Arc<dyn Sign>),
        fs_verity: args.fs_verity,
        keep_original: args.keep_original,
        ..Options::default()
    };
    options.jobs = args.jobs.unwrap_or(options.jobs);
    options.budget.zstd_window_log = args.zstd_window_max;
    args.limits.apply(&mut options.budget);
    if args.sandbox {
        options.room = Isolation::Worker(Arc::new(Worker::this_program()));
    }
    if args.convert_nondistributable {
        options.nondistributable = NonDistributable::Convert;
    }
    if args.layers == Form::Zstd {
        let threads = u32::try_from(options.jobs.get()).unwrap_or(1);
        options.output = Output::Zstd { level: args.level, threads };
    }
    Ok(options)
}

/// Names what was left out of layers, once for each: also with `--quiet`.
fn warn(report: &Report) {
    let mut seen = BTreeSet::new();
    for layer in report.images.iter().flat_map(|image| &image.layers) {
        let (layer, dropped) = (&layer.source_diff_id, &layer.dropped_xattrs);
        if dropped.count > 0 && seen.insert(layer) {
            exit::complain(format_args!("warning: layer {layer}: {dropped}"));
        }
    }
}

fn as_json(report: &Report) -> serde_json::Value {
    let layers = |image: &ImageReport| {
        let rows = image.layers.iter().map(|layer| {
            json!({
                "source_diff_id": layer.source_diff_id.to_string(),
                "source_size": layer.source_size,
                "digest": layer.digest.to_string(),
                "size": layer.size,
                "diff_id": layer.diff_id.to_string(),
                "dm_verity": layer.verity.as_ref().map(json::verity),
                "fs_verity": layer.fsverity.map(|digest| digest.to_string()),
                "reused": layer.reused,
                "dropped_xattrs": json::dropped_xattrs(&layer.dropped_xattrs),
            })
        });
        rows.collect::<Vec<_>>()
    };
    let images = report.images.iter().map(|image| {
        json!({
            "source": image.source.to_string(),
            "manifest": image.manifest.to_string(),
            "platform": image.platform,
            "layers": layers(image),
        })
    });
    json!({
        "digest": report.digest.to_string(),
        "media_type": report.media_type,
        "images": images.collect::<Vec<_>>(),
        "left_out": report.left_out.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn print(report: &Report, args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    for image in &report.images {
        writeln!(out, "{}  {}", image.platform, image.manifest)?;
        writeln!(out, "  {:>3}  {:>14}  {:>14}  LAYER", "#", "SOURCE BYTES", "EROFS BYTES")?;
        for (number, layer) in image.layers.iter().enumerate() {
            let reused = if layer.reused { "  (was there)" } else { "" };
            let (from, to, digest) = (layer.source_size, layer.size, &layer.digest);
            writeln!(out, "  {number:>3}  {from:>14}  {to:>14}  {digest}{reused}")?;
            if let Some(verity) = &layer.verity {
                writeln!(out, "       dm-verity root hash {}", verity.root)?;
            }
            if let Some(digest) = &layer.fsverity {
                writeln!(out, "       fs-verity digest {digest}")?;
            }
        }
    }
    if !report.left_out.is_empty() {
        writeln!(out, "left out of the index: {} entries (see --json)", report.left_out.len())?;
    }
    writeln!(out, "{}  {}", args.destination, report.digest)?;
    Ok(())
}
