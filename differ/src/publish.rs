//! A file that appears whole, durable and under its name, or not at all.
//!
//! [`Unnamed`] is written without a name (`O_TMPFILE`), so that a process that dies leaves nothing. [`PublishTarget`] gives a file its
//! name: data synced, sealed if somebody wants that, named, directory synced.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use erolith_mkfs::fsverity::Digest;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::content::Staging;
use crate::fault;
use crate::flusher::Flusher;
use crate::{Error, Result};

/// What the short-lived second name of a file that replaces another begins with.
const SECOND: &str = ".erolith-new-";

/// The short-lived second name of a file that replaces another called `name`. A process that was killed may leave it.
#[must_use]
pub fn second_name(name: &OsStr) -> OsString {
    let mut second = OsString::from(SECOND);
    second.push(name);
    second
}

/// Permissions of an output that everybody may read.
pub const READABLE: u32 = 0o644;

/// Whether a power cut may take back what was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// It may not: data and directory are synced.
    #[default]
    Durable,
    /// It may: for what is thrown away, or synced by the caller.
    Skipped,
}

/// Why a file could not be sealed, by whoever seals.
pub type SealError = Box<dyn std::error::Error + Send + std::marker::Sync>;

/// What seals a file that is complete and has no name yet, so that nobody changes it unnoticed later.
///
/// What a seal is, this crate does not know: whoever keeps images has one.
pub trait FileProtector: fmt::Debug + Send + std::marker::Sync {
    /// Seals `file`, which nobody writes to any more and which will be called `path`. What is given back is open on the
    /// same file, and becomes what gets the name. With [`Sync::Durable`] the bytes are synced on the way; whatever the
    /// seal adds to the file is synced by the caller. `digest` is the fs-verity digest of the file, if that is known already.
    ///
    /// # Errors
    /// What keeps the file from being sealed, or its bytes from the disk. The file is thrown away then, and has to be
    /// made again from its source.
    fn seal(
        &self,
        file: File,
        path: &Path,
        sync: Sync,
        digest: Option<Digest>,
    ) -> std::result::Result<File, SealError>;

    /// Is the digest better known before [`FileProtector::seal`], which computes one otherwise?
    fn wants_digest(&self) -> bool;

    /// Does what the seal added to the file reach the disk only when the whole filesystem is synced, and the file has a
    /// name then? It gets a second one for that.
    ///
    /// # Errors
    /// What the storage reports.
    fn needs_syncfs(&self, file: &File, path: &Path) -> std::result::Result<bool, SealError>;
}

/// A name that a file is to have: a directory, held open, and a name in it.
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

    /// Gives `file` the name, in the place of another that has it. On return that survives a power cut.
    ///
    /// # Errors
    /// What the storage reports. Then the file does not have the name; another may have lost it.
    pub fn publish(&self, file: &File, sync: Sync) -> Result<()> {
        self.publish_settled(file, sync, false)
    }

    /// As [`PublishTarget::publish`], with a sync of the whole filesystem while the file has a second name.
    fn publish_settled(&self, file: &File, sync: Sync, needs_syncfs: bool) -> Result<()> {
        let named = self.name(file, sync, needs_syncfs);
        named.map_err(Error::io(format!("publishing {}", self.path.display())))
    }

    fn name(&self, file: &File, sync: Sync, needs_syncfs: bool) -> io::Result<()> {
        let Some(name) = self.path.file_name() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        fault::point("output.before_sync")?;
        if sync == Sync::Durable {
            file.sync_all()?;
        }
        fault::point("output.after_sync")?;
        self.link(file, name, needs_syncfs)?;
        let durable = self.settle(sync);
        if durable.is_err() {
            // After a failure there must be no file.
            let _ = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty());
        }
        durable
    }

    /// Makes the name durable.
    fn settle(&self, sync: Sync) -> io::Result<()> {
        fault::point("output.after_name")?;
        if sync == Sync::Durable {
            rustix::fs::fsync(&self.dir)?;
        }
        fault::point("output.after_dir_sync")
    }

    /// Links the file to its name. Linking cannot replace a name, so that takes a short-lived second one, as does a sync of
    /// the filesystem before the name is there; the lock keeps others who publish in this directory away from it.
    fn link(&self, file: &File, name: &OsStr, needs_syncfs: bool) -> io::Result<()> {
        fault::point("output.before_name")?;
        let link = |name: &OsStr| {
            let proc = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::linkat(CWD, proc, &self.dir, name, AtFlags::SYMLINK_FOLLOW)
        };
        if !needs_syncfs {
            match link(name) {
                Err(Errno::EXIST) => {}
                other => return Ok(other?),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&self.dir, c".", flags, Mode::empty())?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let second = second_name(name);
        let remove = || rustix::fs::unlinkat(&self.dir, &second, AtFlags::empty());
        match remove() {
            // A process died here.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        link(&second)?;
        let settled = if needs_syncfs { rustix::fs::syncfs(file) } else { Ok(()) };
        let renamed = fault::point("output.after_link")
            .and_then(|()| Ok(settled?))
            .and_then(|()| Ok(rustix::fs::renameat(&self.dir, &second, &self.dir, name)?));
        // It is still there after a failure, and when both are names of one file: then renaming does nothing.
        let _ = remove();
        renamed
    }
}

/// An output file without a name. When it is dropped, nothing is left of it.
#[derive(Debug)]
pub struct Unnamed {
    file: File,
    place: PublishTarget,
    flusher: Option<Flusher>,
}

impl Unnamed {
    /// An empty file that will be called `path`, with these permissions less the umask.
    ///
    /// # Errors
    /// As [`PublishTarget::new`], and when the filesystem has no files without names (`O_TMPFILE`).
    pub fn create(path: &Path, mode: u32) -> Result<Self> {
        let failed = || Error::io(format!("creating {}", path.display()));
        fault::point("output.before_create").map_err(failed())?;
        let place = PublishTarget::new(path)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&place.dir, c".", flags, Mode::from_raw_mode(mode));
        let file = file.map_err(|e| match e {
            Errno::OPNOTSUPP | Errno::ISDIR => failed()(io::Error::other(
                "this filesystem cannot hold a file without a name (O_TMPFILE); use another one",
            )),
            e => failed()(e.into()),
        })?;
        fault::point("output.after_create").map_err(failed())?;
        Ok(Self { file: file.into(), place, flusher: None })
    }

    /// Has the disk work while the file is written, so that publishing it takes less time.
    #[must_use]
    pub fn written_back(self) -> Self {
        Self { flusher: Some(Flusher::start(&self.file)), ..self }
    }

    /// Gives the file its name: data synced, then named, then the directory synced. Another file of that name is
    /// replaced.
    ///
    /// # Errors
    /// What the storage reports. Then the file does not have the name.
    pub fn publish(self, sync: Sync) -> Result<()> {
        self.publish_sealed(sync, None, None)
    }

    /// As [`Unnamed::publish`], and sealed before it gets its name. `digest` is its fs-verity digest, if that is known.
    ///
    /// # Errors
    /// What the storage reports, and [`Error::Seal`]. Then the file does not have the name.
    pub fn publish_sealed(
        self,
        sync: Sync,
        seal: Option<&dyn FileProtector>,
        digest: Option<Digest>,
    ) -> Result<()> {
        let Self { file, place, flusher } = self;
        // It has a descriptor, which is open for writing.
        drop(flusher);
        let Some(seal) = seal else { return place.publish(&file, sync) };
        let path = &place.path;
        let failed = |source| Error::Seal { path: path.display().to_string(), source };
        let file = seal.seal(file, path, sync, digest).map_err(failed)?;
        let is_durable = sync == Sync::Durable;
        let needs_syncfs = is_durable && seal.needs_syncfs(&file, path).map_err(failed)?;
        place.publish_settled(&file, sync, needs_syncfs)
    }
}

