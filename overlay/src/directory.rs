//! A directory of the host, entered through an open descriptor and never left: no symbolic link is followed, however
//! the tree changes while it is read.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::Error;
use erolith_mkfs::format::FileType;
use erolith_mkfs::meta::{Meta, Time, Xattr};
use erolith_mkfs::names;
use erolith_mkfs::names::shown;

/// Longer than the ticks of any kernel: `CONFIG_HZ` is 100 at least.
const LONGEST_TICK: Duration = Duration::from_millis(20);

/// A directory that is still to be read. Its descriptor is opened then: a tree may have more directories
/// than a process may have descriptors.
struct Pending<T> {
    /// What was said of it.
    token: T,
    /// Relative to the root, without a slash at either end; empty for the root.
    path: Vec<u8>,
    /// Device and inode.
    id: (u64, u64),
}

/// Shows `visit` the root and everything below it: each directory before what is in it, the names of a directory
/// together and in the order of their bytes. `visit` gets what it said of the directory that a name is in, and says
/// something of a directory that is to be entered.
///
/// # Errors
/// What `visit` says, and [`Error::Input`].
pub fn walk<T, E: From<Error>>(
    root: BorrowedFd<'_>,
    mut visit: impl FnMut(Option<&T>, &HostEntry<'_>) -> Result<Option<T>, E>,
) -> Result<(), E> {
    let found = HostEntry::look(root, c".", &[])?;
    let id = found.id();
    let root_dir = visit(None, &found)?.map(|token| Pending { token, path: Vec::new(), id });
    let mut todo = Vec::from_iter(root_dir);
    while let Some(Pending { token, path, id }) = todo.pop() {
        let dir = open_dir(root, &path, Some(id))?;
        let first = todo.len();
        for name in sorted_names(&dir).map_err(|e| failed(&path, e))? {
            let path = names::join(&path, name.to_bytes());
            let found = HostEntry::look(dir.as_fd(), &name, &path)?;
            let id = found.id();
            if let Some(token) = visit(Some(&token), &found)? {
                todo.push(Pending { token, path, id });
            }
        }
        if let Some(added) = todo.get_mut(first..) {
            added.reverse();
        }
    }
    Ok(())
}

/// An inode of the host, as it was when it was looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    stat: Stat,
    file_type: FileType,
}

