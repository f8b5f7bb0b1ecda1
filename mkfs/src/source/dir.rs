//! A directory of the host as a source, entered through an open descriptor.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::KERNEL_COPY;
use crate::Error;
use crate::build::Builder;
use crate::data::Content;
use crate::format::encode_rdev;
use crate::io::Sink;
use crate::meta::{Meta, Time, Xattr};
use crate::tree::{self, NodeId, NodeKind, OverlayXattrs, XattrSetId, shown};

/// A directory that is still to be read. Its descriptor is opened then: a tree may have more directories
/// than a process may have descriptors.
struct Pending {
    node: NodeId,
    /// Relative to the root, without a slash at either end; empty for the root.
    path: Vec<u8>,
}

/// Inodes with several names, by device and number.
type Links = BTreeMap<(u64, u64), NodeId>;

/// Where the walk is.
struct Place<'a> {
    dir: BorrowedFd<'a>,
    node: NodeId,
    /// Of the name being added, for messages.
    path: Vec<u8>,
}

impl Place<'_> {
    fn fail(&self, source: impl Into<io::Error>) -> Error {
        Error::Input { what: shown(&self.path), source: source.into() }
    }
}

impl<S: Sink> Builder<S> {
    /// Fills the tree with everything below the directory `root`, on whatever filesystem. Names are names:
    /// none is a whiteout, unless [`OverlayXattrs::Upper`] says that the directory is that of an overlay.
    ///
    /// # Errors
    /// [`Error`]; the builder is of no use then.
    pub fn fill_from_dir(&mut self, root: BorrowedFd<'_>) -> Result<(), Error> {
        self.add_root(root)?;
        let mut links = Links::new();
        let mut todo = vec![Pending { node: NodeId::ROOT, path: Vec::new() }];
        while let Some(Pending { node, path }) = todo.pop() {
            let mut place = Place { dir: root, node, path: path.clone() };
            let fd = open_dir(root, &path).map_err(|e| place.fail(e))?;
            let names = sorted_names(&fd).map_err(|e| place.fail(e))?;
            place.dir = fd.as_fd();
            let first = todo.len();
            for name in names {
                place.path.clone_from(&path);
                if !path.is_empty() {
                    place.path.push(b'/');
                }
                place.path.extend_from_slice(name.to_bytes());
                if let Some(below) = self.add_name_from(&place, &name, &mut links)? {
                    todo.push(Pending { node: below, path: place.path.clone() });
                }
            }
            if let Some(added) = todo.get_mut(first..) {
                added.reverse();
            }
        }
        Ok(())
    }

    fn add_root(&mut self, root: BorrowedFd<'_>) -> Result<(), Error> {
        let place = Place { dir: root, node: NodeId::ROOT, path: b".".to_vec() };
        let stat = rustix::fs::fstat(root).map_err(|e| place.fail(e))?;
        let xattrs = read_xattrs(root, c".").map_err(|e| place.fail(e))?;
        let set = self.kept(&place, &xattrs, true)?;
        self.tree.describe_root(meta_of(&stat), set);
        if self.is_upper() && tree::is_opaque(&xattrs) {
            self.tree.set_root_opaque();
        }
        Ok(())
    }

    fn is_upper(&self) -> bool {
        self.options.layer.xattrs.overlay == OverlayXattrs::Upper
    }

    fn kept(
        &mut self,
        place: &Place<'_>,
        xattrs: &[Xattr],
        takes_user: bool,
    ) -> Result<XattrSetId, Error> {
        self.tree
            .xattr_set(&place.path, xattrs, takes_user, self.options.layer.xattrs)
            .map_err(|source| Error::Tree { offset: 0, source })
    }

    /// Adds one name. Returns a directory, to be read later.
    fn add_name_from(
        &mut self,
        place: &Place<'_>,
        name: &CStr,
        links: &mut Links,
    ) -> Result<Option<NodeId>, Error> {
        let stat = rustix::fs::statat(place.dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| place.fail(e))?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let is_dir = file_type == FileType::Directory;
        let key = (stat.st_dev, stat.st_ino);
        if let Some(&node) = links.get(&key) {
            self.tree.add_name(place.node, name.to_bytes(), node);
            return Ok(None);
        }
        let xattrs = read_xattrs(place.dir, name).map_err(|e| place.fail(e))?;
        let takes_user = is_dir || file_type == FileType::RegularFile;
        let set = self.kept(place, &xattrs, takes_user)?;
        let kind = match self.kind_in_upper(place, &stat, &xattrs) {
            Some(kind) => kind,
            None => self.kind_from(place, name, &stat)?,
        };
        let node = self
            .tree
            .add(place.node, name.to_bytes(), meta_of(&stat), set, kind)
            .map_err(|source| Error::Tree { offset: 0, source })?;
        if stat.st_nlink > 1 && !is_dir {
            links.insert(key, node);
        }
        Ok(is_dir.then_some(node))
    }

