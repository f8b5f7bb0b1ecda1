//! A file that appears whole, durable and under its name, or not at all.
//!
//! The order is: data synced, then named, then the directory synced. A [`Tmpfile`] has no name (`O_TMPFILE`), so that a process that
//! dies leaves nothing, or it is a draft with a name in a directory that is swept. [`Tmpfile::sync`] gives a [`Synced`], and
//! [`Synced::name`] a [`Named`], which [`Named::settle`] makes durable. None of the steps can be left out by accident:
//! each takes the result of the one before.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::fault;

/// Whether a power cut may take back what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It may not: data and directory are synced.
    #[default]
    Synced,
    /// It may: for what is thrown away, or synced by the caller.
    Unsynced,
}

impl Durability {
    /// The one of a setting that says whether files are synced.
    #[must_use]
    pub fn of(is_synced: bool) -> Self {
        if is_synced { Self::Synced } else { Self::Unsynced }
    }
}

/// The short-lived second name of a file that replaces another called `name`. A process that was killed may leave it.
#[must_use]
pub fn second_name(name: &OsStr) -> OsString {
    let mut second = OsString::from(".erolith-new-");
    second.push(name);
    second
}

fn unnamed(dir: impl AsFd, permissions: u32) -> Result<File, Errno> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(dir, c".", flags, Mode::from_raw_mode(permissions)).map(File::from)
}

/// A file on the filesystem of `dir` that never gets a name, open for reading and writing, and gone when it is closed.
///
/// # Errors
/// What the kernel answers; on a filesystem without such files mostly EOPNOTSUPP.
pub fn scratch(dir: impl AsFd) -> Result<File, Errno> {
    unnamed(dir, 0o600)
}

/// The name of a file in a staging directory, which is removed when the file is not published.
#[derive(Debug)]
struct Draft {
    dir: OwnedFd,
    name: OsString,
    keep: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.keep {
            // The next sweep of the directory removes it if this fails.
            let _ = rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
        }
    }
}

/// A file that is being written and that no reader finds.
#[derive(Debug)]
pub struct Tmpfile {
    file: File,
    draft: Option<Draft>,
    /// The family of its fault points, if it has any.
    points: Option<&'static str>,
}

impl Tmpfile {
    /// An empty file without a name on the filesystem of `dir`, with these permissions less the umask. Its steps are the fault
    /// points of the family `points`.
    ///
    /// # Errors
    /// What the kernel answers. A filesystem that has no such files is named in the text of [`io::ErrorKind::Other`].
    pub fn create(
        dir: impl AsFd,
        permissions: u32,
        points: Option<&'static str>,
    ) -> io::Result<Self> {
        fault::step(points, "before_create")?;
        let file = unnamed(dir, permissions).map_err(|errno| match errno {
            Errno::OPNOTSUPP | Errno::ISDIR => io::Error::other(
                "this filesystem cannot hold a file without a name (O_TMPFILE); use another one",
            ),
            errno => errno.into(),
        })?;
        fault::step(points, "after_create")?;
        Ok(Self { file, draft: None, points })
    }

    /// A file that is called `name` in the staging directory `dir` while it is written. Publishing renames it; otherwise the name is
    /// removed with the value, unless it is kept.
    #[must_use]
    pub fn draft(file: File, dir: OwnedFd, name: &OsStr, points: &'static str) -> Self {
        let draft = Draft { dir, name: name.to_owned(), keep: false };
        Self { file, draft: Some(draft), points: Some(points) }
    }

    /// Has a draft keep its name when it is not published, so that it can be resumed.
    pub fn keep_draft(&mut self) {
        if let Some(draft) = &mut self.draft {
            draft.keep = true;
        }
    }

    /// A complete file that has a name elsewhere on the filesystem, to be linked to another one.
    #[must_use]
    pub fn linked(file: File, points: Option<&'static str>) -> Self {
        Self { file, draft: None, points }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The same file after `protect`, which may give back another descriptor of it, such as a read-only one.
    ///
    /// # Errors
    /// Those of `protect`. The file is gone then.
    pub fn protected<E>(self, protect: impl FnOnce(File) -> Result<File, E>) -> Result<Self, E> {
        let Self { file, draft, points } = self;
        Ok(Self { file: protect(file)?, draft, points })
    }

    /// Syncs data and attributes.
    ///
    /// # Errors
    /// What the storage reports. The file is gone then: what reached the disk is unknown.
    pub fn sync(self, durability: Durability) -> io::Result<Synced> {
        let Self { file, draft, points } = self;
        fault::step(points, "before_sync")?;
        if durability == Durability::Synced {
            file.sync_all()?;
        }
        fault::step(points, "after_sync")?;
        Ok(Synced { file, draft, points, durability, needs_syncfs: false })
    }
}

/// A file that is complete and synced, and does not have its name yet.
#[derive(Debug)]
#[must_use = "the file has no name"]
pub struct Synced {
    file: File,
    draft: Option<Draft>,
    points: Option<&'static str>,
    durability: Durability,
    needs_syncfs: bool,
}

impl Synced {
    /// Has the whole filesystem synced while the file has a second name and not yet its own. btrfs writes the Merkle tree of
    /// fs-verity only then: its log for fsync(2) holds the flag of the file and not the tree, and replay of the log takes
    /// the tree from a file that had no name.
    pub fn needs_syncfs(self, needs_syncfs: bool) -> Self {
        Self { needs_syncfs, ..self }
    }

