//! A file of ours, published at its path by the typestate of `erolith-durable`, protected on the way where that is wanted.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub use erolith_durable::Durability;
use erolith_durable::{Synced, Tmpfile};
use erolith_verity::fsverity::Digest;
use rustix::fs::{CWD, Mode, OFlags};

use crate::content::Staging;
use crate::flusher::Flusher;
use crate::{Error, Result};

/// Permissions of an output that every user may read.
pub const READABLE: u32 = 0o644;

/// The fault points of an output.
const POINTS: Option<&str> = Some("output");

/// Why a file could not be protected.
pub type ProtectError = Box<dyn std::error::Error + Send + Sync>;

/// Protects a file that is complete and has no name yet, so that a later change of it is detected. The mechanism belongs to
/// the owner of the directory; this crate knows none.
pub trait FileProtector: fmt::Debug + Send + Sync {
    /// Protects `file`, which has no writer left and which will be called `path`. The result is open on the same file, and
    /// becomes what gets the name. With [`Durability::Synced`] the bytes are synced on the way; the caller syncs what
    /// the protection adds to the file. `digest` is the fs-verity digest of the file, if that is known already.
    ///
    /// # Errors
    /// What keeps the file from being protected, or its bytes from the disk. The file is thrown away then, and has to be
    /// made again from its source.
    fn protect(
        &self,
        file: File,
        path: &Path,
        durability: Durability,
        digest: Option<Digest>,
    ) -> std::result::Result<File, ProtectError>;

    /// Whether the digest should be known before [`FileProtector::protect`], which computes one otherwise.
    fn wants_digest(&self) -> bool;

    /// Whether what the protection added reaches the disk only when the whole filesystem is synced, while the file has a name:
    /// see [`Synced::needs_syncfs`].
    ///
    /// # Errors
    /// What the storage reports.
    fn needs_syncfs(&self, file: &File, path: &Path) -> std::result::Result<bool, ProtectError>;
}

/// The path that a file is to have, with its directory held open.
#[derive(Debug)]
pub struct PublishTarget {
    dir: OwnedFd,
    path: PathBuf,
}

impl PublishTarget {
    /// The place called `path`. Its directory must be there; the name may be taken by a file, which is replaced.
    ///
    /// # Errors
    /// When the directory cannot be opened, or `path` is a directory itself.
    pub fn new(path: &Path) -> Result<Self> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = || Error::io(format!("creating {}", path.display()));
        if path.file_name().is_none() || path.is_dir() {
            return Err(failed()(io::ErrorKind::IsADirectory.into()));
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, parent, flags, Mode::empty());
        let dir = dir.map_err(|e| failed()(e.into()))?;
        Ok(Self { dir, path: path.to_owned() })
    }

    /// The directory.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Links `file`, which has a name elsewhere on the filesystem, to the path, in the place of another that has it. On return
    /// that survives a power cut.
    ///
    /// # Errors
    /// What the storage reports. Then the file does not have the name; another may have lost it.
    pub fn link(&self, file: File, durability: Durability) -> Result<()> {
        self.publish(Tmpfile::linked(file, POINTS), durability, false)
    }

    fn publish(&self, file: Tmpfile, durability: Durability, needs_syncfs: bool) -> Result<()> {
        let synced = file.sync(durability).map(|synced| synced.needs_syncfs(needs_syncfs));
        let named = synced.and_then(|synced| self.name(synced));
        named.map_err(Error::io(format!("publishing {}", self.path.display())))
    }

    fn name(&self, file: Synced) -> io::Result<()> {
        let name = self.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        file.name(&self.dir, name)?.settle(&[]).map(drop)
    }
}

/// A file that will be published at a path. When it is dropped, nothing is left of it.
#[derive(Debug)]
pub struct OutputFile {
    file: Tmpfile,
    target: PublishTarget,
    flusher: Option<Flusher>,
}

impl OutputFile {
    /// An empty file that will be called `path`, with these permissions less the umask.
    ///
    /// # Errors
    /// As [`PublishTarget::new`], and when the filesystem has no files without names (`O_TMPFILE`).
    pub fn create(path: &Path, permissions: u32) -> Result<Self> {
        let target = PublishTarget::new(path)?;
        let file = Tmpfile::create(&target.dir, permissions, POINTS)
            .map_err(Error::io(format!("creating {}", path.display())))?;
        Ok(Self { file, target, flusher: None })
    }

    /// Has the disk work while the file is written, so that publishing it takes less time.
    #[must_use]
    pub fn written_back(self) -> Self {
        Self { flusher: Some(Flusher::start(self.file.file())), ..self }
    }

