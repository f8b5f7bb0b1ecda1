//! Opening what stacks are made of.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use erolith_mkfs::marks::{Marks, name};
use erolith_overlay::{FileHandle, FileHandles, INDEX_DIR, IndexDir, Origin, OverlayLayer};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::LayerError;
use crate::sys::handle::Kernel;
use crate::{Error, Result};

/// The directory at `path` as a layer.
///
/// # Errors
/// When it cannot be opened, or is none.
pub fn directory(path: &Path) -> Result<Arc<OverlayLayer>> {
    Ok(OverlayLayer::dir(open(path)?))
}

/// The upper directory at `path` of an overlay as a layer, with the index that is in the work directory `work`. Without
/// that, the index is looked for in the directories beside `path`, as container engines lay them out: the kernel notes in
/// an index of which upper directory it is.
///
/// # Errors
/// When a directory cannot be opened, or is none; [`crate::error::LayerError::ForeignIndex`] for a work directory of another overlay.
pub fn upper(path: &Path, work: Option<&Path>) -> Result<Arc<OverlayLayer>> {
    let upper = open(path)?;
    let index = match work {
        Some(work) => index_in(work, upper.as_fd())?,
        None if marks(&upper, name::ORIGIN).is_empty() => None,
        None => index_beside(path, &upper),
    };
    Ok(OverlayLayer::upper(upper, index.map(indexed)))
}

/// An upper directory that is open, with the index of its work directory, as a layer.
#[must_use]
pub fn opened_upper(upper: OwnedFd, index: Option<OwnedFd>) -> Arc<OverlayLayer> {
    OverlayLayer::upper(upper, index.map(indexed))
}

fn indexed(dir: OwnedFd) -> IndexDir {
    IndexDir { dir, handles: Some(Arc::new(Kernel)) }
}

fn open_at(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

fn open(path: &Path) -> Result<OwnedFd> {
    let failed = Error::io(format!("opening directory {}", path.display()));
    open_at(path).map_err(|errno| failed(errno.into()))
}

/// The index in a work directory; nothing if it has none.
fn index_in(work: &Path, upper: impl AsFd) -> Result<Option<OwnedFd>> {
    // So that one which is not there is no work directory without an index.
    open(work)?;
    let path = work.join(INDEX_DIR);
    let index = match open_at(&path) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(|errno| {
            Error::io(format!("opening directory {}", path.display()))(errno.into())
        })?,
    };
    let failed = Error::io("asking for the file handle of an upper directory".to_owned());
    let handle = Kernel.handle(upper.as_fd(), THIS).map_err(failed)?;
    match is_index_of(&index, &handle) {
        true => Ok(Some(index)),
        false => Err(Error::Layer(LayerError::ForeignIndex { work: work.to_owned() })),
    }
}

/// The index of an upper directory in one of the directories beside it.
fn index_beside(path: &Path, upper: &OwnedFd) -> Option<OwnedFd> {
    let handle = Kernel.handle(upper.as_fd(), THIS).ok()?;
    // Not by the path's text, which may be a link, or end in `.`.
    let beside = std::fs::read_dir(path.join("..")).ok()?.filter_map(io::Result::ok);
    let mut indexes = beside.filter_map(|entry| open_at(&entry.path().join(INDEX_DIR)).ok());
    indexes.find(|index| is_index_of(index, &handle))
}

/// The directory itself.
const THIS: &CStr = c".";

/// Whether an index says that it is that of the upper directory with this handle.
fn is_index_of(index: &OwnedFd, upper: &FileHandle) -> bool {
    let named = marks(index, name::UPPER);
    named.iter().filter_map(|mark| Origin::parse(mark)).any(|origin| origin.handle == *upper)
}

/// The values of a mark that a directory has, by both of its names.
fn marks(dir: &OwnedFd, mark: &[u8]) -> Vec<Vec<u8>> {
    let value = |kind: Marks| {
        let mut value = vec![0; 1024];
        let len = rustix::fs::fgetxattr(dir, kind.attribute(mark), value.as_mut_slice()).ok()?;
        value.truncate(len);
        Some(value)
    };
    Marks::ALL.into_iter().filter_map(value).collect()
}
