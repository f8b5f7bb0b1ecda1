//! Commit: an active snapshot becomes a layer.
//!
//! Normally a differ has written the image, and the database is all there is to change. When another differ filled
//! the upper directory instead, the image is made here, in this process:
//!
//! 1. an image without a name is written, synced and sealed;
//! 2. it gets the name `commit.erofs`;
//! 3. and the name `layer.erofs`; the directory is synced;
//! 4. the database commits: from here on the image is the truth;
//! 5. an empty directory takes the place of the upper directory, which cleanup deletes;
//! 6. the name `commit.erofs` goes.
//!
//! While `commit.erofs` is there and the snapshot is active, the upper directory is the truth: the container may
//! write on, and the next commit starts again.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use erolith_mkfs::build::{Builder, Finish, Options};
use erolith_mkfs::io::FileSink;
use erolith_mkfs::tree::OverlayXattrs;
use rustix::fs::{AtFlags, CWD, FlockOperation};
use rustix::io::Errno;

use super::{Snapshotter, usage};
use crate::fault::point;
use crate::files::{failed, make_dir, open_dir, stat, sync_dir, unlink, unnamed};
use crate::layerdir::{self, CONVERTED, IMAGE, RWLAYER, UPPER, WORK};
use crate::mounts;
use crate::protect::{self, Pin, Protector};
use crate::store::{Content, Kind, Labels, Usage};
use crate::{Error, Result};

/// An image that can be committed.
struct Ready {
    id: u64,
    usage: Usage,
    pin: Option<Pin>,
    /// It was made from the upper directory.
    is_converted: bool,
    /// Locks the directory against another commit of the same snapshot.
    _lock: OwnedFd,
}

impl Ready {
    fn content(&self) -> Content {
        Content { usage: self.usage, pin: self.pin }
    }
}

impl Snapshotter {
    /// Makes the active snapshot `key` the layer `name`. `parent` is empty, the parent it has, or, when it has none,
    /// the one it gets (rebase). The labels are those of the layer; what the snapshot had is forgotten.
    ///
    /// # Errors
    /// Those of containerd's `storage.CommitActive`; [`Error::Truncated`] or [`Error::NotErofs`] for an image that a
    /// differ left unfinished; [`Error::Convert`]. The snapshot is as it was then.
    pub fn commit(&self, name: &str, key: &str, parent: &str, labels: &Labels) -> Result<()> {
        // The transaction says what is wrong, in the right order; but no image is made for one that must fail.
        let ready = match self.store.snapshot(key) {
            Ok(snapshot) if snapshot.kind == Kind::Active && self.store.info(name).is_err() => {
                Some(self.ready(snapshot.id)?)
            }
            _ => None,
        };
        point("commit.before_transaction")?;
        let content = ready.as_ref().map_or_else(Content::default, Ready::content);
        let committed = self.store.commit(name, key, parent, labels, content, &mut |snapshot| {
            let is_same = ready.as_ref().is_some_and(|ready| ready.id == snapshot.id);
            if is_same { Ok(()) } else { Err(Error::Raced { key: key.to_owned() }) }
        });
        let converted = ready.as_ref().filter(|ready| ready.is_converted);
        if let (Err(_), Some(ready)) = (&committed, converted)
            && let Err(error) = layerdir::undo_converted(&self.dir(ready.id))
        {
            tracing::warn!(%error, "an image that was not committed is left for the next commit");
        }
        committed?;
        point("commit.after_transaction")?;
        if let Some(ready) = &ready {
            self.protect_from_hands(ready.id);
        }
        if let Some(ready) = converted
            && let Err(error) = self.finish_commit(ready.id)
        {
            // It is committed all the same; the next start finds `commit.erofs` and does the rest.
            tracing::warn!(%error, "an upper directory is left for the next start");
        }
        Ok(())
    }

    /// The image of an active snapshot, whole and durable.
    fn ready(&self, id: u64) -> Result<Ready> {
        let dir = self.dir(id);
        let lock = open_dir(&dir)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(failed("locking", &dir))?;
        layerdir::undo_converted(&dir)?;
        // A differ may have replaced the image since it was last shown: who stands on the layer gets the one there is.
        self.lowers.forget(id)?;
        let is_converted = stat(&dir.join(IMAGE))?.is_none();
        if is_converted {
            convert(id, &dir, lock.as_fd(), self.open_upper(id)?, self.protector())?;
        }
        let image = dir.join(IMAGE);
        let file = File::open(&image).map_err(failed("opening", &image))?;
        // What another program wrote may be cut off, may be hostile, and may still be only in memory.
        mounts::inspect(&image.display().to_string(), &file, &[])?;
        layerdir::require_checked(&image, &file)?;
        // Before the sync: what it writes to the file is synced with it.
        let is_link = layerdir::is_link(&image)?;
        let pin = if is_link { None } else { self.protector().commit(&file, &image)? };
        if pin.is_some() {
            // It was sealed just now, perhaps, which gives it another time.
            layerdir::mark(&file);
        }
        if !is_converted {
            // What was written beside it is no part of the layer, and nobody can write there any more.
            self.uppers.release(&dir)?;
            unlink(&dir.join(RWLAYER))?;
        }
        if self.config.sync {
            layerdir::sync_sidecar(&image)?;
            rustix::fs::fsync(&file).map_err(failed("syncing", &image))?;
            rustix::fs::fsync(&lock).map_err(failed("syncing", &dir))?;
            // The directory itself was not worth it before it had a layer.
            sync_dir(&self.snapshots)?;
        }
        point("commit.after_dir_sync")?;
        let usage = usage::of_file(&image)?;
        Ok(Ready { id, usage, pin, is_converted, _lock: lock })
    }

