//! An image and its extra devices, named on the command line.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use erolith_mkfs::image::{DirEntry, Error, Image, Inode};
use erolith_mkfs::io::ReadAt;

use crate::exit::BadInput;
use crate::text::Quoted;

/// Symbolic links followed on the way to one file, as in Linux.
const LINKS_MAX: usize = 40;

/// A file or a block device that is read at any offset.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    size: u64,
}

impl Source {
    /// Opens a plain file or a block device.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("opening {}", path.display());
        // A FIFO must not block.
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let mut file =
            OpenOptions::new().read(true).custom_flags(nonblock).open(path).with_context(what)?;
        let kind = file.metadata().with_context(what)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let text = format!("{}: neither a plain file nor a block device", path.display());
            return Err(BadInput(text).into());
        }
        // The metadata of a block device does not say how large it is.
        let size = file.seek(SeekFrom::End(0)).with_context(what)?;
        Ok(Self { file, size })
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for Source {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buf, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// The image a command reads.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    /// The image: a file or a block device.
    image: PathBuf,
    /// An extra device of the image, once for each in the order of its table; without any, they are taken to
    /// follow the image in the same file.
    #[arg(long, value_name = "FILE")]
    device: Vec<PathBuf>,
}

/// An image open for reading.
pub(crate) type Opened = Image<Arc<Source>>;

impl ImageArgs {
    /// How the image is called in messages.
    pub(crate) fn name(&self) -> String {
        self.image.display().to_string()
    }

    /// Opens the image and its devices, without looking at what is in them.
    pub(crate) fn sources(&self) -> anyhow::Result<(Arc<Source>, Vec<Arc<Source>>)> {
        let devices = self.device.iter().map(|path| Source::open(path).map(Arc::new));
        Ok((Arc::new(Source::open(&self.image)?), devices.collect::<anyhow::Result<_>>()?))
    }

    /// Opens the image for reading.
    pub(crate) fn open(&self) -> anyhow::Result<Opened> {
        let (primary, devices) = self.sources()?;
        Image::open(primary, devices).with_context(|| self.name())
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

/// What is at a path; symbolic links are not followed.
pub(crate) fn find(image: &Opened, path: &[u8]) -> Result<Result<Inode, Missing>, Error> {
    match image.lookup(path) {
        Ok(found) => Ok(found.ok_or(Missing::NotFound)),
        Err(Error::NotADirectory { .. }) => Ok(Err(Missing::NotADirectory)),
        Err(e) => Err(e),
    }
}

/// What is at a path when symbolic links are followed; absolute ones start at the root of the image, and
/// `..` does not lead out of it.
pub(crate) fn follow(image: &Opened, path: &[u8]) -> Result<Result<Inode, Missing>, Error> {
    let mut links = 0;
    // Directories from the root to where we are, and what is still to be walked, the next at the end.
    let mut at = vec![image.root()?];
    let mut todo: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
    while let Some(name) = todo.pop() {
        let Some(dir) = at.last() else { return Ok(Err(Missing::NotFound)) };
        if !dir.is_dir() {
            return Ok(Err(Missing::NotADirectory));
        }
        if name == b".." {
            if at.len() > 1 {
                at.pop();
            }
            continue;
        }
        let Some(nid) = image.lookup_in(dir, &name)? else { return Ok(Err(Missing::NotFound)) };
        let inode = image.stat(nid)?;
        if !inode.is_symlink() {
            at.push(inode);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Ok(Err(Missing::Loop));
        }
        let target = image.read_link(&inode)?;
        if target.starts_with(b"/") {
            at.truncate(1);
        }
        todo.extend(components(&target).rev().map(<[u8]>::to_vec));
    }
    Ok(at.pop().ok_or(Missing::NotFound))
}

/// A directory's entries with their inodes.
pub(crate) fn entries(image: &Opened, dir: &Inode) -> Result<Vec<(DirEntry, Inode)>, Error> {
    let mut found = Vec::new();
    for entry in image.read_dir(dir.nid)? {
        let entry = entry?;
        let inode = image.stat(entry.nid)?;
        found.push((entry, inode));
    }
    Ok(found)
}

/// The directory that a command works below: the root, or what `--path` names.
pub(crate) fn subtree(image: &Opened, path: Option<&Path>) -> anyhow::Result<Inode> {
    let Some(path) = path else { return Ok(image.root()?) };
    let bad = |missing: Missing| BadInput(format!("{}: {missing}", Quoted(path_bytes(path))));
    let inode = find(image, path_bytes(path))?.map_err(bad)?;
    if !inode.is_dir() {
        return Err(bad(Missing::NotADirectory).into());
    }
    Ok(inode)
}
