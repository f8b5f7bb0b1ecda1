//! `erolith mkfs`: one EROFS image from a directory, a tar archive or another image. Options are named as in
//! mkfs.erofs where they mean the same.

mod watched;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use clap::ValueEnum;
use erolith_differ::apply::image_uuid;
use erolith_differ::content::Staging as _;
use erolith_differ::decode::{Cancel, Digests, LayerStream, OnBytes, Request};
use erolith_differ::publish::{Durability, OutputFile, READABLE};
use erolith_differ::{Algorithm, BlobKind, Compression, Digest, Hasher};
use erolith_mkfs::build::{Builder, Finish, Options, Summary};
use erolith_mkfs::image::Image;
use erolith_mkfs::io::{FileInput, FileSink, Sink as _};
use erolith_mkfs::protect::ProtectOptions;
use erolith_mkfs::tar::Limits;
use erolith_mkfs::tree::OverlayXattrs;
use erolith_overlay::fill_from_dir;
use erolith_verity::dmverity::DmVerityTree;
use serde_json::json;

use self::watched::Watched;
use super::image_options::ImageOptions;
use super::layer_limits::LayerLimits;
use crate::exit::{self, Usage};
use crate::json;
use crate::progress::{Count, Line};

/// Make an EROFS image from a directory, a tar archive or another image.
///
/// SOURCE is a directory, an EROFS image, or with --tar an archive; `-` is standard input. Archives may be
/// compressed with gzip or zstd. The same source and options give the same bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to write. It appears whole or not at all.
    output: PathBuf,
    /// What to make it from.
    source: PathBuf,
    /// SOURCE is a tar archive: `f` makes a full image, `i` an index of the archive.
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "f")]
    tar: Option<TarMode>,
    /// With --tar=i, append the archive to the index, so that one file can be mounted.
    #[arg(long, requires = "tar")]
    join: bool,
    /// UUID: one of your own, `clear` or `random`. By default it follows from the archive's digest, whose
    /// computing takes longer than the image where the processor has no SHA instructions.
    #[arg(short = 'U', long = "uuid", value_name = "UUID")]
    uuid: Option<String>,
    /// With --tar, turn AUFS whiteouts (.wh.*) into those of overlayfs, as in layers of images.
    #[arg(long)]
    aufs: bool,
    /// Leave whiteouts and opaque markers out: nothing lies below this image.
    #[arg(long, value_name = "0|1", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    ovlfs_strip: Option<u8>,
    /// What becomes of overlayfs' own xattrs in the source [default: escape for archives, keep otherwise].
    #[arg(long, value_name = "WHAT")]
    overlay_xattrs: Option<OverlayArg>,
    #[command(flatten)]
    limits: LayerLimits,
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
enum TarMode {
    /// Full image.
    F,
    /// Index.
    I,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OverlayArg {
    /// Rename to *.overlay.overlay.*.
    Escape,
    /// Leave out.
    Drop,
    /// Take as they are.
    Keep,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let options = options(args)?;
    let watch = Watch { cancel: Cancel::default(), line: Line::new(args.quiet || args.json) };
    let interrupted = watch.cancel.clone();
    ctrlc::set_handler(move || interrupted.cancel()).context("handling signals")?;
    let made = make(args, options, &watch).or_else(|error| {
        // A cancelled write is reported as cancelled, not with the error that it returned.
        watch.cancel.check()?;
        Err(error)
    });
    let Made { summary, uuid, verity } = made?;
    drop(watch);
    print(args, &summary, uuid, verity.as_ref(), out)?;
    Ok(ExitCode::SUCCESS)
}

/// What calls the work off, and where it is shown how far it is.
struct Watch {
    cancel: Cancel,
    line: Line,
}

/// An image that is there.
struct Made {
    summary: Summary,
    uuid: [u8; 16],
    verity: Option<DmVerityTree>,
}

fn make(args: &Args, options: Options, watch: &Watch) -> anyhow::Result<Made> {
    let pending = OutputFile::create(&args.output, READABLE)?;
    let wanted = ProtectOptions { fs_verity: false, dm_verity: args.build.dm_verity };
    let sink = FileSink::new(pending.file().try_clone()?, pending.scratch_dir()?);
    let sink = wanted.begin(sink, options.block_bits)?;
    let sink = Watched::new(sink, &watch.cancel, watch.line.on_bytes());
    let mut builder = Builder::new(sink, options)?;
    watch.line.step("writing the image", Count::Bytes);
    let source = fill(args, &mut builder, &watch.cancel)
        .with_context(|| format!("source {}", args.source.display()))?;
    let finish = Finish {
        uuid: uuid(args.uuid.as_deref(), source.diff_id.as_ref())?,
        device_bytes: source.bytes,
        device_tag: Vec::new(),
    };
    let (sink, mut summary) = builder.finish(&finish)?;
    if args.join {
        summary.image_bytes += join(&sink, &args.source, summary.image_bytes)?;
    }
    let sink = sink.inner;
    let verity = wanted.finish(&sink, &|| watch.cancel.check().is_err())?.verity;
    if verity.is_some() {
        summary.image_bytes = sink.file().metadata()?.len();
    }
    watch.cancel.check()?;
    watch.line.step("syncing the image", Count::Nothing);
    pending.publish(Durability::Synced)?;
    let dropped = &summary.dropped_xattrs;
    if dropped.count > 0 {
        exit::complain(format_args!("warning: {}: {dropped}", args.source.display()));
    }
    Ok(Made { summary, uuid: finish.uuid, verity })
}

fn options(args: &Args) -> anyhow::Result<Options> {
    let mut options = args.build.options()?;
    options.tar_index = args.tar == Some(TarMode::I);
    if options.tar_index && args.build.dm_verity && !args.join {
        let text = "--dm-verity with --tar=i needs --join: the archive would not be covered";
        return Err(Usage(text.into()).into());
    }
    let layer = &mut options.layer;
    layer.whiteouts = args.aufs;
    layer.base = args.ovlfs_strip.is_some_and(|strip| strip != 0);
    layer.xattrs.keep_trusted = args.tar.is_none();
    layer.xattrs.overlay = match args.overlay_xattrs {
        Some(OverlayArg::Drop) => OverlayXattrs::Drop,
        Some(OverlayArg::Keep) => OverlayXattrs::Keep,
        None if layer.base => OverlayXattrs::Drop,
        None if args.tar.is_none() => OverlayXattrs::Keep,
        Some(OverlayArg::Escape) | None => OverlayXattrs::Escape,
    };
    Ok(options)
}

/// What is known of a source once it has been read.
#[derive(Default)]
struct Known {
    /// Digest of the archive: its diffID if it is a layer.
    diff_id: Option<Digest>,
    /// Bytes of the archive.
    bytes: u64,
}

/// An image on its way to its file.
type Output = Builder<Watched<FileSink>>;

fn fill(args: &Args, builder: &mut Output, cancel: &Cancel) -> anyhow::Result<Known> {
    let is_stdin = args.source == Path::new("-");
    if args.tar.is_some() && is_stdin {
        return fill_from_stream(args, builder, io::stdin(), cancel);
    }
    if is_stdin {
        return Err(Usage("standard input is an archive: add --tar".into()).into());
    }
    let file = File::open(&args.source)?;
    if args.tar.is_some() {
        return fill_from_archive(args, builder, file, cancel);
    }
    if file.metadata()?.is_dir() {
        fill_from_dir(builder, file.as_fd(), || cancel.check())?;
    } else {
        let image = Image::open(file, Vec::new())
            .context("neither a directory nor an image; an archive needs --tar")?;
        builder.fill_from_image(&image, || cancel.check())?;
    }
    Ok(Known::default())
}

fn fill_from_archive(
    args: &Args,
    builder: &mut Output,
    file: File,
    cancel: &Cancel,
) -> anyhow::Result<Known> {
    if !file.metadata()?.is_file() || BlobKind::read(&file)?.is_compressed() {
        return fill_from_stream(args, builder, file, cancel);
    }
    let bytes = file.metadata()?.len();
    let hashed = file.try_clone()?;
    let wants_digest = args.uuid.is_none();
    // The digest costs as much as the copy, so it has a processor of its own.
    let diff_id = thread::scope(|scope| {
        let hasher = wants_digest.then(|| scope.spawn(|| digest_of(&hashed, cancel)));
        let input = Watched::new(FileInput::new(file)?, cancel, OnBytes::default());
        builder.fill_from_tar(input, Limits::default())?;
        let digest = hasher.map(|h| h.join().map_err(|_| io::Error::other("hashing panicked")));
        anyhow::Ok(digest.transpose()?.transpose()?)
    })?;
    Ok(Known { diff_id, bytes })
}

fn digest_of(file: &File, cancel: &Cancel) -> io::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        cancel.check().map_err(io::Error::other)?;
        match file.read_at(&mut buf, at)? {
            0 => return Ok(hasher.finish()),
            n => {
                hasher.update(buf.get(..n).unwrap_or_default());
                at += n as u64;
            }
        }
    }
}

