//! Commit: an active snapshot becomes a layer.
//!
//! Normally a differ has written the image, and the database is all there is to change. When another differ filled
//! the upper directory instead, the image is made here, in this process:
//!
//! 1. an image without a name is written, synced and sealed;
//! 2. it gets the name `commit.erofs`;
//! 3. and the name `layer.erofs`; the directory is synced;
//!    as is what the record of the snapshot will be (see [`layerdir::record`]);
//! 4. the database commits: from here on the image is the truth;
//! 5. the record that was announced takes its place;
//! 6. an empty directory takes the place of the upper directory, which cleanup deletes;
//! 7. the name `commit.erofs` goes.
//!
//! While `commit.erofs` is there and the snapshot is active, the upper directory is the truth: the container may
//! write on, and the next commit starts again.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use erolith_durable::{Durability, Tmpfile};
use erolith_mkfs::build::{Builder, Finish, Options};
use erolith_mkfs::format::FileType;
use erolith_mkfs::io::FileSink;
use erolith_mkfs::meta::Meta;
use erolith_mkfs::protect::{Error as Unprotected, ProtectOptions, Protected};
use erolith_overlay::{
    Attributes, Change, ChangeKind, DiffOptions, IndexDir, Marks, OverlayLayer, Shown, Stack,
    changes, fill_from_changes,
};
use erolith_verity::dmverity;
use rustix::fs::{AtFlags, CWD, FlockOperation};
use rustix::io::Errno;

use super::target::UpperChanges;
use super::{Snapshotter, unpack, usage};
use crate::fault::point;
use crate::files::{self, failed, make_dir, open_dir, stat, sync_dir, unlink};
use crate::layerdir::{self, CONVERTED, IMAGE, RWLAYER, UPPER, WORK, record};
use crate::mounts;
use crate::protect::{self, Protector};
use crate::store::{Content, Entry, Kind, Labels, Snapshot, now, without_empty};
use crate::{Error, IntegrityError, Result, ServiceError};

/// How far the times that a kernel gives to files may be behind the clock, in nanoseconds: they count its ticks.
const TICK: i64 = 100_000_000;

/// An image that can be committed.
struct Ready {
    /// The layer that it makes of the snapshot.
    entry: Entry,
    /// It was made from the upper directory.
    is_converted: bool,
    /// Locks the directory against another commit of the same snapshot.
    _lock: OwnedFd,
}

impl Ready {
    fn content(&self) -> Content {
        let &Entry { usage, pin, tree, created, ref origin, .. } = &self.entry;
        Content { usage, pin, tree, origin: origin.clone(), time: Some(created) }
    }

    /// Whether it is what the transaction makes of the snapshot.
    fn is_of(&self, snapshot: &Snapshot) -> bool {
        let entry = &self.entry;
        (entry.id, entry.parent) == (snapshot.id, snapshot.parents.first().copied())
    }

    /// Takes back what was prepared, and keeps what a differ wrote.
    fn undo(&self, dir: &Path) -> Result<()> {
        let undo = if self.is_converted { layerdir::undo_converted } else { record::withdraw };
        undo(dir).map(drop)
    }
}

impl Snapshotter {
    /// Makes the active snapshot `key` the layer `name`. `parent` is empty, the parent it has, or, when it has none,
    /// the one it gets (rebase). The labels are those of the layer; what the snapshot had is forgotten.
    ///
    /// # Errors
    /// Those of containerd's `storage.CommitActive`; [`IntegrityError::Truncated`] or [`IntegrityError::NotErofs`] for
    /// an image that a differ left unfinished; [`ServiceError::Convert`]. The snapshot is as it was then.
    pub fn commit(&self, name: &str, key: &str, parent: &str, labels: &Labels) -> Result<()> {
        let labels = unpack::obeyed(labels);
        let labels = labels.as_ref();
        // The transaction says what is wrong, in the right order; but no image is made for one that must fail.
        let ready = match self.store.snapshot(key) {
            Ok(snapshot) if snapshot.kind == Kind::Active && self.store.info(name).is_err() => {
                let below = self.below(&snapshot, parent);
                let entry = layer_of(&snapshot, name, below.first().copied(), labels);
                Some(self.ready(entry, &snapshot, &below)?)
            }
            _ => None,
        };
        point("commit.before_transaction")?;
        let content = ready.as_ref().map_or_else(Content::default, Ready::content);
        let committed = self.store.commit(name, key, parent, labels, content, &mut |snapshot| {
            let is_same = ready.as_ref().is_some_and(|ready| ready.is_of(snapshot));
            if is_same {
                Ok(())
            } else {
                Err(Error::Service(ServiceError::Raced { key: key.to_owned() }))
            }
        });
        if let (Err(_), Some(ready)) = (&committed, &ready)
            && let Err(error) = ready.undo(&self.dir(ready.entry.id))
        {
            tracing::warn!(
                error = error.line(),
                "an image that was not committed is left for the next commit"
            );
        }
        committed?;
        point("commit.after_transaction")?;
        if let Some(ready) = &ready {
            self.complete(ready);
        }
        Ok(())
    }

