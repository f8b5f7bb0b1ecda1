//! The tree of an image as files of a directory.
//!
//! The image may come from a stranger, so nothing is ever reached by a path that it chose. Every file is created
//! new, under one name, in a directory that is held open and that only its owner may enter until it is complete; names
//! have neither slashes nor NUL, since the reader refuses them. Directories get their attributes in a second
//! walk, the deepest first, when nothing in them changes any more.

mod error;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use erolith_mkfs::format::FileType;
use erolith_mkfs::image::{self, Corruption, CorruptionKind, ExtentLocation, Image, Inode};
use erolith_mkfs::meta::Xattr;
use rustix::fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::content::Blob;
use crate::path_index::{NameInDir, PathIndex};

pub use error::{Error, Restored};

/// What this module returns.
type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// What is restored besides names, content, modes and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoredAttributes {
    /// Owners and groups; otherwise everything belongs to the user of the process.
    pub owners: bool,
    /// Extended attributes, access control lists among them.
    pub xattrs: bool,
    /// Character and block devices. Whiteouts (character device 0,0) are made in any case.
    pub devices: bool,
}

/// Something that a walk over the tree met, each directory before what is in it.
#[derive(Debug)]
pub struct TreeEntry<'w> {
    /// The path from where the walk started, without a leading slash; empty for the start itself.
    pub path: &'w [u8],
    /// What tells the directory it is in from others; its own for the start.
    pub parent: u64,
    /// What tells the inode from others; names of one inode have the same.
    pub id: u64,
    /// The image it is in.
    pub image: &'w Image<Blob>,
    /// Its inode there.
    pub inode: Inode,
    /// Its extended attributes, as a mount shows them.
    pub xattrs: Vec<Xattr>,
}

impl TreeEntry<'_> {
    /// The last component of the path.
    fn name(&self) -> &[u8] {
        self.path.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }
}

/// A directory on the way from the root to where the walk is.
#[derive(Debug)]
struct OpenDir {
    id: u64,
    fd: OwnedFd,
    inode: Inode,
    xattrs: Vec<Xattr>,
}

/// Makes the files of a tree. Two walks over the same tree give it the same entries: one to
/// [`make`](Self::make), then one to [`finish`](Self::finish), and [`close`](Self::close) ends it.
#[derive(Debug)]
pub struct Extractor {
    attributes: RestoredAttributes,
    root: OwnedFd,
    levels: Vec<OpenDir>,
    dirs: PathIndex,
    /// The first name of inodes that have several.
    first: BTreeMap<u64, NameInDir>,
    devices_left_out: u64,
}

impl Extractor {
    /// Begins in the directory at `path`, which is made if it is not there and must be empty. It is closed to others until
    /// it gets its own mode in the end.
    ///
    /// Nodes get the permissions that they are made with: the caller has set its umask to 0. One descriptor is open for
    /// each level of the tree.
    ///
    /// # Errors
    /// [`Error::NotEmpty`]; [`Error::Io`] when the directory cannot be made, opened or changed.
    pub fn create(path: &Path, attributes: RestoredAttributes) -> Result<Self> {
        let (levels, dirs, first) = (Vec::new(), PathIndex::default(), BTreeMap::new());
        let root = destination(path)?;
        Ok(Self { attributes, root, levels, dirs, first, devices_left_out: 0 })
    }

    /// Devices that were not made since [`RestoredAttributes::devices`] leaves them out.
    #[must_use]
    pub fn devices_left_out(&self) -> u64 {
        self.devices_left_out
    }

    /// Makes an entry of the first walk, with its attributes unless it is a directory.
    ///
    /// # Errors
    /// When the image cannot be read, or the kernel refuses a file or an attribute.
    pub fn make(&mut self, entry: TreeEntry<'_>) -> Result<()> {
        if entry.path.is_empty() {
            return self.start(entry);
        }
        while self.levels.pop_if(|level| level.id != entry.parent).is_some() {}
        let Some(level) = self.levels.last() else { return Ok(()) };
        if !entry.inode.is_dir() {
            return self.make_file(&entry);
        }
        rustix::fs::mkdirat(&level.fd, entry.name(), Mode::RWXU).map_err(io::Error::from)?;
        let fd = open_dir(&level.fd, entry.name())?;
        self.dirs.note(entry.id, NameInDir::new(entry.parent, entry.name()));
        self.enter(entry, fd);
        Ok(())
    }