impl Seen {
    /// What has the name `name`, which leads to `path` from the root, in an open directory; nothing if nothing has it.
    pub(crate) fn at(dir: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Option<Self>, Error> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.map_err(|e| failed(path, e))?,
        };
        let mode = u16::try_from(stat.st_mode).unwrap_or_default();
        let file_type = FileType::from_mode(mode).ok_or_else(|| failed(path, Errno::INVAL))?;
        Ok(Some(Self { stat, file_type }))
    }

    pub(crate) fn file_type(&self) -> FileType {
        self.file_type
    }

    /// Device and number of the inode.
    pub(crate) fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// How many names the inode has.
    #[allow(clippy::useless_conversion, reason = "32 bits on aarch64")]
    pub(crate) fn links(&self) -> u64 {
        self.stat.st_nlink.into()
    }

    /// Owner, permissions and time.
    pub(crate) fn meta(&self) -> Meta {
        let stat = &self.stat;
        Meta {
            mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Time {
                sec: stat.st_mtime,
                nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
        }
    }

    /// Bytes of a regular file.
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    /// Major and minor number of a device.
    pub(crate) fn rdev(&self) -> (u32, u32) {
        (rustix::fs::major(self.stat.st_rdev), rustix::fs::minor(self.stat.st_rdev))
    }

    /// Waits until a change would show. Before Linux 6.13 (multigrain timestamps) filesystems take their times from a clock
    /// that stands still between two ticks of the kernel's timer: what is written in the tick in which it was looked at
    /// leaves the times that were seen. One that is further ahead than a tick comes from a clock that was set back since.
    fn wait_until_past(&self) {
        // Nanoseconds have a sign or not.
        let seen = (self.stat.st_ctime, i128::from(self.stat.st_ctime_nsec));
        for _ in 0..LONGEST_TICK.as_millis() {
            let now = clock_gettime(ClockId::RealtimeCoarse);
            if (now.tv_sec, i128::from(now.tv_nsec)) > seen {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A name met on a [`walk`], and its inode as it was then.
#[derive(Debug)]
pub struct HostEntry<'a> {
    dir: BorrowedFd<'a>,
    name: &'a CStr,
    path: &'a [u8],
    seen: Seen,
}

impl<'a> HostEntry<'a> {
    fn look(dir: BorrowedFd<'a>, name: &'a CStr, path: &'a [u8]) -> Result<Self, Error> {
        let seen = Seen::at(dir, name, path)?.ok_or_else(|| failed(path, Errno::NOENT))?;
        Ok(Self { dir, name, path, seen })
    }

    /// What was seen before under this name.
    pub(crate) fn known(dir: BorrowedFd<'a>, name: &'a CStr, path: &'a [u8], seen: Seen) -> Self {
        Self { dir, name, path, seen }
    }

    /// The path from the root, without a slash at either end; empty for the root.
    #[must_use]
    pub fn path(&self) -> &'a [u8] {
        self.path
    }

    /// The last component of the path; `.` for the root.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        self.name.to_bytes()
    }

    /// What it is.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        self.seen.file_type()
    }

    /// Device and number of the inode.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        self.seen.id()
    }

    /// Whether the inode has other names. Those of a directory do not count.
    #[must_use]
    pub fn has_other_names(&self) -> bool {
        self.seen.links() > 1 && self.file_type() != FileType::Directory
    }

    /// Owner, permissions and time.
    #[must_use]
    pub fn meta(&self) -> Meta {
        self.seen.meta()
    }

    /// Bytes of a regular file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.seen.size()
    }

    /// Major and minor number of a device.
    #[must_use]
    pub fn rdev(&self) -> (u32, u32) {
        self.seen.rdev()
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::Input`].
    pub fn read_link(&self) -> Result<Vec<u8>, Error> {
        let target = rustix::fs::readlinkat(self.dir, self.name, Vec::new());
        Ok(target.map_err(|e| failed(self.path, e))?.into_bytes())
    }

    /// Extended attributes, in the order of the filesystem.
    ///
    /// # Errors
    /// [`Error::Input`].
    pub fn xattrs(&self) -> Result<Vec<Xattr>, Error> {
        read_xattrs(self.dir, self.name).map_err(|e| failed(self.path, e))
    }

    /// Opens a regular file for reading. Nothing else is ever opened: opening a device or a FIFO does something.
    ///
    /// # Errors
    /// [`Error::Changed`] when there is another inode by now, and [`Error::Input`].
    pub fn open(&self) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.dir, self.name, flags, Mode::empty())
            .map_err(|e| failed(self.path, e))?;
        self.seen.wait_until_past();
        self.verify_unchanged(&file)?;
        Ok(file)
    }

    /// Makes sure that `file` is still what the walk met: what was read of it is then of one state.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub fn verify_unchanged(&self, file: &OwnedFd) -> Result<(), Error> {
        let now = rustix::fs::fstat(file).map_err(|e| failed(self.path, e))?;
        // The change time cannot be set back, as the modification time can.
        let state = |s: &Stat| {
            (
                s.st_dev,
                s.st_ino,
                s.st_size,
                [s.st_mtime, s.st_ctime],
                [s.st_mtime_nsec, s.st_ctime_nsec],
            )
        };
        if state(&now) == state(&self.seen.stat) { Ok(()) } else { Err(self.changed()) }
    }

    /// The error that says that it is not what it was.
    #[must_use]
    pub fn changed(&self) -> Error {
        Error::Changed { what: shown(self.path) }
    }

    /// The error that says that reading it failed.
    #[must_use]
    pub fn failed(&self, source: impl Into<io::Error>) -> Error {
        failed(self.path, source)
    }
}

pub(crate) fn failed(path: &[u8], source: impl Into<io::Error>) -> Error {
    let path = if path.is_empty() { b"." } else { path };
    Error::Input { what: shown(path), source: source.into() }
}

/// Opens a directory below `root` without following any symbolic link on the way. It must be the inode `id`, if that is
/// known.
pub(crate) fn open_dir(
    root: BorrowedFd<'_>,
    path: &[u8],
    id: Option<(u64, u64)>,
) -> Result<OwnedFd, Error> {
    let fail = |e: Errno| failed(path, e);
    let at = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let dir = rustix::fs::openat2(root, at, flags, Mode::empty(), resolve).map_err(fail)?;
    let stat = rustix::fs::fstat(&dir).map_err(fail)?;
    if id.is_some_and(|id| id != (stat.st_dev, stat.st_ino)) {
        return Err(Error::Changed { what: shown(path) });
    }
    Ok(dir)
}

pub(crate) fn sorted_names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
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
