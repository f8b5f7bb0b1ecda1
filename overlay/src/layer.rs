//! One layer: an image, or a directory of the host.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::content::Content;
use super::handles::{FileHandle, FileHandles, IndexDir};
use crate::Error;
use crate::directory::{HostEntry, Seen, failed, open_dir, sorted_names};
use erolith_mkfs::format::FileType;
use erolith_mkfs::image::{Image, Inode};
use erolith_mkfs::io::ReadAt;
use erolith_mkfs::meta::{Meta, Xattr};
use erolith_mkfs::names;

/// A tree of files that a stack is made of. Nothing of an image may be taken for granted before it was checked.
#[derive(Debug)]
pub enum OverlayLayer {
    /// An EROFS image.
    Image(Box<Image>),
    /// A directory.
    Dir(Directory),
}

/// A directory of the host that is a layer: entered through its descriptor and never left.
#[derive(Debug)]
pub struct Directory {
    root: OwnedFd,
    /// Where an upper directory has the copies that several names show.
    index: Option<IndexDir>,
    /// The directory that was opened last: names are asked for one after another.
    last: Mutex<Option<Opened>>,
}

#[derive(Debug, Clone)]
struct Opened {
    place: BaseDir,
    path: Arc<[u8]>,
    fd: Arc<OwnedFd>,
}

impl OverlayLayer {
    /// The image in `file`, with its devices behind it, as a layer.
    ///
    /// # Errors
    /// Those of [`Image::open`].
    pub fn image(file: Arc<dyn ReadAt>) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self::Image(Box::new(Image::open(file, Vec::new())?))))
    }

    /// A directory as a layer.
    #[must_use]
    pub fn dir(root: OwnedFd) -> Arc<Self> {
        Self::upper(root, None)
    }

    /// The upper directory of an overlay as a layer, with its index if it has one.
    #[must_use]
    pub fn upper(root: OwnedFd, index: Option<IndexDir>) -> Arc<Self> {
        Arc::new(Self::Dir(Directory { root, index, last: Mutex::default() }))
    }

    /// The entries of the index and their names, in the order of their bytes; nothing where there is no index.
    ///
    /// # Errors
    /// What the storage reports.
    pub(super) fn indexed(self: &Arc<Self>) -> Result<Option<Vec<Named>>, Error> {
        let Self::Dir(dir) = &**self else { return Ok(None) };
        if dir.index.is_none() {
            return Ok(None);
        }
        let fd = dir.open(BaseDir::Index, &[], None)?;
        let mut entries = Vec::new();
        for name in sorted_names(&fd).map_err(|e| failed(&[], e))? {
            let path = name.to_bytes();
            // One that is gone by now was the last name of its file.
            let Some(seen) = Seen::at(fd.as_fd(), &name, path)? else { continue };
            let at = NodeSource::Dir { place: BaseDir::Index, path: path.into(), seen };
            entries.push((path.to_vec(), Node { layer: Arc::clone(self), at }));
        }
        Ok(Some(entries))
    }

    /// What calls the inodes of directories, which an upper directory with an index may know.
    pub(super) fn file_handles(&self) -> Option<&Arc<dyn FileHandles>> {
        match self {
            Self::Dir(dir) => dir.index.as_ref()?.handles.as_ref(),
            Self::Image(_) => None,
        }
    }

    /// The UUID of the filesystem that the kernel has the layer in, if it is known.
    pub(super) fn uuid(&self, ask: Option<&Arc<dyn FileHandles>>) -> Option<[u8; 16]> {
        match self {
            Self::Image(image) => Some(image.superblock().raw.uuid),
            Self::Dir(dir) => ask?.uuid(dir.root.as_fd()),
        }
    }

    /// Its root directory.
    ///
    /// # Errors
    /// What the storage reports, and any fault of the image.
    pub fn root(self: &Arc<Self>) -> Result<Node, Error> {
        let at = match &**self {
            Self::Image(image) => NodeSource::Image(image.root()?),
            Self::Dir(dir) => {
                let seen = Seen::at(dir.root.as_fd(), c".", &[])?;
                let seen = seen.ok_or_else(|| failed(&[], Errno::NOENT))?;
                NodeSource::Dir { place: BaseDir::Tree, path: Arc::from([]), seen }
            }
        };
        Ok(Node { layer: Arc::clone(self), at })
    }
}