    /// Gives the file this name in `dir`, in the place of another that has it.
    ///
    /// # Errors
    /// What the storage reports. Then the file does not have the name.
    pub fn name(self, dir: impl AsFd, name: &OsStr) -> io::Result<Named> {
        self.name_under(dir, name, Lock::Wanted)
    }

    /// As [`Synced::name`], for a caller that keeps others from publishing in `dir`, for instance by its lock.
    ///
    /// # Errors
    /// As [`Synced::name`].
    pub fn name_exclusively(self, dir: impl AsFd, name: &OsStr) -> io::Result<Named> {
        self.name_under(dir, name, Lock::Held)
    }

    fn name_under(mut self, dir: impl AsFd, name: &OsStr, lock: Lock) -> io::Result<Named> {
        let dir = dir.as_fd();
        fault::step(self.points, "before_name")?;
        let own_dir = dir.try_clone_to_owned()?;
        let linked = match &mut self.draft {
            Some(draft) => {
                rustix::fs::renameat(&draft.dir, &draft.name, dir, name)?;
                draft.keep = true;
                None
            }
            None => {
                self.link(dir, name, lock)?;
                Some(name.to_owned())
            }
        };
        let Self { file, points, durability, .. } = self;
        Ok(Named { file, dir: own_dir, linked, points, durability })
    }

    /// Links the file to its name. Linking cannot replace a name, so that takes a short-lived second one, as does a sync of the
    /// filesystem before the name is there. A lock of the directory keeps others that publish in it away from the second name.
    fn link(&self, dir: BorrowedFd<'_>, name: &OsStr, lock: Lock) -> io::Result<()> {
        let link = |name: &OsStr| {
            let proc = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            rustix::fs::linkat(CWD, proc, dir, name, AtFlags::SYMLINK_FOLLOW)
        };
        if !self.needs_syncfs {
            match link(name) {
                Err(Errno::EXIST) => {}
                other => return Ok(other?),
            }
        }
        let _lock = lock.take(dir)?;
        let second = second_name(name);
        let remove = || rustix::fs::unlinkat(dir, &second, AtFlags::empty());
        match remove() {
            // A process died here.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        link(&second)?;
        let settled = if self.needs_syncfs { rustix::fs::syncfs(&self.file) } else { Ok(()) };
        let renamed = fault::step(self.points, "after_link")
            .and_then(|()| Ok(settled?))
            .and_then(|()| Ok(rustix::fs::renameat(dir, &second, dir, name)?));
        // It is still there after a failure, and when both are names of one file: then renaming does nothing.
        let _ = remove();
        renamed
    }
}

/// How the second name in a directory is kept to one process at a time.
#[derive(Debug, Clone, Copy)]
enum Lock {
    /// By an exclusive flock(2) of the directory.
    Wanted,
    /// By the caller.
    Held,
}

impl Lock {
    fn take(self, dir: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
        let Self::Wanted = self else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Some(lock))
    }
}

/// A file that has its name, which a power cut may still take.
#[derive(Debug)]
#[must_use = "the name is not durable"]
pub struct Named {
    file: File,
    /// The directory of the name.
    dir: OwnedFd,
    /// The name, where the file was linked.
    linked: Option<OsString>,
    points: Option<&'static str>,
    durability: Durability,
}

impl Named {
    /// Makes the name durable by a sync of its directory, then of `parents` in that order, for names of directories that
    /// may be new too. Returns the file.
    ///
    /// # Errors
    /// What the storage reports. A file that was linked has lost its name then.
    pub fn settle(self, parents: &[BorrowedFd<'_>]) -> io::Result<File> {
        let settled = self.sync_dirs(parents);
        if let (Err(_), Some(name)) = (&settled, &self.linked) {
            // After a failure there must be no file.
            let _ = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty());
        }
        settled.map(|()| self.file)
    }