fn fill_from_stream(
    args: &Args,
    builder: &mut Output,
    source: impl io::Read + Send + 'static,
    cancel: &Cancel,
) -> anyhow::Result<Known> {
    let digests = if args.uuid.is_some() { Digests::Expected } else { Digests::DiffId };
    let mut request = Request { digests, cancel: cancel.clone(), ..Request::default() };
    args.limits.apply(&mut request.budget);
    let mut stream = LayerStream::open(source, request)?;
    if args.tar == Some(TarMode::I) && (stream.compression() != Compression::None || args.join) {
        let text = "--tar=i describes a plain archive where it lies: give an uncompressed file";
        return Err(Usage(text.into()).into());
    }
    if let Err(error) = builder.fill_from_tar(&mut stream, Limits::default()) {
        return Err(stream.explain(error.into()).into());
    }
    let decoded = stream.finish()?;
    Ok(Known { diff_id: decoded.diff_id, bytes: decoded.size })
}

/// The UUID asked for, else that of the layer with this diffID. A directory has no digest: its image has
/// the nil UUID.
fn uuid(asked: Option<&str>, diff_id: Option<&Digest>) -> anyhow::Result<[u8; 16]> {
    Ok(match asked {
        Some("clear") => [0; 16],
        Some("random") => uuid::Uuid::new_v4().into_bytes(),
        Some(text) => {
            uuid::Uuid::parse_str(text).map_err(|e| Usage(format!("-U {text}: {e}")))?.into_bytes()
        }
        None => diff_id.map(image_uuid).unwrap_or_default(),
    })
}

