//! A file that never gets a name.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use erolith_durable::scratch;
use rustix::fs::{CWD, Mode, OFlags};

use super::Staging;
use crate::{Error, Result};

/// A file without a name: when it is closed, nothing is left of it.
#[derive(Debug)]
pub(crate) struct ScratchFile {
    file: File,
    dir: OwnedFd,
}

impl ScratchFile {
    /// An empty one on the filesystem of the directory `dir`.
    ///
    /// # Errors
    /// When there is no such directory, or no such files (`O_TMPFILE`) on its filesystem.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let failed = || Error::io(format!("making a scratch file in {}", dir.display()));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, dir, flags, Mode::empty());
        let opened = opened.map_err(|e| failed()(e.into()))?;
        let file = scratch(&opened).map_err(|e| failed()(e.into()))?;
        Ok(Self { file, dir: opened })
    }

    /// The file, open for reading and writing.
    pub(crate) fn into_file(self) -> File {
        self.file
    }
}

impl Staging for ScratchFile {
    fn file(&self) -> &File {
        &self.file
    }

    fn scratch_dir(&self) -> Result<OwnedFd> {
        self.dir.try_clone().map_err(Error::io("duplicating a descriptor"))
    }
}