    /// Gives the file its name: data synced, then named, then the directory synced. Another file of that name is
    /// replaced.
    ///
    /// # Errors
    /// What the storage reports. Then the file does not have the name.
    pub fn publish(self, durability: Durability) -> Result<()> {
        self.publish_protected(durability, None, None)
    }

    /// As [`OutputFile::publish`], and protected before it gets its name. `digest` is its fs-verity digest, if that is known.
    ///
    /// # Errors
    /// What the storage reports, and [`Error::Seal`]. Then the file does not have the name.
    pub fn publish_protected(
        self,
        durability: Durability,
        protector: Option<&dyn FileProtector>,
        digest: Option<Digest>,
    ) -> Result<()> {
        let Self { file, target, flusher } = self;
        // It has a descriptor, which is open for writing.
        drop(flusher);
        let Some(protector) = protector else { return target.publish(file, durability, false) };
        let path = &target.path;
        let failed = |source| Error::Seal { path: path.display().to_string(), source };
        let protect = |file| protector.protect(file, path, durability, digest);
        let file = file.protected(protect).map_err(failed)?;
        let needs_syncfs = durability == Durability::Synced
            && protector.needs_syncfs(file.file(), path).map_err(failed)?;
        target.publish(file, durability, needs_syncfs)
    }
}

impl Staging for OutputFile {
    fn file(&self) -> &File {
        self.file.file()
    }

    fn scratch_dir(&self) -> Result<OwnedFd> {
        self.target.dir.try_clone().map_err(Error::io("duplicating a descriptor"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{hard_link, read_dir, read_to_string};
    use std::io::Write as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let mut names: Vec<_> = read_dir(dir).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_with_its_content_and_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for content in ["one", "two"] {
            let pending = OutputFile::create(&path, 0o644).unwrap();
            pending.file().write_all(content.as_bytes()).unwrap();
            pending.publish(Durability::Synced).unwrap();
            assert_eq!(read_to_string(&path).unwrap(), content);
        }
        drop(OutputFile::create(&path, 0o644).unwrap());
        assert_eq!(names(dir.path()), ["out"]);
    }

    /// Puts a word behind the content, or fails. The other one: is it beyond fsync(2)?
    #[derive(Debug)]
    struct Word(Option<&'static str>, bool);

    impl FileProtector for Word {
        fn protect(
            &self,
            file: File,
            path: &Path,
            durability: Durability,
            _: Option<Digest>,
        ) -> std::result::Result<File, ProtectError> {
            assert!(!path.exists() && durability == Durability::Synced);
            (&file).write_all(self.0.ok_or("no word")?.as_bytes())?;
            Ok(file)
        }

        fn wants_digest(&self) -> bool {
            false
        }

        fn needs_syncfs(&self, _: &File, _: &Path) -> std::result::Result<bool, ProtectError> {
            Ok(self.1)
        }
    }

    #[test]
    fn a_file_is_sealed_before_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let publish = |word, needs_syncfs| {
            let pending = OutputFile::create(&path, 0o644).unwrap();
            pending.file().write_all(b"content").unwrap();
            pending.publish_protected(Durability::Synced, Some(&Word(word, needs_syncfs)), None)
        };
        let error = publish(None, false).unwrap_err();
        assert_eq!(error.code(), "seal");
        assert!(erolith_errors::error_chain(&error).contains("no word"), "{error}");
        assert!(names(dir.path()).is_empty());
        for needs_syncfs in [false, true] {
            publish(Some(", sealed"), needs_syncfs).unwrap();
            assert_eq!(read_to_string(&path).unwrap(), "content, sealed");
            assert_eq!(names(dir.path()), ["out"]);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_a_dead_process_left_does_not_disturb() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for name in ["out", ".erolith-new-out"] {
            File::create(dir.path().join(name)).unwrap().write_all(b"old").unwrap();
        }
        let pending = OutputFile::create(&path, 0o644).unwrap();
        pending.file().write_all(b"new").unwrap();
        pending.publish(Durability::Unsynced).unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "new");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn a_file_may_take_a_name_that_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let (blob, path) = (dir.path().join("blob"), dir.path().join("out"));
        File::create(&blob).unwrap().write_all(b"content").unwrap();
        hard_link(&blob, &path).unwrap();
        let file = File::open(&blob).unwrap();
        PublishTarget::new(&path).unwrap().link(file, Durability::Synced).unwrap();
        assert_eq!(names(dir.path()), ["blob", "out"]);
        assert_eq!(read_to_string(&path).unwrap(), "content");
    }

    #[test]
    fn a_directory_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let error = OutputFile::create(dir.path(), 0o644).unwrap_err();
        assert_eq!(error.code(), "io");
        assert!(OutputFile::create(&dir.path().join("no/such"), 0o644).is_err());
    }
}
