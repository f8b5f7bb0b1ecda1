//! Snapshots as containerd wants them, of EROFS layers: prepare, view, mounts, commit, remove and what belongs to it.
//!
//! ```text
//! <root>/                 0700
//!   lock                  held by the daemon, with its process id
//!   identity              tells this root from others
//!   metadata.db           which snapshots there are; the truth
//!   snapshots/<id>/       one directory for each, see [`crate::layerdir`]
//!   snapshots/new-*       being made;  snapshots/gone-*  being removed
//!   images/               converted layers by diffID
//! ```
//!
//! What is acknowledged is durable: a layer is written and synced, named, its directory synced, then the database
//! commits, then we answer. A directory without a layer follows from its row. Killed at any moment, the next start and
//! one cleanup leave exactly what the database says.

mod cleanup;
mod commit;
mod config;
mod create;
mod heal;
mod integrity;
mod labels;
mod limit;
mod mounts;
mod overlay_budget;
mod recover;
mod release;
mod remapped;
mod root;
mod target;
mod unpack;
mod usage;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, RwLock};

use erolith_overlay::INDEX_DIR;

use crate::api_mounts::{Mount, Paths};
use crate::fault::point;
use crate::files::{ensure_dir, open_dir, open_dir_if_there, stat, sync_dir};
use crate::layerdir::{self, Images, record};
use crate::lowers::LowerMounts;
use crate::protect::{self, FsVerityPolicy, Protector};
use crate::store::SnapshotError;
use crate::store::{self, Filters, Info, Kind, Labels, Origin, Store, UpdateMask, Usage};
use crate::{Error, Result};

pub use crate::uppers::{LimitBy, MIN_LIMIT};
use crate::uppers::{Upper, Uppers};
use crate::verity::Devices;
pub use crate::verity::DmVerity;
pub use config::{Config, Profile};
pub use heal::Broken;
pub(crate) use integrity::quarantine;
pub use labels::{DIFF_ID_LABEL, PARENT_CHAIN_LABEL, REF_LABEL};
pub(crate) use root::{DATABASE, parts as root_parts, take};
pub use target::UpperChanges;
pub use unpack::{ParentChain, Staging, namespace_of};

/// Below the state directory: what a layer is over that is unpacked beside those below it.
const NOTHING: &str = "empty";

/// What the snapshots of a service take on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUse {
    /// Layers, those that are shared counted once.
    pub layers: Usage,
    /// What was written into active snapshots.
    pub writable: Usage,
}

/// The service. Calls may come from many threads at once; each is complete and durable when it returns.
///
/// Dropping it leaves everything as it is: containers go on, and the next one finds it again.
#[derive(Debug)]
pub struct Snapshotter {
    protector: Protector,
    config: Config,
    /// `<root>/snapshots`.
    snapshots: PathBuf,
    /// `<state>/empty`, an empty directory.
    nothing: PathBuf,
    paths: Paths,
    store: Store,
    images: Images,
    lowers: LowerMounts,
    uppers: Uppers,
    /// Shared while a directory is made and its row is not yet committed; exclusive while directories without a row
    /// are looked for.
    creating: RwLock<()>,
    /// One cleanup at a time.
    cleaning: Mutex<()>,
    /// Where the images of active snapshots came from, until they are committed.
    origins: Mutex<BTreeMap<u64, Origin>>,
    /// Numbers for names that live only while something is made or removed.
    serial: AtomicU64,
    /// Held as long as this lives.
    _lock: File,
}

