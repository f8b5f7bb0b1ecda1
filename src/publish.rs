//! A file that appears whole or not at all.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// An output file without a name. When it is dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Unnamed {
    file: File,
    dir: OwnedFd,
    path: PathBuf,
}

impl Unnamed {
    /// A file that will be called `path`. Its directory must be there.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let what = || format!("creating {}", path.display());
        if path.file_name().is_none() || path.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory)).with_context(what);
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, parent, flags, Mode::empty())
            .map_err(io::Error::from)
            .with_context(what)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, c".", flags, Mode::from_raw_mode(0o644))
            .map_err(|e| match e {
                Errno::OPNOTSUPP | Errno::ISDIR => io::Error::other(
                    "this filesystem cannot hold a file without a name (O_TMPFILE); write to another one and copy",
                ),
                e => e.into(),
            })
            .with_context(what)?;
        Ok(Self { file: file.into(), dir, path: path.to_owned() })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// A directory on the same filesystem.
    pub(crate) fn dir(&self) -> io::Result<OwnedFd> {
        self.dir.try_clone()
    }

    /// Gives the file its name: data synced, then named, then the directory synced. Another file of that
    /// name is replaced.
    pub(crate) fn publish(self) -> anyhow::Result<()> {
        self.name().with_context(|| format!("publishing {}", self.path.display()))
    }

    fn name(&self) -> io::Result<()> {
        self.file.sync_all()?;
        let Some(name) = self.path.file_name() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // A link cannot replace a name, so a short-lived second name does. The process id keeps two of us apart.
        let mut second = std::ffi::OsString::from(format!(".erolith-{}-", std::process::id()));
        second.push(name);
        let proc = format!("/proc/self/fd/{}", self.file.as_fd().as_raw_fd());
        match rustix::fs::linkat(CWD, proc.as_str(), &self.dir, &second, AtFlags::SYMLINK_FOLLOW) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&self.dir, &second, AtFlags::empty())?;
                rustix::fs::linkat(CWD, proc, &self.dir, &second, AtFlags::SYMLINK_FOLLOW)?;
            }
            other => other?,
        }
        if let Err(error) = rustix::fs::renameat(&self.dir, &second, &self.dir, name) {
            let _ = rustix::fs::unlinkat(&self.dir, &second, AtFlags::empty());
            return Err(error.into());
        }
        Ok(rustix::fs::fsync(&self.dir)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_appears_with_its_content_and_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for content in ["one", "two"] {
            let pending = Unnamed::create(&path).unwrap();
            pending.file().write_all(content.as_bytes()).unwrap();
            pending.publish().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        drop(Unnamed::create(&path).unwrap());
        let names: Vec<_> = std::fs::read_dir(&dir).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }
}