    /// The layers that the snapshot will stand on, the nearest first.
    fn below(&self, snapshot: &Snapshot, parent: &str) -> Vec<u64> {
        let kept = || snapshot.parents.clone();
        let rebased = |given: Snapshot| [vec![given.id], given.parents].concat();
        match parent {
            "" => kept(),
            // One that is not there is for the transaction to refuse.
            given => self.store.snapshot(given).map_or_else(|_| kept(), rebased),
        }
    }

    /// What is left to do when the database has it. It is committed all the same when that fails; the next start does it
    /// then.
    fn complete(&self, ready: &Ready) {
        let id = ready.entry.id;
        self.forget_origin(id);
        self.protect_from_hands(id);
        if let Err(error) = record::adopt(&self.dir(id)) {
            tracing::warn!(error = error.line(), "a record is left for the next start");
        }
        if ready.is_converted
            && let Err(error) = self.finish_commit(id)
        {
            tracing::warn!(error = error.line(), "an upper directory is left for the next start");
        }
    }

    /// The image of an active snapshot, whole and durable. `entry` is what it will be, `below` the layers it will stand on.
    fn ready(&self, mut entry: Entry, snapshot: &Snapshot, below: &[u64]) -> Result<Ready> {
        let id = entry.id;
        let dir = self.dir(id);
        let lock = open_dir(&dir)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(failed("locking", &dir))?;
        layerdir::undo_converted(&dir)?;
        // A differ may have replaced the image since it was last shown: who stands on the layer gets the one there is.
        self.lowers.forget(id)?;
        let is_converted = stat(&dir.join(IMAGE))?.is_none();
        if is_converted {
            let to =
                Target { id, dir: &dir, fd: lock.as_fd(), durability: self.config.durability() };
            let is_hashed = self.config.dm_verity.hashes();
            let written = self.written(id, &snapshot.labels)?;
            let is_beside =
                snapshot.parents.is_empty() && unpack::chain_below(&snapshot.labels).is_some();
            let made =
                is_beside.then(|| snapshot.created.nanoseconds().saturating_sub(TICK)..=now());
            let below = below.iter().map(|&id| self.dir(id).join(IMAGE)).collect();
            convert(&to, Changed { written, below, made }, is_hashed, self.protector())?;
        }
        let image = dir.join(IMAGE);
        let file = File::open(&image).map_err(failed("opening", &image))?;
        // What another program wrote may be cut off, may be hostile, and may still be only in memory.
        mounts::inspect(&image.display().to_string(), &file, &[])?;
        layerdir::require_checked(&image, &file)?;
        // Before the sync: what it writes to the file is synced with it.
        let is_link = layerdir::is_link(&image)?;
        entry.origin = self.origin_noted(id);
        entry.pin = if is_link { None } else { self.protector().commit(&file, &image)? };
        entry.tree = match layerdir::read_sidecar(&image) {
            // It is not read.
            Err(_) if !self.config.dm_verity.looks() => None,
            other => other?,
        };
        if entry.pin.is_some() {
            // It was sealed just now, perhaps, which gives it another time.
            layerdir::mark(&file);
        }
        if !is_converted {
            // What was written beside it is no part of the layer, and nothing can be written there any more.
            self.uppers.release(&dir)?;
            unlink(&dir.join(RWLAYER))?;
        }
        let mut settled = || self.settle(&mut entry, &image, &file, &lock);
        if self.config.sync {
            // The directory itself was not worth it before it had a layer. Filesystems with a journal do both at once.
            files::beside(|| sync_dir(&self.snapshots), settled)?;
        } else {
            settled()?;
        }
        point("commit.after_dir_sync")?;
        Ok(Ready { entry, is_converted, _lock: lock })
    }

