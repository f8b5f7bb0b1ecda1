//! The few ways in which this crate makes files and directories, with errors that name them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use erolith_durable::{Durability, Named, Tmpfile};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

pub(crate) use crate::error::failed;
use crate::{Error, Result};

/// The path that is `path` with this after its last name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a directory with exactly this mode, whatever the umask of the process.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::mkdir(path, mode).map_err(failed("making directory", path))?;
    rustix::fs::chmod(path, mode).map_err(failed("setting the mode of", path))
}

/// As [`make_dir`], and content with one that is there already.
pub(crate) fn ensure_dir(path: &Path, mode: u32) -> Result<()> {
    match make_dir(path, mode) {
        Err(Error::Storage { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            Ok(())
        }
        other => other,
    }
}

/// Makes an empty file with exactly this mode.
pub(crate) fn make_file(path: &Path, mode: u32) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    let file = rustix::fs::open(path, flags, mode).map_err(failed("making", path))?;
    rustix::fs::fchmod(file, mode).map_err(failed("setting the mode of", path))
}

/// Opens a directory for reading its names and for syncing it.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed("opening directory", path))
}

/// Opens a directory, if there is one.
pub(crate) fn open_dir_if_there(path: &Path) -> Result<Option<OwnedFd>> {
    match stat(path)? {
        Some(_) => open_dir(path).map(Some),
        None => Ok(None),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    rustix::fs::fsync(open_dir(path)?).map_err(failed("syncing directory", path))
}

/// Does `work` while `other`, which waits for a disk, is done by another thread. Both have ended when this returns.
///
/// # Errors
/// Those of `work` before those of `other`, and when there can be no thread.
pub(crate) fn beside<T>(
    other: impl FnOnce() -> Result<()> + Send,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("sync".to_owned());
        let thread = thread.spawn_scoped(scope, other);
        let thread = thread.map_err(|source| {
            let action = "starting a thread that syncs".to_owned();
            Error::Storage { action, source }
        })?;
        let done = work();
        let other = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.and_then(|value| other.map(|()| value))
    })
}

/// Removes a name. Returns whether it was there.
pub(crate) fn unlink(path: &Path) -> Result<bool> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed("removing", path)(errno)),
    }
}

/// What is known of a name, which is not followed when it is a symbolic link; nothing when there is no such name.
pub(crate) fn stat(path: &Path) -> Result<Option<rustix::fs::Stat>> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(failed("examining", path)(errno)),
    }
}

/// The names in a directory, in no order; none when it is not there. Names that are no UTF-8 are not ours and left
/// out.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        other => other.map_err(failed("opening directory", path))?,
    };
    let entries = rustix::fs::Dir::read_from(&fd).map_err(failed("listing", path))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("listing", path))?;
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Has a file with these bytes take the name of `path` in `dir`, which is its directory and in which no other thread
/// publishes that name. The caller settles the name.
pub(crate) fn publish(
    dir: &OwnedFd,
    path: &Path,
    bytes: &[u8],
    permissions: u32,
    durability: Durability,
) -> Result<Named> {
    let name = path.file_name().unwrap_or_default();
    let file = Tmpfile::create(dir, permissions, None).map_err(failed("making", path))?;
    io::Write::write_all(&mut file.file(), bytes).map_err(failed("writing", path))?;
    let synced = file.sync(durability).map_err(failed("syncing", path))?;
    synced.name_exclusively(dir, name).map_err(failed("naming", path))
}

/// Replaces the file at `path` with one that holds `bytes`. Another thread must not do the same.
pub(crate) fn replace(
    path: &Path,
    bytes: &[u8],
    permissions: u32,
    durability: Durability,
) -> Result<()> {
    let dir = open_dir(path.parent().unwrap_or(Path::new(".")))?;
    let named = publish(&dir, path, bytes, permissions, durability)?;
    named.settle(&[]).map_err(failed("syncing the directory of", path)).map(drop)
}
