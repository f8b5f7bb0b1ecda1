//! What commands read: an image file with its extra devices, an image of layers, or a layer.

mod named;
mod tree;

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use erolith_differ::content::{Blob, LocalBlob};
use erolith_differ::decode::Cancel;
use erolith_differ::oci::{ImageSource, Location, OciImage, Platform};
use erolith_differ::{Compression, Digest, LayerType};
use erolith_mkfs::image::Image;
use erolith_overlay::{Marks, Stack};

pub(crate) use named::{LayerName, Named, named, open_image};
pub(crate) use tree::{Entry, ImageTree, Node};

use crate::cli::layers::Opener;
use crate::exit::{BadInput, Usage};
use crate::progress::Line;

/// Symbolic links followed on the way to one file, as in Linux.
const LINKS_MAX: usize = 40;

/// Opens a plain file or a block device, to be read at any offset.
pub(crate) fn open_file(path: &Path) -> anyhow::Result<LocalBlob> {
    let what = || match named::advice(path) {
        Some(advice) => format!("opening {}: {advice}", path.display()),
        None => format!("opening {}", path.display()),
    };
    // A FIFO must not block.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file =
        OpenOptions::new().read(true).custom_flags(nonblock).open(path).with_context(what)?;
    let kind = file.metadata().with_context(what)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let text = format!("{}: neither a plain file nor a block device", path.display());
        let advice = named::advice(path).map(|advice| format!("; {advice}"));
        return Err(BadInput(text + &advice.unwrap_or_default()).into());
    }
    // The metadata of a block device does not say how large it is.
    let size = file.seek(SeekFrom::End(0)).with_context(what)?;
    Ok(LocalBlob::new(Arc::new(file), 0, size))
}

/// What a command reads.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    /// An EROFS image, a file or a block device; or all layers of an image together: oci:DIR[:REF], oci-archive:FILE[:REF]
    /// or docker-archive:FILE[:REF], with #N or #DIGEST behind it one of them, #0 the lowest.
    #[arg(value_name = "IMAGE", value_parser = named())]
    image: Named,
    /// An extra device of the image, once for each in the order of its table; without any, they are taken to
    /// follow the image in the same file.
    #[arg(long, value_name = "FILE")]
    device: Vec<PathBuf>,
    /// Platform to take from an index, OS/ARCH[/VARIANT] [default: this machine's].
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Where layers that are archives become temporary images.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    scratch: PathBuf,
}

/// An image open for reading.
pub(crate) type Opened = Image<Blob>;

/// An image that a command looks at by itself: the one named, or a layer.
#[derive(Debug)]
pub(crate) struct Part {
    /// How it is called in messages.
    pub(crate) name: String,
    /// The layer it is, 0 the lowest.
    pub(crate) layer: Option<usize>,
    /// Digest and size of the blob that the image is, where nothing has been compared with them.
    pub(crate) blob: Option<(Digest, u64)>,
    /// The image, and its extra devices.
    pub(crate) image: Blob,
    pub(crate) devices: Vec<Blob>,
}

impl Part {
    /// Opens the image for reading.
    pub(crate) fn open(&self) -> anyhow::Result<Opened> {
        Image::open(self.image.clone(), self.devices.clone()).with_context(|| self.name.clone())
    }
}

impl ImageArgs {
    /// How the image is called in messages.
    pub(crate) fn name(&self) -> String {
        self.image.to_string()
    }

    /// Whether it is one image by itself, and not all layers of one.
    pub(crate) fn is_single(&self) -> bool {
        !matches!(self.image, Named::Image(_, None))
    }

    /// Opens the image file and its devices, without looking at what is in them.
    fn file(&self, path: &Path) -> anyhow::Result<Part> {
        let open = |path: &Path| open_file(path).map(Blob::from);
        let devices = self.device.iter().map(|path| open(path));
        let (image, devices) = (open(path)?, devices.collect::<anyhow::Result<_>>()?);
        Ok(Part { name: self.name(), layer: None, blob: None, image, devices })
    }