impl Snapshotter {
    /// Opens the root, which is made if need be, and puts right what an earlier process left half-done.
    ///
    /// # Errors
    /// [`crate::ServiceError::InUse`] when another daemon has the root or the state directory,
    /// [`crate::ServiceError::Config`], [`crate::ServiceError::DatabaseMissing`], and what storage gives.
    pub fn open(config: Config) -> Result<Self> {
        config.validate()?;
        let root = &config.root;
        let lock = root::take(root)?;
        point("open.after_lock")?;
        root::require_database(root)?;
        let store = Store::open(&root.join(root::DATABASE))?;
        point("open.after_store")?;
        let snapshots = root.join(layerdir::SNAPSHOTS);
        ensure_dir(&snapshots, 0o700)?;
        let images = Images::open(root, !config.immutable)?;
        if config.verity == FsVerityPolicy::Required {
            protect::try_out(&snapshots).map_err(|error| root::no_verity(&snapshots, &error))?;
        }
        let protector = Protector { verity: config.verity };
        let identity = root::identity(root)?;
        sync_dir(root)?;
        let devices = Devices::new(config.dm_verity, &identity)?;
        let lowers = LowerMounts::open(&config.state, &identity, config.backing, devices)?;
        let uppers = Uppers::open(&config.state, &snapshots, &identity, config.limit_by)?;
        if config.default_size > 0 {
            uppers.try_out(&snapshots);
        }
        let nothing = config.state.join(NOTHING);
        ensure_dir(&nothing, 0o755)?;
        point("open.after_lowers")?;
        let opened = Self {
            snapshots,
            nothing,
            paths: Paths::new(root, &config.state),
            store,
            images,
            lowers,
            uppers,
            creating: RwLock::default(),
            cleaning: Mutex::default(),
            origins: Mutex::default(),
            serial: AtomicU64::new(0),
            _lock: lock,
            protector,
            config,
        };
        opened.recover()?;
        Ok(opened)
    }