    /// What only the upper directory of an overlay has.
    fn kind_in_upper(&self, place: &Place<'_>, stat: &Stat, xattrs: &[Xattr]) -> Option<NodeKind> {
        if !self.is_upper() {
            return None;
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if tree::is_opaque(xattrs) => {
                Some(tree::new_opaque_dir(place.node))
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => Some(NodeKind::Whiteout),
            FileType::RegularFile if stat.st_size == 0 && tree::is_whiteout_file(xattrs) => {
                Some(NodeKind::Whiteout)
            }
            _ => None,
        }
    }

    fn kind_from(
        &mut self,
        place: &Place<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> Result<NodeKind, Error> {
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => tree::new_dir(place.node),
            FileType::RegularFile => self.store_file(place, name, stat)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(place.dir, name, Vec::new())
                    .map_err(|e| place.fail(e))?;
                NodeKind::Symlink(target.into_bytes().into())
            }
            FileType::CharacterDevice => NodeKind::Char(device(stat, place)?),
            FileType::BlockDevice => NodeKind::Block(device(stat, place)?),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::Unknown => return Err(place.fail(Errno::INVAL)),
        })
    }

    fn store_file(
        &mut self,
        place: &Place<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> Result<NodeKind, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(place.dir, name, flags, Mode::empty()).map_err(|e| place.fail(e))?;
        let size = u64::try_from(stat.st_size).map_err(|_| place.fail(Errno::INVAL))?;
        let content = if size >= KERNEL_COPY {
            self.data.copy_file(file.as_fd(), 0, size)?
        } else {
            self.store_small(place, &file, size)?
        };
        let after = rustix::fs::fstat(&file).map_err(|e| place.fail(e))?;
        let state = |s: &Stat| (s.st_ino, s.st_size, s.st_mtime, s.st_mtime_nsec);
        if state(&after) != state(stat) {
            return Err(place.fail(io::Error::other("the file changed while it was read")));
        }
        Ok(NodeKind::File { size, content })
    }

    fn store_small(
        &mut self,
        place: &Place<'_>,
        file: &OwnedFd,
        size: u64,
    ) -> Result<Content, Error> {
        let mut writer = self.data.file(size, None)?;
        let mut buf = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut left = buf.as_mut_slice();
        while !left.is_empty() {
            match rustix::io::read(file, &mut *left) {
                Ok(0) => return Err(place.fail(io::ErrorKind::UnexpectedEof)),
                Ok(n) => left = left.get_mut(n..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(e) => return Err(place.fail(e)),
            }
        }
        writer.write(&mut self.data, &buf)?;
        writer.finish(&mut self.data)
    }
}

/// Opens a directory below `root` without following any symbolic link on the way.
fn open_dir(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

fn sorted_names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn meta_of(stat: &Stat) -> Meta {
    Meta {
        mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time { sec: stat.st_mtime, nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
    }
}

fn device(stat: &Stat, place: &Place<'_>) -> Result<u32, Error> {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    encode_rdev(major, minor).ok_or_else(|| Error::Tree {
        offset: 0,
        source: tree::Error::BadDevice { path: shown(&place.path), major, minor },
    })
}

/// The attributes of a name, which is not followed when it is a symbolic link. There is no system call that
/// takes a directory and a name, but `/proc` has a path for every descriptor.
fn read_xattrs(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<Xattr>, Errno> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let list = match grow(|buf| rustix::fs::llistxattr(&path, buf)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut xattrs = Vec::new();
    for name in list.split(|&b| b == 0).filter(|n| !n.is_empty()) {
        match grow(|buf| rustix::fs::lgetxattr(&path, name, buf)) {
            Ok(value) => xattrs.push(Xattr { name: name.to_vec(), value }),
            // Some names are listed and belong to the filesystem, not to the file.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(xattrs)
}

/// Calls with a growing buffer until the answer fits: 64 KiB is the most there can be.
fn grow(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0; 256];
    loop {
        match call(&mut buf) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(Errno::RANGE) if buf.len() < 1 << 17 => buf.resize(buf.len() * 8, 0),
            Err(e) => return Err(e),
        }
    }
}