impl Directory {
    /// The directory at `path`, which must be the inode `id`, if that is known.
    fn open(
        &self,
        place: BaseDir,
        path: &[u8],
        id: Option<(u64, u64)>,
    ) -> Result<Arc<OwnedFd>, Error> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |opened: &&Opened| opened.place == place && *opened.path == *path;
        if let Some(opened) = last.as_ref().filter(is_it) {
            return Ok(Arc::clone(&opened.fd));
        }
        let root = match (place, &self.index) {
            (BaseDir::Tree, _) => &self.root,
            (BaseDir::Index, Some(index)) => &index.dir,
            (BaseDir::Index, None) => return Err(failed(path, Errno::NOENT)),
        };
        let fd = Arc::new(open_dir(root.as_fd(), path, id)?);
        *last = Some(Opened { place, path: path.into(), fd: Arc::clone(&fd) });
        Ok(fd)
    }
}

/// An inode and its name in the directory it was found in.
pub(super) type Named = (Vec<u8>, Node);

/// An inode of a layer, as it was when it was looked up.
#[derive(Debug, Clone)]
pub struct Node {
    layer: Arc<OverlayLayer>,
    at: NodeSource,
}

#[derive(Debug, Clone)]
enum NodeSource {
    Image(Inode),
    Dir { place: BaseDir, path: Arc<[u8]>, seen: Seen },
}

/// Where a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BaseDir {
    /// In the directory that is the layer.
    Tree,
    /// In the index of an upper directory.
    Index,
}

