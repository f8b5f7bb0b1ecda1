//! Opening what stacks are made of.

use std::path::Path;
use std::sync::Arc;

use erolith_mkfs::overlay::Layer;
use rustix::fs::{CWD, Mode, OFlags};

use crate::{Error, Result};

/// The directory at `path` as a layer.
///
/// # Errors
/// When it cannot be opened, or is none.
pub fn directory(path: &Path) -> Result<Arc<Layer>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, path, flags, Mode::empty());
    let failed = Error::io(format!("opening directory {}", path.display()));
    Ok(Layer::dir(dir.map_err(|errno| failed(errno.into()))?))
}