    fn sync_dirs(&self, parents: &[BorrowedFd<'_>]) -> io::Result<()> {
        fault::step(self.points, "after_name")?;
        if self.durability == Durability::Synced {
            rustix::fs::fsync(&self.dir)?;
            for dir in parents {
                rustix::fs::fsync(dir)?;
            }
        }
        fault::step(self.points, "after_dir_sync")
    }

    /// The file, whose directory the caller syncs together with other names.
    pub fn unsettled(self) -> File {
        self.file
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{hard_link, read_dir, read_to_string};
    use std::io::Write as _;
    use std::path::Path;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let mut names: Vec<_> = read_dir(dir).unwrap().map(name).collect();
        names.sort();
        names
    }

    fn tmpfile(dir: &File, content: &str) -> Tmpfile {
        let tmpfile = Tmpfile::create(dir, 0o644, Some("output")).unwrap();
        tmpfile.file().write_all(content.as_bytes()).unwrap();
        tmpfile
    }

    fn publish(tmpfile: Tmpfile, dir: &File, needs_syncfs: bool) {
        let synced = tmpfile.sync(Durability::Synced).unwrap().needs_syncfs(needs_syncfs);
        let named = synced.name(dir, "out".as_ref()).unwrap();
        named.settle(&[]).unwrap();
    }

    #[test]
    fn a_file_appears_with_its_content_and_replaces_another() {
        let place = tempfile::tempdir().unwrap();
        let dir = File::open(place.path()).unwrap();
        for (content, needs_syncfs) in [("one", false), ("two", false), ("three", true)] {
            publish(tmpfile(&dir, content), &dir, needs_syncfs);
            assert_eq!(read_to_string(place.path().join("out")).unwrap(), content);
        }
        drop(tmpfile(&dir, "four"));
        assert_eq!(names(place.path()), ["out"]);
    }

    #[test]
    fn what_a_dead_process_left_does_not_disturb() {
        let place = tempfile::tempdir().unwrap();
        let dir = File::open(place.path()).unwrap();
        for name in ["out", ".erolith-new-out"] {
            File::create(place.path().join(name)).unwrap().write_all(b"old").unwrap();
        }
        let synced = tmpfile(&dir, "new").sync(Durability::Unsynced).unwrap();
        let file = synced.name_exclusively(&dir, "out".as_ref()).unwrap().unsettled();
        assert_eq!(file.metadata().unwrap().len(), 3);
        assert_eq!(read_to_string(place.path().join("out")).unwrap(), "new");
        assert_eq!(names(place.path()), ["out"]);
    }

    #[test]
    fn a_file_may_take_a_name_that_it_has() {
        let place = tempfile::tempdir().unwrap();
        let dir = File::open(place.path()).unwrap();
        let (blob, path) = (place.path().join("blob"), place.path().join("out"));
        File::create(&blob).unwrap().write_all(b"content").unwrap();
        hard_link(&blob, &path).unwrap();
        publish(Tmpfile::linked(File::open(&blob).unwrap(), None), &dir, false);
        assert_eq!(names(place.path()), ["blob", "out"]);
        assert_eq!(read_to_string(&path).unwrap(), "content");
    }

    #[test]
    fn a_draft_is_renamed_removed_or_kept() {
        let place = tempfile::tempdir().unwrap();
        let dir = File::open(place.path()).unwrap();
        let draft = |content: &str| {
            let file = File::create(place.path().join("draft")).unwrap();
            let own = File::open(place.path()).unwrap();
            let draft = Tmpfile::draft(file, own.into(), "draft".as_ref(), "ingest");
            draft.file().write_all(content.as_bytes()).unwrap();
            draft
        };
        for content in ["one", "two"] {
            publish(draft(content), &dir, false);
            assert_eq!(read_to_string(place.path().join("out")).unwrap(), content);
            assert_eq!(names(place.path()), ["out"]);
        }
        drop(draft("three"));
        assert_eq!(names(place.path()), ["out"]);
        draft("four").keep_draft();
        assert_eq!(names(place.path()), ["draft", "out"]);
    }

    #[test]
    fn a_file_that_cannot_be_protected_gets_no_name() {
        let place = tempfile::tempdir().unwrap();
        let dir = File::open(place.path()).unwrap();
        let refused = tmpfile(&dir, "one").protected(|_| Err::<File, _>("no"));
        assert_eq!(refused.unwrap_err(), "no");
        let protected = tmpfile(&dir, "two").protected(|mut file| {
            file.write_all(b", protected")?;
            io::Result::Ok(file)
        });
        publish(protected.unwrap(), &dir, false);
        assert_eq!(read_to_string(place.path().join("out")).unwrap(), "two, protected");
        assert_eq!(names(place.path()), ["out"]);
    }
}