    /// Takes an entry of the second walk: directories get their attributes once all below them have theirs.
    ///
    /// # Errors
    /// When the kernel refuses an attribute.
    pub fn finish(&mut self, entry: TreeEntry<'_>) -> Result<()> {
        if entry.path.is_empty() {
            return self.start(entry);
        }
        if !entry.inode.is_dir() {
            return Ok(());
        }
        while let Some(done) = self.levels.pop_if(|level| level.id != entry.parent) {
            self.set_attributes(done.fd.as_fd(), &done.inode, &done.xattrs)?;
        }
        let Some(level) = self.levels.last() else { return Ok(()) };
        let fd = open_dir(&level.fd, entry.name())?;
        self.enter(entry, fd);
        Ok(())
    }

    /// Ends the second walk.
    ///
    /// # Errors
    /// When the kernel refuses an attribute.
    pub fn close(mut self) -> Result<()> {
        while let Some(done) = self.levels.pop() {
            self.set_attributes(done.fd.as_fd(), &done.inode, &done.xattrs)?;
        }
        Ok(())
    }

    /// Begins a walk at the root.
    fn start(&mut self, entry: TreeEntry<'_>) -> Result<()> {
        let root = self.root.try_clone()?;
        self.levels.clear();
        self.enter(entry, root);
        Ok(())
    }

    fn enter(&mut self, entry: TreeEntry<'_>, fd: OwnedFd) {
        let TreeEntry { id, inode, xattrs, .. } = entry;
        self.levels.push(OpenDir { id, fd, inode, xattrs });
    }

    /// Makes anything but a directory.
    fn make_file(&mut self, entry: &TreeEntry<'_>) -> Result<()> {
        let Some(OpenDir { fd: dir, .. }) = self.levels.last() else { return Ok(()) };
        let (inode, name) = (&entry.inode, entry.name());
        let is_linked = inode.nlink != 1;
        if let Some(first) = self.first.get(&entry.id).filter(|_| is_linked) {
            return self.link(first, dir.as_fd(), name).map_err(Error::of(Restored::HardLink));
        }
        let made = if inode.is_file() {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
            let fd = open_at(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
            let file = File::from(fd);
            fill(&file, entry)?;
            file.into()
        } else if self.make_special(dir.as_fd(), name, entry)? {
            open_at(dir, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?
        } else {
            self.devices_left_out += 1;
            return Ok(());
        };
        self.set_attributes(made.as_fd(), inode, &entry.xattrs)?;
        if is_linked {
            self.first.insert(entry.id, NameInDir::new(entry.parent, name));
        }
        Ok(())
    }

    /// Makes another name of a file. Its first directory may have been left: then it is opened again, step by
    /// step from the root.
    fn link(&self, first: &NameInDir, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        let level = self.levels.iter().find(|level| level.id == first.parent);
        let from = match level {
            Some(level) => level.fd.try_clone()?,
            None => {
                let steps = self.dirs.components(first.parent);
                let root = self.root.try_clone()?;
                steps.into_iter().try_fold(root, |dir, name| open_dir(&dir, name))?
            }
        };
        Ok(rustix::fs::linkat(&from, first.name.as_slice(), dir, name, AtFlags::empty())?)
    }

    /// Makes a node or a symbolic link; false when it is to be left out.
    fn make_special(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        entry: &TreeEntry<'_>,
    ) -> Result<bool> {
        use rustix::fs::FileType as Kind;
        let inode = &entry.inode;
        let kind = match inode.file_type() {
            FileType::Symlink => {
                let target = entry.image.read_link(inode)?;
                rustix::fs::symlinkat(target, dir, name).map_err(io::Error::from)?;
                return Ok(true);
            }
            FileType::Char => Kind::CharacterDevice,
            FileType::Block => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Regular | FileType::Directory => return Ok(false),
        };
        let is_device = inode.rdev().is_some() && !inode.is_whiteout();
        if is_device && !self.attributes.devices {
            return Ok(false);
        }
        let (major, minor) = inode.rdev().unwrap_or_default();
        let device = rustix::fs::makedev(major, minor);
        let made = rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device);
        let what = if is_device { Restored::Device } else { Restored::Node };
        made.map_err(io::Error::from).map_err(Error::of(what))?;
        Ok(true)
    }

    /// Owner first, since a new owner costs capabilities and the set-user-ID bit; attributes before a mode that
    /// may forbid to write them; the time last.
    fn set_attributes(&self, fd: BorrowedFd<'_>, inode: &Inode, xattrs: &[Xattr]) -> Result<()> {
        // The one path that leads to the open file itself, whatever it is.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        if self.attributes.owners {
            set_owner(&path, inode)?;
        }
        for xattr in xattrs.iter().filter(|_| self.attributes.xattrs) {
            let (name, flags) = (xattr.name.as_slice(), XattrFlags::empty());
            rustix::fs::setxattr(&path, name, &xattr.value, flags)
                .map_err(io::Error::from)
                .map_err(Error::of(Restored::Xattr(name.to_vec())))?;
        }
        if !inode.is_symlink() {
            let mode = Mode::from_raw_mode(u32::from(inode.mode & 0o7777));
            rustix::fs::chmodat(CWD, &path, mode, AtFlags::empty())
                .map_err(io::Error::from)
                .map_err(Error::of(Restored::Mode))?;
        }
        let modified = Timespec { tv_sec: inode.mtime.sec, tv_nsec: inode.mtime.nsec.into() };
        let accessed = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let times = Timestamps { last_access: accessed, last_modification: modified };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())
            .map_err(io::Error::from)
            .map_err(Error::of(Restored::Time))
    }
}