/// Appends the archive to its index. Returns its bytes, padded to blocks.
fn join(sink: &Watched<FileSink>, source: &Path, at: u64) -> anyhow::Result<u64> {
    let file = File::open(source)?;
    let bytes = file.metadata()?.len();
    sink.copy_from(file.as_fd(), 0, at, bytes)?;
    let padded = bytes.next_multiple_of(512);
    sink.set_len(at + padded)?;
    Ok(padded)
}

fn print(
    args: &Args,
    summary: &Summary,
    uuid: [u8; 16],
    verity: Option<&DmVerityTree>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let uuid = uuid::Uuid::from_bytes(uuid);
    let notes = summary.notes.iter().map(|(note, count)| (note.code(), *count));
    if args.json {
        let value = json!({
            "image": args.output.to_string_lossy(),
            "uuid": uuid.to_string(),
            "bytes": summary.image_bytes,
            "metadata_bytes": summary.metadata_bytes,
            "inline_bytes": summary.inline_bytes,
            "inodes": summary.inodes,
            "feature_incompat": summary.feature_incompat,
            "notes": notes.collect::<std::collections::BTreeMap<_, _>>(),
            "dropped_xattrs": json::dropped_xattrs(&summary.dropped_xattrs),
            "dm_verity": verity.map(json::verity),
        });
        serde_json::to_writer_pretty(&mut *out, &value)?;
        writeln!(out)?;
    } else if !args.quiet {
        writeln!(
            out,
            "{}: {} inodes, {} bytes, {} of them metadata, uuid {uuid}",
            args.output.display(),
            summary.inodes,
            summary.image_bytes,
            summary.metadata_bytes,
        )?;
        if let Some(DmVerityTree { root, hash_offset, .. }) = verity {
            writeln!(out, "  dm-verity: root hash {root}, tree at byte {hash_offset}")?;
        }
        for (note, count) in notes {
            writeln!(out, "  note: {note} x {count}")?;
        }
    }
    Ok(())
}