impl Node {
    /// Whether it is the same inode of the same layer.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.layer, &other.layer) && self.id() == other.id()
    }

    /// The layer it is in.
    pub(super) fn layer(&self) -> &Arc<OverlayLayer> {
        &self.layer
    }

    /// What tells it from others of its layer.
    pub(super) fn id(&self) -> (u64, u64) {
        match &self.at {
            NodeSource::Image(inode) => (0, inode.nid),
            NodeSource::Dir { seen, .. } => seen.id(),
        }
    }

    /// How many names the inode has; those of a directory do not count.
    pub(super) fn links(&self) -> u64 {
        match &self.at {
            _ if self.is_dir() => 1,
            NodeSource::Image(inode) => u64::from(inode.nlink),
            NodeSource::Dir { seen, .. } => seen.links(),
        }
    }

    /// Whether the inode has other names. A copy in the index is shown by all names of the file below, whatever its count says.
    pub(super) fn has_other_names(&self) -> bool {
        self.links() > 1 || matches!(self.at, NodeSource::Dir { place: BaseDir::Index, .. })
    }

    /// The number of the inode in its image; nothing in a directory.
    pub(super) fn nid(&self) -> Option<u64> {
        match &self.at {
            NodeSource::Image(inode) => Some(inode.nid),
            NodeSource::Dir { .. } => None,
        }
    }

    /// What the kernel calls the inode in a directory.
    ///
    /// # Errors
    /// What it reports.
    pub(super) fn file_handle(&self, ask: &Arc<dyn FileHandles>) -> Result<FileHandle, Error> {
        let (OverlayLayer::Dir(dir), NodeSource::Dir { place, path, .. }) =
            (&*self.layer, &self.at)
        else {
            return Err(failed(&[], Errno::INVAL));
        };
        let (parent, name) = names::split(path);
        let fd = dir.open(*place, parent, None)?;
        ask.handle(fd.as_fd(), &c_name(path, name)?).map_err(|e| failed(path, e))
    }

    /// What it is.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        match &self.at {
            NodeSource::Image(inode) => inode.file_type(),
            NodeSource::Dir { seen, .. } => seen.file_type(),
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Owner, permissions and time.
    #[must_use]
    pub fn meta(&self) -> Meta {
        match &self.at {
            NodeSource::Image(inode) => inode.meta(),
            NodeSource::Dir { seen, .. } => seen.meta(),
        }
    }

    /// Bytes of a regular file.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.at {
            NodeSource::Image(inode) => inode.size,
            NodeSource::Dir { seen, .. } => seen.size(),
        }
    }

    /// Major and minor number of a device.
    #[must_use]
    pub fn rdev(&self) -> (u32, u32) {
        match &self.at {
            NodeSource::Image(inode) => inode.rdev().unwrap_or_default(),
            NodeSource::Dir { seen, .. } => seen.rdev(),
        }
    }

    /// The names in a directory, in the order of their bytes.
    ///
    /// # Errors
    /// What the storage reports, and any fault of the image.
    pub fn names(&self) -> Result<Vec<Vec<u8>>, Error> {
        match (&*self.layer, &self.at) {
            (OverlayLayer::Image(image), NodeSource::Image(inode)) => {
                let names = image.read_dir(inode.nid)?.map(|entry| Ok(entry?.name));
                let mut names = names.collect::<Result<Vec<_>, Error>>()?;
                names.sort_unstable();
                Ok(names)
            }
            (OverlayLayer::Dir(dir), NodeSource::Dir { place, path, seen }) => {
                let fd = dir.open(*place, path, Some(seen.id()))?;
                let names = sorted_names(&fd).map_err(|e| failed(path, e))?;
                Ok(names.into_iter().map(CString::into_bytes).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// What a directory has under this name.
    ///
    /// # Errors
    /// What the storage reports, and any fault of the image.
    pub fn child(&self, name: &[u8]) -> Result<Option<Self>, Error> {
        let at = match (&*self.layer, &self.at) {
            (OverlayLayer::Image(image), NodeSource::Image(inode)) => {
                let nid = image.lookup_in(inode, name)?;
                nid.map(|nid| image.stat(nid)).transpose()?.map(NodeSource::Image)
            }
            (OverlayLayer::Dir(dir), NodeSource::Dir { place, path, seen }) => {
                let child = names::join(path, name);
                let fd = dir.open(*place, path, Some(seen.id()))?;
                let found = Seen::at(fd.as_fd(), &c_name(&child, name)?, &child)?;
                found.map(|seen| NodeSource::Dir { place: *place, path: child.into(), seen })
            }
            _ => None,
        };
        Ok(at.map(|at| Self { layer: Arc::clone(&self.layer), at }))
    }

    /// Extended attributes, in the order of their names.
    ///
    /// # Errors
    /// What the storage reports, and any fault of the image.
    pub fn xattrs(&self) -> Result<Vec<Xattr>, Error> {
        let mut xattrs = match (&*self.layer, &self.at) {
            (OverlayLayer::Image(image), NodeSource::Image(inode)) => image.xattrs(inode)?,
            (OverlayLayer::Dir(dir), NodeSource::Dir { .. }) => {
                self.found(dir, |found| found.xattrs())?
            }
            _ => Vec::new(),
        };
        xattrs.sort_unstable();
        Ok(xattrs)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// What the storage reports, and any fault of the image.
    pub fn read_link(&self) -> Result<Vec<u8>, Error> {
        match (&*self.layer, &self.at) {
            (OverlayLayer::Image(image), NodeSource::Image(inode)) => Ok(image.read_link(inode)?),
            (OverlayLayer::Dir(dir), NodeSource::Dir { .. }) => {
                self.found(dir, |found| found.read_link())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The content of a regular file, from its start. Nothing else is ever opened.
    ///
    /// # Errors
    /// [`Error::Changed`] when there is another inode by now, and what the storage reports.
    pub fn content(&self) -> Result<Content<'_>, Error> {
        match (&*self.layer, &self.at) {
            (OverlayLayer::Image(image), NodeSource::Image(inode)) => {
                Ok(Content::of_image(image, inode))
            }
            (OverlayLayer::Dir(dir), NodeSource::Dir { .. }) => {
                let file = self.found(dir, |found| found.open())?;
                Ok(Content::of_file(self, file))
            }
            _ => Err(failed(&[], Errno::INVAL)),
        }
    }

    /// The path from the root of a directory of the host; empty in an image.
    pub(super) fn path(&self) -> &[u8] {
        match &self.at {
            NodeSource::Image(_) => &[],
            NodeSource::Dir { path, .. } => path,
        }
    }

    /// The image and the inode in it, if it is in one.
    pub(crate) fn in_image(&self) -> Option<(&Image, &Inode)> {
        match (&*self.layer, &self.at) {
            (OverlayLayer::Image(image), NodeSource::Image(inode)) => Some((image, inode)),
            _ => None,
        }
    }

    /// Calls `look` with the name in its directory, if it is in one.
    pub(crate) fn with_found<T>(
        &self,
        look: impl FnOnce(&HostEntry<'_>) -> Result<T, Error>,
    ) -> Option<Result<T, Error>> {
        match &*self.layer {
            OverlayLayer::Dir(dir) => Some(self.found(dir, look)),
            OverlayLayer::Image(_) => None,
        }
    }

    fn found<T>(
        &self,
        dir: &Directory,
        look: impl FnOnce(&HostEntry<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let NodeSource::Dir { place, path, seen } = &self.at else {
            return Err(failed(&[], Errno::INVAL));
        };
        let (parent, name) = names::split(path);
        let name = if path.is_empty() { c".".to_owned() } else { c_name(path, name)? };
        let fd = dir.open(*place, parent, None)?;
        look(&HostEntry::known(fd.as_fd(), &name, path, *seen))
    }
}

/// A name for the kernel. One with a NUL byte is in no directory.
fn c_name(path: &[u8], name: &[u8]) -> Result<CString, Error> {
    CString::new(name).map_err(|_| failed(path, Errno::INVAL))
}