/// Opens the directory, which must be empty, and closes it to others.
fn destination(path: &Path) -> Result<OwnedFd> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(io::Error::from(e).into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
    must_be_empty(&dir)?;
    rustix::fs::fchmod(&dir, Mode::RWXU).map_err(io::Error::from)?;
    // Again, now that no other process can put something in.
    must_be_empty(&dir)?;
    // Lists that are inherited from here would become part of the tree.
    for name in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        match rustix::fs::fremovexattr(&dir, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(io::Error::from(e).into()),
        }
    }
    Ok(dir)
}

fn must_be_empty(dir: &OwnedFd) -> Result<()> {
    for entry in Dir::read_from(dir).map_err(io::Error::from)? {
        let entry = entry.map_err(io::Error::from)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Err(Error::NotEmpty);
        }
    }
    Ok(())
}

fn set_owner(path: &str, inode: &Inode) -> Result<()> {
    // To the kernel this number means to leave the owner.
    if inode.uid == u32::MAX || inode.gid == u32::MAX {
        return Err(Error::BadOwner { uid: inode.uid, gid: inode.gid });
    }
    let owner = (Some(Uid::from_raw(inode.uid)), Some(Gid::from_raw(inode.gid)));
    rustix::fs::chownat(CWD, path, owner.0, owner.1, AtFlags::empty())
        .map_err(io::Error::from)
        .map_err(Error::of(Restored::Owner))
}

/// Writes the content of a file; what the image does not store stays a hole.
fn fill(file: &File, entry: &TreeEntry<'_>) -> Result<()> {
    let (image, inode) = (entry.image, &entry.inode);
    if inode.size == 0 {
        return Ok(());
    }
    file.set_len(inode.size)?;
    let mut buf = Vec::new();
    for extent in image.extents(inode) {
        let extent = extent?;
        let end = extent.end().min(inode.size);
        let len = end.saturating_sub(extent.start);
        match extent.place {
            ExtentLocation::Hole => {}
            ExtentLocation::Device { device, offset } => {
                copy_stored(file, extent.start, len, (device, offset), entry)?;
            }
            _ => {
                let mut pos = extent.start;
                while pos < end {
                    let want = usize::try_from(end - pos).map_or(PIECE, |l| l.min(PIECE));
                    buf.resize(want, 0);
                    let n = image.read_at(inode, &mut buf, pos)?;
                    file.write_all_at(buf.get(..n).unwrap_or_default(), pos)?;
                    pos += n as u64;
                }
            }
        }
    }
    Ok(())
}

/// Copies bytes that are in the image as they are, inside the kernel where it can.
fn copy_stored(
    file: &File,
    pos: u64,
    len: u64,
    (device, offset): (u16, u64),
    entry: &TreeEntry<'_>,
) -> Result<()> {
    let inode = &entry.inode;
    let bad = |fault| image::Error::from(Corruption::new(fault).nid(inode.nid).at(inode.offset));
    let from = entry.image.device(device);
    let from = from.ok_or_else(|| bad(CorruptionKind::DataDeviceMissing))?;
    // The image may be a part of a file, behind which other things are.
    let is_inside = offset.checked_add(len).is_some_and(|end| end <= from.len());
    if !is_inside {
        return Err(bad(CorruptionKind::DataOutside).into());
    }
    from.copy_to(offset, len, file, pos).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => bad(CorruptionKind::DataOutside).into(),
        _ => e.into(),
    })
}

/// Opens a directory that was made here.
fn open_dir(parent: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    open_at(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

fn open_at(dir: impl AsFd, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, mode)?)
}