    /// Has the image of a layer and the record of what it will be on the disk, with their names.
    fn settle(&self, entry: &mut Entry, image: &Path, file: &File, lock: &OwnedFd) -> Result<()> {
        let dir = self.dir(entry.id);
        if self.config.sync {
            layerdir::sync_sidecar(image)?;
            rustix::fs::fsync(file).map_err(failed("syncing", image))?;
        }
        // What it takes is known when it is on the disk.
        entry.usage = usage::of_file(image)?;
        record::announce(&dir, entry, self.config.durability())?;
        point("commit.after_record")?;
        if self.config.sync {
            rustix::fs::fsync(lock).map_err(failed("syncing", &dir))?;
        }
        Ok(())
    }

    /// Makes the image of a layer immutable, if that is wanted. Where it cannot be, nothing is lost; when the process is
    /// killed before, the next start does it.
    pub(super) fn protect_from_hands(&self, id: u64) {
        if !self.config.immutable {
            return;
        }
        if let Err(error) = protect::set_immutable(&self.dir(id).join(IMAGE)) {
            tracing::warn!(error = error.line(), "an image is not immutable");
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

/// Where an image is made.
struct Target<'a> {
    id: u64,
    dir: &'a Path,
    fd: BorrowedFd<'a>,
    durability: Durability,
}

/// What an image is made of.
struct Changed {
    written: UpperChanges,
    /// Images of the layers below, the nearest first.
    below: Vec<PathBuf>,
    /// When it was written, by a differ that did not see those layers.
    made: Option<RangeInclusive<i64>>,
}

/// What the active snapshot will be. Its image is yet to be looked at.
fn layer_of(snapshot: &Snapshot, name: &str, parent: Option<u64>, labels: &Labels) -> Entry {
    let time = now();
    Entry {
        key: name.to_owned(),
        kind: Kind::Committed,
        parent,
        created: time,
        updated: time,
        labels: without_empty(labels),
        ..Entry::new(name, snapshot)
    }
}

/// Makes the image of the upper directory, under both of its names, with a hash tree if that is wanted.
fn convert(
    target: &Target<'_>,
    changed: Changed,
    is_hashed: bool,
    protector: Protector,
) -> Result<()> {
    let &Target { id, dir, fd: dir_fd, durability } = target;
    point("commit.before_convert")?;
    // A differ that died may have left one.
    layerdir::remove_sidecar(&dir.join(IMAGE))?;
    let file = Tmpfile::create(dir_fd, 0o600, None).map_err(failed("making an image in", dir))?;
    let image = dir.join(IMAGE);
    let wanted = ProtectOptions { fs_verity: protector.seals(), dm_verity: is_hashed };
    let built = build(file.file(), dir_fd, dir, changed, wanted);
    let Protected { digest, verity } = built.map_err(|error| match error {
        Fill::Storage(error) => error,
        Fill::Image(source) => Error::Service(ServiceError::Convert { id, source }),
        Fill::Tree(fault) => {
            Error::Integrity(IntegrityError::DmVerity { image: image.display().to_string(), fault })
        }
    })?;
    point("commit.after_convert")?;
    if let Some(tree) = verity {
        layerdir::write_sidecar(&image, &tree, durability)?;
    }
    let file = file.protected(|file| protector.seal(file, dir, true, digest))?;
    // ext4 gives a file another time when it enables fs-verity.
    layerdir::mark(file.file());
    // Always: a name that says "finished" must not stand for bytes that are not there.
    let synced = file.sync(Durability::Synced).map_err(failed("syncing an image in", dir))?;
    point("commit.after_sync")?;
    let converted = dir.join(CONVERTED);
    let named = synced.name_exclusively(dir_fd, CONVERTED.as_ref());
    let file = named.map_err(failed("naming", &converted))?.unsettled();
    point("commit.after_name")?;
    protector.settle(&file, dir)?;
    rustix::fs::linkat(CWD, &converted, CWD, &image, AtFlags::empty())
        .map_err(failed("naming", &image))?;
    point("commit.after_link")
}

enum Fill {
    Storage(Error),
    Image(erolith_overlay::Error),
    Tree(dmverity::Error),
}

impl From<erolith_overlay::Error> for Fill {
    fn from(error: erolith_overlay::Error) -> Self {
        Self::Image(error)
    }
}

impl From<erolith_mkfs::Error> for Fill {
    fn from(error: erolith_mkfs::Error) -> Self {
        Self::Image(error.into())
    }
}

/// The same upper over the same layers gives the same bytes: nothing comes from the clock or the host.
fn build(
    file: &File,
    dir: BorrowedFd<'_>,
    path: &Path,
    changed: Changed,
    wanted: ProtectOptions,
) -> Result<Protected, Fill> {
    let storage = |what| move |e: std::io::Error| Fill::Storage(failed(what, path)(e));
    let output = file.try_clone().map_err(storage("opening an image in"))?;
    let scratch = dir.try_clone_to_owned().map_err(storage("opening"))?;
    let Changed { written: UpperChanges { upper, index, owners }, below, made } = changed;
    let lowers = below.iter().map(|image| open_layer(image)).collect::<Result<_, _>>()?;
    let lowers = Stack::new(lowers, Marks::Trusted);
    // The layers below are images, so nothing has to be asked what it calls inodes of directories.
    let index = index.map(|dir| IndexDir { dir, handles: None });
    let upper = lowers.with_upper(OverlayLayer::upper(upper, index));
    let how = DiffOptions { attributes: Attributes::Local, owners, ..DiffOptions::default() };
    let mut changes = changes::<Fill>(&lowers, &upper, &how, || Ok(()))?;
    if let Some(made) = made {
        changes.iter_mut().try_for_each(|change| inherit(change, &lowers, &made))?;
    }
    let options = Options::default();
    let sink = wanted.begin(FileSink::new(output, scratch), options.block_bits);
    let mut builder = Builder::new(sink.map_err(storage("opening an image in"))?, options)?;
    fill_from_changes::<_, Fill>(&mut builder, &changes, |_| Ok(()))?;
    let (sink, _) = builder.finish(&Finish::default())?;
    wanted.finish(&sink, &|| false).map_err(|error| match error {
        Unprotected::Image(error) => Fill::Image(error.into()),
        Unprotected::Tree(error) => Fill::Tree(error),
        Unprotected::Read(error) => storage("reading an image in")(error),
    })
}

/// Gives a directory that a differ made on the way to a file the attributes that it has in the layers below, which that differ
/// did not see. It makes such a directory with mode 0755 for root (`mkparent` in pkg/archive of containerd) and leaves the
/// time at which that happened; one that the archive describes has the archive's.
fn inherit(
    change: &mut Change,
    below: &Stack,
    made: &RangeInclusive<i64>,
) -> Result<(), erolith_overlay::Error> {
    let Meta { mode, uid, gid, mtime } = change.meta;
    let time = mtime.sec.saturating_mul(1_000_000_000).saturating_add(i64::from(mtime.nsec));
    let is_plain = (mode, uid, gid) == (0o755, 0, 0) && change.xattrs.is_empty();
    let is_laid_over = change.file_type() == FileType::Directory
        && !matches!(change.what, ChangeKind::Removed | ChangeKind::Added)
        && !change.hides;
    if !is_plain || !is_laid_over || change.path.is_empty() || !made.contains(&time) {
        return Ok(());
    }
    let mut at = below.root()?;
    for (end, _) in change.path.iter().enumerate().filter(|(_, b)| **b == b'/') {
        let path = change.path.get(..end).unwrap_or_default();
        at = at.map(|dir| below.child(&dir, path)).transpose()?.flatten();
    }
    at = at.map(|dir| below.child(&dir, &change.path)).transpose()?.flatten();
    if let Some(dir) = at.as_ref().and_then(Shown::node).filter(|node| node.is_dir()) {
        change.meta = dir.meta();
        change.xattrs = dir.xattrs()?;
        change.xattrs.retain(|xattr| !xattr.name.starts_with(Marks::Trusted.prefix()));
    }
    Ok(())
}

fn open_layer(image: &Path) -> Result<Arc<OverlayLayer>, Fill> {
    let file = File::open(image).map_err(failed("opening", image)).map_err(Fill::Storage)?;
    Ok(OverlayLayer::image(Arc::new(file))?)
}

/// Makes the names in the directory of a snapshot durable, once something there was undone.
pub(super) fn undo(dir: &Path) -> Result<()> {
    if layerdir::undo_converted(dir)? { sync_dir(dir) } else { Ok(()) }
}
