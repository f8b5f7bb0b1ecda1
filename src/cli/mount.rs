//! `erolith mount`: an image as a read-only tree.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use erolith_differ::oci::{Image, Layer as BlobLayer, Location, Platform, Select, Source};
use erolith_differ::{Compression, LayerType};
use erolith_mkfs::check::{self, Limits};
use erolith_mkfs::io::ReadAt;
use erolith_snapshotter::mounts::{
    Backing, Layer, MountOptions, Mounted, OverlayRoute, Request, mount,
};
use serde_json::{Value, json};

use crate::exit::{BadInput, Usage};

/// Mount an EROFS image, or all layers of one in an OCI layout, read-only.
///
/// Images are mounted where they are, straight from their files where the kernel can, else through read-only loop
/// devices that free themselves. They are checked first. `erolith umount` leaves nothing behind.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An image file, or oci:DIR[:REF] for an image whose layers are raw EROFS.
    source: PathBuf,
    /// An existing directory.
    dir: PathBuf,
    /// Use loop devices, also where the kernel could do without.
    #[arg(long = "loop", conflicts_with = "file_backed")]
    use_loop: bool,
    /// Use no loop devices, even if the mount fails then.
    #[arg(long)]
    file_backed: bool,
    /// An extra device of the image, in the order of its device table (repeatable).
    #[arg(long = "device", value_name = "FILE")]
    devices: Vec<PathBuf>,
    /// Mount options as in mount(8): nodev, nosuid, noexec, noatime, noacl, ...
    #[arg(short = 'o', value_name = "OPTS", default_value = "ro")]
    options: String,
    /// Do not check the structure of the image: for images you made yourself.
    #[arg(long)]
    no_check: bool,
    /// Print what was mounted as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command. When it fails, nothing is mounted.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let options = MountOptions::parse(&args.options)?;
    let layers = match args.source.to_str().filter(|source| source.starts_with("oci:")) {
        Some(location) => open_layout(location, &args.devices)?,
        None => vec![open_image(&args.source, &args.devices)?],
    };
    let backing = match (args.use_loop, args.file_backed) {
        (true, _) => Backing::Loop,
        (_, true) => Backing::File,
        _ => Backing::Auto,
    };
    let request = Request { layers, target: args.dir.clone(), backing, options, route: None };
    let mounted = if args.no_check { mount(request, &|_| Ok(())) } else { mount(request, &sound) }?;
    if args.json {
        writeln!(out, "{}", as_json(&mounted, &args.dir))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The layers of an image in an OCI layout, lowest first, for this machine.
fn open_layout(location: &str, devices: &[PathBuf]) -> anyhow::Result<Vec<Layer>> {
    if !devices.is_empty() {
        return Err(Usage("--device belongs to an image file, not to a layout".into()).into());
    }
    let location: Location = location.parse()?;
    // Only archives need room for a copy.
    let source = Source::open(&location, &Select::All, Path::new("."))
        .with_context(|| format!("source {location}"))?;
    // An index may hold the original beside the EROFS image; the latter is what can be mounted.
    let host = Platform::host();
    let here = source.images.iter().filter(|image| image.config.platform.answers(&host));
    let is_native = |image: &&Image| image.layers.iter().all(|l| is_erofs(l.layer_type));
    let image = here.clone().find(is_native).or_else(|| here.clone().next());
    let image = image.with_context(|| BadInput(format!("{location} has no image for {host}")))?;
    let layers = image.layers.iter().map(|layer| open_blob(&source, layer, &location));
    layers.collect()
}

fn is_erofs(layer_type: LayerType) -> bool {
    matches!(layer_type, LayerType::Erofs { .. })
}

/// A raw EROFS layer where it lies in the layout.
fn open_blob(source: &Source, layer: &BlobLayer, location: &Location) -> anyhow::Result<Layer> {
    let advice = match layer.layer_type {
        LayerType::Erofs { compression: Compression::None } => {
            let blob = source.blob(layer)?;
            let (file, _) = blob.file();
            let name = layer.diff_id.to_string();
            return Ok(Layer { name, image: file.try_clone()?, devices: Vec::new() });
        }
        LayerType::Erofs { .. } => "is compressed; convert it with --layers raw",
        LayerType::Tar { .. } => "is a tar archive; convert the image first",
    };
    let text = format!(
        "layer {} of {location} {advice}: erolith convert {location} oci:NEW",
        layer.diff_id
    );
    Err(BadInput(text).into())
}

/// An image file and the files of its extra devices.
fn open_image(image: &Path, devices: &[PathBuf]) -> anyhow::Result<Layer> {
    let devices = devices.iter().map(|device| open(device)).collect::<Result<_, _>>()?;
    Ok(Layer { name: image.display().to_string(), image: open(image)?, devices })
}

fn open(path: &Path) -> anyhow::Result<File> {
    // A FIFO must not block.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(nonblock).open(path);
    file.with_context(|| format!("opening {}", path.display()))
}

/// The structural check, on the very descriptors that are mounted then.
fn sound(layer: &Layer) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let devices: Vec<_> = layer.devices.iter().map(|device| device as &dyn ReadAt).collect();
    let report = check::check(&layer.image, &devices, &Limits::default())?;
    let mut errors = report.errors();
    let Some(first) = errors.next() else { return Ok(()) };
    match errors.count() {
        0 => Err(first.to_string().into()),
        more => Err(format!("{first}, and {more} more").into()),
    }
}

fn as_json(mounted: &Mounted, dir: &Path) -> Value {
    let layers = mounted.layers.iter().map(|layer| {
        let loops = layer.loops.iter().map(
            |device| json!({ "path": device.path.to_string_lossy(), "direct_io": device.direct_io }),
        );
        json!({ "name": layer.name, "loop_devices": loops.collect::<Vec<_>>() })
    });
    let overlay = mounted.overlay.map(|route| match route {
        OverlayRoute::Detached => "detached",
        OverlayRoute::Scratch => "scratch",
    });
    json!({
        "mount_point": dir.to_string_lossy(),
        "layers": layers.collect::<Vec<_>>(),
        "overlay": overlay,
    })
}
