//! `erolith mount`: an image as a read-only tree.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use erolith_differ::apply::verify_blob;
use erolith_differ::content::Blob;
use erolith_differ::decode::Cancel;
use erolith_differ::error::MismatchError;
use erolith_differ::oci::{ImageLayer as BlobLayer, ImageSource, Location, Platform, Transport};
use erolith_differ::{Compression, Digest, LayerType};
use erolith_errors::ErrorClass;
use erolith_mkfs::check::{self, Limits};
use erolith_mkfs::io::ReadAt;
use erolith_snapshotter::mounts::{
    Backing, MountLayer, MountOptions, Mounted, OverlayRoute, Request, mount,
};
use serde_json::{Value, json};

use crate::exit::{BadInput, Usage};
use crate::source::{LayerName, Named, named, open_file, open_image};

/// Mount an EROFS image, or all layers of one in an OCI layout, read-only.
///
/// Images are mounted where they are, straight from their files where the kernel reads them by direct I/O, else through
/// read-only loop devices that free themselves: so content is in memory once. They are checked first. `erolith umount` leaves nothing behind.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An image file; or oci:DIR[:REF] for an image whose layers are raw EROFS, with #N or #DIGEST behind it for one of them,
    /// #0 the lowest.
    #[arg(value_parser = named())]
    source: Named,
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
    /// Platform to take from an index, OS/ARCH[/VARIANT] [default: this machine's].
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
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
    let (layers, blobs) = match &args.source {
        Named::Image(location, layer) => open_layers(args, location, layer.as_ref())?,
        Named::Path(path) => (vec![open_file_image(path, &args.devices)?], Vec::new()),
    };
    let backing = match (args.use_loop, args.file_backed) {
        (true, _) => Backing::Loop,
        (_, true) => Backing::File,
        _ => Backing::Auto,
    };
    let request = Request { layers, target: args.dir.clone(), backing, options, route: None };
    let mounted = if args.no_check { mount(request, &|_| Ok(())) } else { mount(request, &sound) };
    let mounted = mounted.map_err(|error| damage(&blobs, error))?;
    if args.json {
        writeln!(out, "{}", as_json(&mounted, &args.dir))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The layers of an image in an OCI layout, lowest first, and the blobs they are, by their digests.
type Layers = (Vec<MountLayer>, Vec<(Digest, Blob)>);

fn open_layers(
    args: &Args,
    location: &Location,
    layer: Option<&LayerName>,
) -> anyhow::Result<Layers> {
    if !args.devices.is_empty() {
        return Err(Usage("--device belongs to an image file, not to a layout".into()).into());
    }
    if location.transport != Transport::Oci {
        let text = format!(
            "{location}: layers in an archive are not mounted in place; convert the image first: \
             erolith convert {location} oci:NEW"
        );
        return Err(BadInput(text).into());
    }
    // Only what is in no file needs room for a copy.
    let scratch = Path::new(".");
    let (source, image) = open_image(location, args.platform.as_ref(), scratch)?;
    let wanted = layer.map(|layer| layer.find(&image)).transpose()?;
    let (mut layers, mut blobs) = (Vec::new(), Vec::new());
    for (index, layer) in image.layers.iter().enumerate() {
        if wanted.is_some_and(|wanted| wanted != index) {
            continue;
        }
        let blob = open_blob(&source, layer, location)?;
        let image = blob.to_local(scratch)?.file().try_clone()?;
        let name = layer.diff_id.to_string();
        layers.push(MountLayer { name, image, devices: Vec::new() });
        blobs.extend(layer.descriptor().map(|d| (d.digest.clone(), blob.clone())));
    }
    Ok((layers, blobs))
}

/// A raw EROFS layer where it lies in the layout.
fn open_blob(source: &ImageSource, layer: &BlobLayer, location: &Location) -> anyhow::Result<Blob> {
    let advice = match layer.layer_type {
        LayerType::Erofs { compression: Compression::None } => return Ok(source.blob(layer)?),
        LayerType::Erofs { .. } => "is compressed; convert it with --layers raw",
        LayerType::Tar { .. } => "is a tar archive; convert the image first",
    };
    let text = format!(
        "layer {} of {location} {advice}: erolith convert {location} oci:NEW",
        layer.diff_id
    );
    Err(BadInput(text).into())
}

/// That a blob is damaged, where an image was not mounted for what is in it and that is the reason; else `error`.
fn damage(blobs: &[(Digest, Blob)], error: erolith_snapshotter::Error) -> anyhow::Error {
    if error.class() != ErrorClass::Input {
        return error.into();
    }
    let is_damaged = |(digest, blob): &(Digest, Blob)| {
        verify_blob(blob, digest, blob.len(), &Cancel::default()).err()
    };
    match blobs.iter().find_map(is_damaged) {
        Some(found @ erolith_differ::Error::Mismatch(MismatchError::BlobDigest { .. })) => {
            found.into()
        }
        _ => error.into(),
    }
}

/// An image file and the files of its extra devices.
fn open_file_image(image: &Path, devices: &[PathBuf]) -> anyhow::Result<MountLayer> {
    let open = |path: &Path| anyhow::Ok(open_file(path)?.file().try_clone()?);
    let devices = devices.iter().map(|device| open(device)).collect::<Result<_, _>>()?;
    Ok(MountLayer { name: image.display().to_string(), image: open(image)?, devices })
}

/// The structural check, on the very descriptors that are mounted then.
fn sound(layer: &MountLayer) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
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