    fn open_image(&self, location: &Location) -> anyhow::Result<(ImageSource, OciImage)> {
        if !self.device.is_empty() {
            let text = "--device belongs to an image file, not to an image of layers";
            return Err(Usage(text.into()).into());
        }
        open_image(location, self.platform.as_ref(), &self.scratch)
    }

    /// Calls `each` with the image, or with each of the layers, the lowest first. A layer of which there is no image is an
    /// error by which `each` may end or go on.
    pub(crate) fn parts(
        &self,
        each: &mut dyn FnMut(String, anyhow::Result<Part>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (location, layer) = match &self.image {
            Named::Path(path) => return each(self.name(), Ok(self.file(path)?)),
            Named::Image(location, layer) => (location, layer),
        };
        let (source, image) = self.open_image(location)?;
        let wanted = layer.as_ref().map(|layer| layer.find(&image)).transpose()?;
        let line = Line::new(false);
        let mut opener = Opener::new(&self.scratch, &Cancel::default(), &line);
        for (index, layer) in image.layers.iter().enumerate() {
            if wanted.is_some_and(|wanted| wanted != index) {
                continue;
            }
            let name = format!("{location}#{index}");
            let raw = LayerType::Erofs { compression: Compression::None };
            // An image is judged by the command, where it is.
            let opened = match layer.descriptor().filter(|_| layer.layer_type == raw) {
                Some(descriptor) => source
                    .blob(layer)
                    .map_err(Into::into)
                    .map(|blob| (blob, Some((descriptor.digest.clone(), descriptor.size)))),
                None => opener.layer(&source, &image, index).map(|(blob, _)| (blob, None)),
            };
            let part = opened.map(|(image, blob)| {
                let (name, devices) = (name.clone(), Vec::new());
                Part { name, layer: Some(index), blob, image, devices }
            });
            line.hide(|| each(name, part))?;
        }
        Ok(())
    }

    /// Opens the tree: that of one image as it is, or what all layers show together.
    pub(crate) fn tree(&self) -> anyhow::Result<ImageTree> {
        let (location, layer) = match &self.image {
            Named::Path(path) => return Ok(ImageTree::plain(self.file(path)?.open()?)),
            Named::Image(location, layer) => (location, layer),
        };
        let (source, image) = self.open_image(location)?;
        let line = Line::new(false);
        let mut opener = Opener::new(&self.scratch, &Cancel::default(), &line);
        let name = || self.name();
        let open = |blob: &Blob| Image::open(blob.clone(), Vec::new()).with_context(name);
        if let Some(layer) = layer {
            let index = layer.find(&image)?;
            let (blob, _) = opener.layer(&source, &image, index).with_context(name)?;
            return Ok(ImageTree::plain(open(&blob)?));
        }
        let layers = opener.layers(&source, &image).with_context(name)?;
        let images = layers.iter().map(|(blob, _)| open(blob)).collect::<anyhow::Result<_>>()?;
        let layers = layers.into_iter().map(|(_, layer)| layer).collect();
        Ok(ImageTree::merged(images, Stack::new(layers, Marks::Trusted)))
    }
}

/// Why there is nothing at a path. An answer, and no fault of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Nothing has this name.
    NotFound,
    /// The path leads through something else than a directory.
    NotADirectory,
    /// Symbolic links lead to each other.
    Loop,
    /// It is a directory, and a file was wanted.
    IsADirectory,
    /// It is a device, a FIFO or a socket.
    NoContent,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no such file or directory",
            Self::NotADirectory => "not a directory",
            Self::Loop => "too many levels of symbolic links",
            Self::IsADirectory => "is a directory",
            Self::NoContent => "has no content",
        })
    }
}

/// The bytes of a path given on the command line.
pub(crate) fn path_bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

/// The components of a path, without empty ones and `.`.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// The path from the root, without a leading slash and with single slashes.
pub(crate) fn normal(path: &[u8]) -> Vec<u8> {
    components(path).collect::<Vec<_>>().join(&b'/')
}