    /// Makes an active snapshot on `parent`, which is committed, or on nothing when it is empty.
    ///
    /// The label `containerd.io/snapshot/max-size`, or else the default of the configuration, limits what can be
    /// written to it.
    ///
    /// # Errors
    /// Those of containerd's `storage.CreateSnapshot`, [`crate::ServiceError::IdMap`], and whatever keeps it from being
    /// limited or its parents from being mounted; nothing is left of it then.
    pub fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.create(Kind::Active, key, parent, labels, None)
    }

    /// As [`Snapshotter::prepare`]. With the labels `containerd.io/snapshot.ref` and `containerd.io/snapshot/diff-id` the
    /// layer is looked for among those that were converted before and in the caches, if `staging` allows it. The snapshot
    /// then has it from the beginning, which read-only mounts show.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    pub fn prepare_staged(
        &self,
        key: &str,
        parent: &str,
        labels: &Labels,
        staging: &dyn Staging,
    ) -> Result<Vec<Mount>> {
        self.create(Kind::Active, key, parent, labels, Some(staging))
    }

    /// Makes a read-only snapshot of `parent`.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    pub fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels, None)
    }

    /// Removes a snapshot on which no other stands. Its directory goes in [`Snapshotter::cleanup`].
    ///
    /// # Errors
    /// `NotFound`, and `FailedPrecondition` with children.
    pub fn remove(&self, key: &str) -> Result<()> {
        point("remove.before_transaction")?;
        self.forget(key)?;
        point("remove.after_transaction")
    }

    /// Removes a row, and then the record, which would bring it back.
    fn forget(&self, key: &str) -> Result<()> {
        let snapshot = self.store.remove(key)?;
        self.forget_origin(snapshot.id);
        record::forget(&self.dir(snapshot.id));
        Ok(())
    }

    /// What is known of a snapshot.
    ///
    /// A layer that was found damaged is not there for this call, nor are those above it. So a client that pulls the
    /// image again does not pass them over, and [`Snapshotter::heal`] gets to see the image that it brings. The daemon
    /// rebuilds the layer first, where it can (see [`Broken`]).
    ///
    /// # Errors
    /// `NotFound`.
    pub fn stat(&self, key: &str) -> Result<Info> {
        let info = self.store.info(key)?;
        if info.kind == Kind::Committed && self.store.is_broken(key)? {
            return Err(
                store::Error::Snapshot(SnapshotError::NotFound { key: key.to_owned() }).into()
            );
        }
        Ok(info)
    }

    /// Sets labels; nothing else can change.
    ///
    /// # Errors
    /// `NotFound`, and `InvalidArgument` for a mask that names anything else.
    pub fn update(&self, name: &str, labels: &Labels, mask: &UpdateMask) -> Result<Info> {
        let info = self.store.update(name, labels, mask)?;
        // Another request may have removed it since.
        if let Ok(snapshot) = self.store.snapshot(name) {
            record::refresh_if_possible(&self.store, &self.dir(snapshot.id), snapshot.id);
        }
        Ok(info)
    }

    /// Every snapshot that one of the filters matches, or every snapshot when there are none.
    ///
    /// # Errors
    /// What storage gives. An empty service has an empty list.
    pub fn list(&self, filters: &Filters) -> Result<Vec<Info>> {
        self.store.list(filters)
    }

    /// What a snapshot takes on disk without its parents: a committed one its directory with its image, an active one
    /// its upper directory and its image if it has one, a view nothing.
    ///
    /// An image that several layers share counts for the oldest of them, so that the sum over all snapshots is what they
    /// take, also after one of them is removed.
    ///
    /// # Errors
    /// `NotFound`. Files that vanish while it counts are left out.
    pub fn usage(&self, key: &str) -> Result<Usage> {
        let (snapshot, stored) = self.store.usage(key)?;
        match snapshot.kind {
            Kind::Active => self.usage_of_active(snapshot.id),
            Kind::Committed => self.usage_of_layer(snapshot.id),
            Kind::View => Ok(stored),
        }
    }

    /// What layers and what containers wrote take on disk, all of them together.
    ///
    /// # Errors
    /// As [`Snapshotter::usage`]. Snapshots that are removed while it counts do not count.
    pub fn disk_use(&self) -> Result<DiskUse> {
        let mut used = DiskUse::default();
        for Info { name, kind, .. } in self.store.list(&Filters::parse(&[])?)? {
            let of = match kind {
                Kind::Active => &mut used.writable,
                Kind::Committed | Kind::View => &mut used.layers,
            };
            match self.usage(&name) {
                Ok(more) => *of = usage::sum(*of, more),
                Err(Error::Store(store::Error::Snapshot(SnapshotError::NotFound { .. }))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(used)
    }

    /// The database, for what only it knows.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Converted layers by diffID.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// How images are sealed, for those who write them.
    #[must_use]
    pub fn protector(&self) -> Protector {
        self.protector
    }

    /// The directory of a layer. Its image counts for the oldest of the layers that share it.
    fn usage_of_layer(&self, id: u64) -> Result<Usage> {
        let used = usage::of_tree(&self.dir(id))?;
        let image = stat(&self.dir(id).join(layerdir::IMAGE))?.filter(|stat| stat.st_nlink > 1);
        let Some(image) = image else { return Ok(used) };
        for other in self.store.like(id)?.into_iter().take_while(|&other| other < id) {
            let theirs = stat(&self.dir(other).join(layerdir::IMAGE))?;
            if theirs.is_some_and(|it| (it.st_dev, it.st_ino) == (image.st_dev, image.st_ino)) {
                return Ok(usage::without(used, usage::of_stat(&image)));
            }
        }
        Ok(used)
    }

    /// The upper directory and, when it is already there, the image.
    fn usage_of_active(&self, id: u64) -> Result<Usage> {
        let dir = self.dir(id);
        let filesystem = dir.join(layerdir::RWLAYER);
        let upper = match stat(&filesystem)? {
            None => usage::of_tree(&dir.join(layerdir::UPPER))?,
            Some(_) if self.uppers.is_mounted(id)? => usage::of_tree(&self.uppers.upper(id))?,
            // The caller mounts it itself, or it was not mounted since the last reboot: only its size is known.
            Some(_) => usage::of_file(&filesystem)?,
        };
        Ok(usage::sum(upper, usage::of_file(&dir.join(layerdir::IMAGE))?))
    }

    /// Opens the upper directory of an active snapshot, also where it is in a filesystem that is not mounted now, and
    /// the index of its overlay if it has one.
    fn open_upper(&self, id: u64) -> Result<(OwnedFd, Option<OwnedFd>)> {
        let dir = self.dir(id);
        let opened = |upper: &Path, work: &Path| {
            Ok((open_dir(upper)?, open_dir_if_there(&work.join(INDEX_DIR))?))
        };
        match (self.uppers.find(id, &dir, false)?, self.config.profile) {
            (Upper::Directory | Upper::None, _) => {
                opened(&dir.join(layerdir::UPPER), &dir.join(layerdir::WORK))
            }
            (Upper::Image(_), Profile::Managed) => {
                self.uppers.peek(id, &dir.join(layerdir::RWLAYER))
            }
            (Upper::Image(_), Profile::Plain) => {
                let _held = self.lowers.hold();
                self.uppers.ensure(id, &dir.join(layerdir::RWLAYER))?;
                // Open, it cannot be unmounted.
                opened(&self.uppers.upper(id), &self.uppers.work(id))
            }
        }
    }

    fn dir(&self, id: u64) -> PathBuf {
        self.snapshots.join(id.to_string())
    }

    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

/// A path that the configuration has been checked to be text.
fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests;