impl Staging for Unnamed {
    fn file(&self) -> &File {
        &self.file
    }

    fn scratch_dir(&self) -> Result<OwnedFd> {
        self.place.dir.try_clone().map_err(Error::io("duplicating a descriptor"))
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
            let pending = Unnamed::create(&path, 0o644).unwrap();
            pending.file().write_all(content.as_bytes()).unwrap();
            pending.publish(Sync::Durable).unwrap();
            assert_eq!(read_to_string(&path).unwrap(), content);
        }
        drop(Unnamed::create(&path, 0o644).unwrap());
        assert_eq!(names(dir.path()), ["out"]);
    }

    /// Puts a word behind the content, or fails. The other one: is it beyond fsync(2)?
    #[derive(Debug)]
    struct Word(Option<&'static str>, bool);

    impl FileProtector for Word {
        fn seal(
            &self,
            file: File,
            path: &Path,
            sync: Sync,
            _: Option<Digest>,
        ) -> std::result::Result<File, SealError> {
            assert!(!path.exists() && sync == Sync::Durable);
            (&file).write_all(self.0.ok_or("no word")?.as_bytes())?;
            Ok(file)
        }

        fn wants_digest(&self) -> bool {
            false
        }

        fn needs_syncfs(&self, _: &File, _: &Path) -> std::result::Result<bool, SealError> {
            Ok(self.1)
        }
    }

    #[test]
    fn a_file_is_sealed_before_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let publish = |word, needs_syncfs| {
            let pending = Unnamed::create(&path, 0o644).unwrap();
            pending.file().write_all(b"content").unwrap();
            pending.publish_sealed(Sync::Durable, Some(&Word(word, needs_syncfs)), None)
        };
        let error = publish(None, false).unwrap_err();
        assert_eq!(error.code(), "seal");
        assert!(error.to_string().contains("no word"), "{error}");
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
        let pending = Unnamed::create(&path, 0o644).unwrap();
        pending.file().write_all(b"new").unwrap();
        pending.publish(Sync::Skipped).unwrap();
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
        PublishTarget::new(&path).unwrap().publish(&file, Sync::Durable).unwrap();
        assert_eq!(names(dir.path()), ["blob", "out"]);
        assert_eq!(read_to_string(&path).unwrap(), "content");
    }

    #[test]
    fn a_directory_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let error = Unnamed::create(dir.path(), 0o644).unwrap_err();
        assert_eq!(error.code(), "io");
        assert!(Unnamed::create(&dir.path().join("no/such"), 0o644).is_err());
    }
}
