//! A directory held open, and the only ways in which this crate touches names in it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use erolith_durable::{Named, Synced, scratch};
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags, flock, fstat, fsync, mkdirat,
    openat, openat2, statat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{BudgetError, ContentError};
use crate::{Error, Result};

/// A directory. Names below it are resolved without leaving it and without following any symbolic link.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    /// For messages.
    name: String,
}

const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Dir {
    /// Opens the directory at `path`, a path that the user gave: links in it are followed.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = path.display().to_string();
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| Error::io(format!("opening directory {name}"))(e.into()))?;
        Ok(Self { fd, name })
    }

    /// Opens the directory at `path`, made if need be; its parent must be there.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                Self::open(parent.unwrap_or(Path::new(".")))?.sync()?;
            }
            Err(Errno::EXIST) => {}
            Err(e) => {
                return Err(Error::io(format!("creating directory {}", path.display()))(e.into()));
            }
        }
        Self::open(path)
    }

    /// The directory `name` in this one, made if need be. Its name is durable after [`Dir::sync`] of this one.
    pub(crate) fn create_dir(&self, name: &str) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        loop {
            match mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(self.error("creating", name)(e)),
            }
            match openat2(&self.fd, name, flags, Mode::empty(), CONFINED) {
                Ok(fd) => return Ok(Self { fd, name: format!("{}/{name}", self.name) }),
                // Another process found it empty and removed it just now. A dangling link is another error.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(self.error("opening directory", name)(e)),
            }
        }
    }

    fn error(&self, action: &str, name: &str) -> impl FnOnce(Errno) -> Error {
        let action = format!("{action} {}/{name}", self.name);
        move |errno| Error::Io { action, source: errno.into() }
    }

    /// Opens the plain file at `path` for reading. `None`: there is no such name.
    pub(crate) fn file(&self, path: &str) -> Result<Option<File>> {
        // Not to be held up by a FIFO that lies there in place of a file.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match openat2(&self.fd, path, flags, Mode::empty(), CONFINED) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(Error::Content(ContentError::NotPlain {
                    path: format!("{}/{path}", self.name),
                }));
            }
            Err(e) => return Err(self.error("opening", path)(e)),
        };
        let stat = fstat(&fd).map_err(self.error("examining", path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::Content(ContentError::NotPlain {
                path: format!("{}/{path}", self.name),
            }));
        }
        Ok(Some(File::from(fd)))
    }

    /// The bytes of the plain file at `path`, at most `limit`.
    pub(crate) fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(Error::io(format!("reading {}/{path}", self.name)))?;
        if bytes.len() as u64 > limit {
            return Err(Error::Budget(BudgetError::File { limit }));
        }
        Ok(Some(bytes))
    }

    /// Opens the file `name`, made if need be, and locks it. `None`: another holds the lock.
    ///
    /// Who cleans up locks a file before removing it; so the name is looked at once more when the lock is ours.
    pub(crate) fn locked(&self, name: &str) -> Result<Option<File>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let fd = openat(&self.fd, name, flags, Mode::from_raw_mode(0o644))
                .map_err(self.error("creating", name))?;
            match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(self.error("locking", name)(e)),
            }
            let ours = fstat(&fd).map_err(self.error("examining", name))?;
            match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if there.st_ino == ours.st_ino => return Ok(Some(File::from(fd))),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(e) => return Err(self.error("examining", name)(e)),
            }
        }
    }

    /// Has the file take `name` in this directory, in the place of another.
    pub(crate) fn publish(&self, file: Synced, name: &str) -> Result<Named> {
        let failed = Error::io(format!("publishing {}/{name}", self.name));
        file.name(&self.fd, name.as_ref()).map_err(failed)
    }

    /// Removes the file `name`; no matter if it is gone.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.error("removing", name)(e)),
        }
    }

    /// Removes the directory `name` if it is empty.
    pub(crate) fn remove_empty_dir(&self, name: &str) {
        // Not empty, or gone: both are fine.
        let _ = unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
    }

    /// Makes the names in this directory durable.
    pub(crate) fn sync(&self) -> Result<()> {
        fsync(&self.fd).map_err(self.error("syncing", "."))
    }

    /// Waits for the lock on the directory as a whole, which lasts as long as the result.
    pub(crate) fn lock(&self) -> Result<OwnedFd> {
        let fd = self.reopen()?;
        flock(&fd, FlockOperation::LockExclusive).map_err(self.error("locking", "."))?;
        Ok(fd)
    }

    /// Takes that lock if it is free.
    pub(crate) fn try_lock(&self) -> Result<Option<OwnedFd>> {
        let fd = self.reopen()?;
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(fd)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(self.error("locking", ".")(e)),
        }
    }

    /// Opens the directory once more: locks belong to the open file description.
    fn reopen(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.fd, ".", flags, Mode::empty()).map_err(self.error("opening", "."))
    }

    /// The names in this directory, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let entries = rustix::fs::Dir::read_from(&self.fd).map_err(self.error("listing", "."))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(self.error("listing", "."))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// A second descriptor of this directory.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(Error::io("duplicating a descriptor"))?;
        Ok(Self { fd, name: self.name.clone() })
    }

    /// The descriptor, given away.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Copies `source` to a scratch file on the filesystem of `dir`; it is gone when it is closed.
pub(crate) fn spool(dir: &Dir, source: &mut dyn Read) -> Result<File> {
    let mut file = scratch(dir).map_err(dir.error("creating a temporary file in", "."))?;
    let mut buf = vec![0; 256 * 1024];
    loop {
        let n = match source.read(&mut buf) {
            Ok(0) => return Ok(file),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io("reading the archive")(e)),
        };
        file.write_all(buf.get(..n).unwrap_or_default()).map_err(Error::io("spooling"))?;
    }
}