    /// Makes the image of a layer immutable, if that is wanted. Where it cannot be, nothing is lost; whoever was killed
    /// before it is followed by a start that does it.
    pub(super) fn protect_from_hands(&self, id: u64) {
        if !self.config.immutable {
            return;
        }
        if let Err(error) = protect::set_immutable(&self.dir(id).join(IMAGE)) {
            tracing::warn!(%error, "an image is not immutable");
        }
    }

    /// Takes the upper directory away from a layer that was made from it. An empty one with the same owner takes its
    /// place in one step, since children take that owner over. May be done twice.
    pub(super) fn finish_commit(&self, id: u64) -> Result<()> {
        let dir = self.dir(id);
        let (uid, gid) = layerdir::owner(&dir)?;
        let aside = self.aside();
        let (upper, empty) = (dir.join(UPPER), aside.join(UPPER));
        make_dir(&aside, 0o700)?;
        make_dir(&empty, 0o755)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chown(&empty, Some(uid), Some(gid))
            .map_err(failed("setting the owner of", &empty))?;
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(CWD, &empty, CWD, &upper, exchange)
            .map_err(failed("setting aside", &upper))?;
        point("commit.after_upper")?;
        for name in [WORK, RWLAYER] {
            match rustix::fs::rename(dir.join(name), aside.join(name)) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("setting aside", &dir.join(name))(errno)),
            }
        }
        point("commit.after_work")?;
        unlink(&dir.join(CONVERTED))?;
        // It has one name now.
        self.protect_from_hands(id);
        Ok(())
    }
}

/// Makes the image of the upper directory, under both of its names.
fn convert(
    id: u64,
    dir: &Path,
    dir_fd: BorrowedFd<'_>,
    upper: OwnedFd,
    protector: Protector,
) -> Result<()> {
    point("commit.before_convert")?;
    // A differ that died may have left one.
    layerdir::remove_sidecar(&dir.join(IMAGE))?;
    let file = unnamed(dir_fd).map_err(failed("making an image in", dir))?;
    build(&file, dir_fd, dir, upper).map_err(|error| match error {
        Fill::Storage(error) => error,
        Fill::Image(source) => Error::Convert { id, source },
    })?;
    point("commit.after_convert")?;
    let file = protector.seal(file, dir, true)?;
    // ext4 gives a file another time when it enables fs-verity.
    layerdir::mark(&file);
    // Always: a name that says "finished" must not stand for bytes that are not there.
    file.sync_all().map_err(failed("syncing an image in", dir))?;
    point("commit.after_sync")?;
    let (converted, image) = (dir.join(CONVERTED), dir.join(IMAGE));
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, unnamed.as_str(), CWD, &converted, AtFlags::SYMLINK_FOLLOW)
        .map_err(failed("naming", &converted))?;
    point("commit.after_name")?;
    rustix::fs::linkat(CWD, &converted, CWD, &image, AtFlags::empty())
        .map_err(failed("naming", &image))?;
    point("commit.after_link")
}

enum Fill {
    Storage(Error),
    Image(erolith_mkfs::Error),
}

impl From<erolith_mkfs::Error> for Fill {
    fn from(error: erolith_mkfs::Error) -> Self {
        Self::Image(error)
    }
}

/// The same upper gives the same bytes: nothing comes from the clock or the host.
fn build(file: &File, dir: BorrowedFd<'_>, path: &Path, upper: OwnedFd) -> Result<(), Fill> {
    let storage = |what| move |e: std::io::Error| Fill::Storage(failed(what, path)(e));
    let mut options = Options::default();
    options.layer.whiteouts = false;
    options.layer.xattrs.keep_trusted = true;
    options.layer.xattrs.overlay = OverlayXattrs::Upper;
    // Some filesystems list attributes of their own, which mean nothing elsewhere.
    options.layer.xattrs.drop_unknown = true;
    let output = file.try_clone().map_err(storage("opening an image in"))?;
    let scratch = dir.try_clone_to_owned().map_err(storage("opening"))?;
    let mut builder = Builder::new(FileSink::new(output, scratch), options)?;
    builder.fill_from_dir(upper.as_fd())?;
    builder.finish(&Finish::default())?;
    Ok(())
}

/// Makes the names in the directory of a snapshot durable, once something there was undone.
pub(super) fn undo(dir: &Path) -> Result<()> {
    if layerdir::undo_converted(dir)? { sync_dir(dir) } else { Ok(()) }
}
