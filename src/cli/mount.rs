//! `erolith mount`: an image as a read-only tree.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use erolith_mkfs::check::{self, Limits};
use erolith_mkfs::io::ReadAt;
use erolith_snapshotter::mounts::{
    Backing, Layer, MountOptions, Mounted, OverlayRoute, Request, mount,
};
use serde_json::{Value, json};

/// Mount an EROFS image, read-only.
///
/// The image is mounted where it is, straight from its file where the kernel can, else through a read-only loop
/// device that frees itself. It is checked first. `erolith umount` leaves nothing behind.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An image file.
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
    let layers = vec![open_image(&args.source, &args.devices)?];
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
            |device| json!({ "path": device.path.to_string_lossy(), "directIo": device.direct_io }),
        );
        json!({ "name": layer.name, "loopDevices": loops.collect::<Vec<_>>() })
    });
    let overlay = mounted.overlay.map(|route| match route {
        OverlayRoute::Detached => "detached",
        OverlayRoute::Scratch => "scratch",
    });
    json!({
        "mountPoint": dir.to_string_lossy(),
        "layers": layers.collect::<Vec<_>>(),
        "overlay": overlay,
    })
}
