//! Layers mounted once, for all snapshots above them: the `plain` profile's lowers.
//!
//! ```text
//! <state>/owner        whose mounts these are; locked by the daemon
//! <state>/l/<id>       layer <id>, as overlayfs may look through it
//! <state>/l/<id>v      the same with its devices, programs and setuid bits: to be bound as a whole root
//! <state>/m???/map     owners are mapped like this below here
//! <state>/m???/<id>    layer <id> with mapped owners
//! <state>/m???/<id>v
//! ```
//!
//! Names are short because 128 of them have to fit into the options of one mount. What is mounted is asked of the
//! kernel each time and never remembered, so that nothing is lost with the process. All but `l/<id>` are clones of
//! that one mount: they share its filesystem and its page cache.
//!
//! Unmounting never disturbs a container: overlayfs and bind mounts hold what they were given. So layers with mapped
//! owners, of which every pod may have its own, are mounted until its overlay is there ([`mapped`]).

mod idmaps;
mod mapped;
mod owner;
mod space;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, UnmountFlags};

use crate::fault::point;
use crate::files::{ensure_dir, failed, names};
use crate::layerdir::open_image;
use crate::mounts::plan::lower_attributes;
use crate::mounts::{self, Backing, MountLayer, MountOptions, Request};
use crate::sys::idmap;
use crate::sys::userns::UserNamespace;
use crate::verity::Devices;
use crate::{Error, IntegrityError, Result};

pub(crate) use idmaps::IdMaps;
pub(crate) use mapped::Mapped;
pub(crate) use space::{PLAIN_SPACE, Space};

/// Locks for mounting, so that two who want the same layer do not mount it twice. Layers share them by number.
const STRIPES: usize = 16;
/// Mounts that are undone before others get a turn.
const BATCH: usize = 16;

/// One mount of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LowerId {
    /// The snapshot whose layer it is.
    pub(crate) id: u64,
    /// Seen by a container as it is, and not through an overlay.
    pub(crate) bare: bool,
}

impl LowerId {
    /// Its name below the directory of a space.
    pub(crate) fn name(self) -> String {
        format!("{}{}", self.id, if self.bare { "v" } else { "" })
    }

    /// The other way; nothing for what is no name of a mount.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let (digits, bare) = name.strip_suffix('v').map_or((name, false), |rest| (rest, true));
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let id = is_number.then(|| digits.parse().ok()).flatten()?;
        Some(Self { id, bare })
    }

    /// What a clone of the layer's mount must not carry: everything but read-only, when a container will see it.
    /// The one place that decides this.
    fn lifted(self) -> MountAttrFlags {
        if self.bare {
            lower_attributes().difference(MountAttrFlags::MOUNT_ATTR_RDONLY)
        } else {
            MountAttrFlags::empty()
        }
    }
}

/// Where the images of layers are, and whether they may be mounted.
pub(crate) trait Layers {
    /// The image of the layer `id`.
    fn image(&self, id: u64) -> PathBuf;

    /// Refuses an image whose hash tree is not the one that it should have, before a device is made of what it says.
    fn require_tree(&self, id: u64, image: &Path) -> Result<()>;

    /// Refuses an image that is not what it should be otherwise. `file` is the descriptor that is mounted then.
    fn require_intact(&self, id: u64, image: &Path, file: &File) -> Result<()>;

    /// Is told of the layer that could not be mounted.
    fn failed(&self, id: u64, error: &Error);
}

/// The mounts below the state directory.
#[derive(Debug)]
pub(crate) struct LowerMounts {
    state: PathBuf,
    backing: Backing,
    devices: Devices,
    making: [Mutex<()>; STRIPES],
    /// Shared while mounts are being handed out, exclusive while unused ones go.
    users: RwLock<()>,
    /// Held as long as this lives.
    _owner: File,
}

impl LowerMounts {
    /// Takes the state directory. Mounts that another root left there are undone: their numbers mean other layers.
    ///
    /// # Errors
    /// [`crate::ServiceError::InUse`] when another daemon has it, [`Error::Storage`].
    pub(crate) fn open(
        state: &Path,
        identity: &str,
        backing: Backing,
        devices: Devices,
    ) -> Result<Self> {
        let owner = owner::take(state, identity)?;
        ensure_dir(&state.join(PLAIN_SPACE), 0o700)?;
        let (making, users) = (Default::default(), RwLock::default());
        Ok(Self { state: state.to_owned(), backing, devices, making, users, _owner: owner })
    }

    /// While this is held nothing is unmounted.
    pub(crate) fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.users.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Self::hold`] when that needs no wait.
    pub(crate) fn try_hold(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match self.users.try_read() {
            Ok(held) => Some(held),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Exclusive: excludes every [`Self::hold`].
    pub(crate) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.users.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The space of these maps, made if need be. For those who hold.
    pub(crate) fn space(&self, maps: Option<&IdMaps>) -> Result<Space> {
        match maps {
            None => Ok(Space::plain(&self.state)),
            Some(maps) => Space::of(&self.state, maps),
        }
    }

    /// Whether all of these are mounted. For those who hold.
    pub(crate) fn are_mounted(&self, space: &Space, lowers: &[LowerId]) -> Result<bool> {
        for lower in lowers {
            if !is_mounted(&space.dir().join(lower.name()))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Mounts what is not mounted yet. For those who hold.
    ///
    /// # Errors
    /// Everything a mount can give; what was mounted before stays until it is unused.
    pub(crate) fn ensure(
        &self,
        space: &Space,
        lowers: &[LowerId],
        layers: &dyn Layers,
    ) -> Result<()> {
        let mut namespace = None;
        for &lower in lowers {
            let place = space.dir().join(lower.name());
            if is_mounted(&place)? {
                continue;
            }
            let stripe = usize::try_from(lower.id).unwrap_or(0) % STRIPES;
            let lock =
                self.making.get(stripe).map(|l| l.lock().unwrap_or_else(PoisonError::into_inner));
            if !is_mounted(&place)? {
                self.make(space, lower, &place, layers, &mut namespace)?;
            }
            drop(lock);
        }
        if space.maps().is_some() { mapped::hand_out(space.dir()) } else { Ok(()) }
    }

    fn make(
        &self,
        space: &Space,
        lower: LowerId,
        place: &Path,
        layers: &dyn Layers,
        namespace: &mut Option<UserNamespace>,
    ) -> Result<()> {
        let base = self.state.join(PLAIN_SPACE).join(lower.id.to_string());
        if !is_mounted(&base)? {
            self.mount_image(lower.id, layers, &base)
                .inspect_err(|error| layers.failed(lower.id, error))?;
        }
        if base == place {
            return Ok(());
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let clone = rustix::mount::open_tree(CWD, &base, flags)
            .map_err(Error::kernel_on("clone the mount", &base))?;
        if let Some(maps) = space.maps() {
            let userns = match namespace {
                Some(userns) => userns,
                None => namespace.insert(make_namespace(maps)?),
            };
            idmap::map_ids(clone.as_fd(), userns.as_fd())
                .map_err(Error::kernel_on("map the owners of", &base))?;
        }
        idmap::clear(clone.as_fd(), lower.lifted())
            .map_err(Error::kernel_on("change the attributes of", &base))?;
        attach_at(clone.as_fd(), place)
    }

    fn mount_image(&self, id: u64, layers: &dyn Layers, place: &Path) -> Result<()> {
        let image = &layers.image(id);
        let file = open_image(id, image)?;
        make_place(place)?;
        layers.require_tree(id, image)?;
        let device = self.devices.open(id, image, &file)?;
        let (mounted, backing) = match &device {
            Some(device) => (&device.file, Backing::File),
            None => (&file, self.backing),
        };
        let mounted = mounted.try_clone().map_err(failed("opening", image))?;
        let name = image.display().to_string();
        let request = Request {
            layers: vec![MountLayer { name, image: mounted, devices: Vec::new() }],
            target: place.to_owned(),
            backing,
            options: MountOptions { attributes: lower_attributes(), erofs: Vec::new() },
            route: None,
        };
        // On the inode that is mounted then. The mount itself compares sizes.
        let check = |_: &MountLayer| Ok(layers.require_intact(id, image, &file)?);
        mounts::mount(request, &check).map_err(|error| match &device {
            Some(device) => device.explain(image, &file, own(error)),
            None => own(error),
        })?;
        point("lower.after_mount")
    }

    /// Undoes every mount of the layer `id`, because its image was or will be written again. A bind mount of it keeps
    /// the old image.
    ///
    /// # Errors
    /// [`crate::KernelError::Call`] and [`Error::Storage`].
    pub(crate) fn forget(&self, id: u64) -> Result<()> {
        let _alone = self.alone();
        for dir in space::all(&self.state)? {
            for bare in [false, true] {
                unmount(
                    &dir.join(LowerId { id, bare }.name()),
                    UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
                )?;
            }
        }
        Ok(())
    }

    /// Undoes the mounts of layers that `wanted` does not name. It is asked again while nothing is handed out, since
    /// what it said before may be old by then. Failures are logged: the next sweep tries again.
    ///
    /// # Errors
    /// What `wanted` gives, and [`Error::Storage`] when the directories cannot be read.
    pub(crate) fn sweep(&self, wanted: &dyn Fn(&[u64]) -> Result<Vec<u64>>) -> Result<()> {
        let spaces = space::all(&self.state)?;
        loop {
            let mut unused = Vec::new();
            for dir in &spaces {
                let lowers = names(dir)?.into_iter().filter_map(|name| LowerId::from_name(&name));
                unused.extend(lowers.map(|lower| (dir, lower)));
            }
            let ids: Vec<u64> = unused.iter().map(|(_, lower)| lower.id).collect();
            // Without the lock: most of the time there is nothing to do.
            let keep = wanted(&ids)?;
            unused.retain(|(_, lower)| !keep.contains(&lower.id));
            let left = unused.len();
            unused.truncate(BATCH);
            let _alone = self.alone();
            let ids: Vec<u64> = unused.iter().map(|(_, lower)| lower.id).collect();
            let keep = if ids.is_empty() { Vec::new() } else { wanted(&ids)? };
            unused.retain(|(_, lower)| !keep.contains(&lower.id));
            point("cleanup.before_unmount")?;
            let mut is_stuck = false;
            for (dir, lower) in &unused {
                let place = dir.join(lower.name());
                if let Err(error) = unmount(&place, UnmountFlags::NOFOLLOW) {
                    tracing::warn!(error = error.line(), "a layer stays mounted for now");
                    is_stuck = true;
                }
            }
            point("cleanup.after_unmount")?;
            if left <= BATCH || is_stuck {
                return space::remove_unused(&spaces);
            }
        }
    }
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(place: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, place, flags, StatxFlags::empty()) {
        Ok(statx) => Ok(statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed("examining", place)(errno)),
    }
}

/// Our own word on an image, if that is what the mount was refused for.
fn own(error: Error) -> Error {
    match error {
        Error::Integrity(IntegrityError::Check { image, source }) => {
            match source.downcast::<Error>() {
                Ok(error) => *error,
                Err(source) => Error::Integrity(IntegrityError::Check { image, source }),
            }
        }
        error => error,
    }
}

/// Attaches a mount at a directory, which is made if need be.
pub(crate) fn attach_at(mount: std::os::fd::BorrowedFd<'_>, place: &Path) -> Result<()> {
    make_place(place)?;
    let target: OwnedFd = crate::files::open_dir(place)?;
    mounts::attach(mount, target.as_fd()).map_err(Error::kernel_on("attach at", place))?;
    point("lower.after_mount")
}

fn make_place(place: &Path) -> Result<()> {
    ensure_dir(place, 0o700)?;
    point("lower.after_directory")
}

/// Undoes what is mounted at `place`, if anything is, and removes the directory.
pub(crate) fn unmount(place: &Path, flags: UnmountFlags) -> Result<()> {
    while is_mounted(place)? {
        rustix::mount::unmount(place, flags).map_err(Error::kernel_on("unmount", place))?;
    }
    match rustix::fs::unlinkat(CWD, place, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("removing", place)(errno)),
    }
}

fn make_namespace(maps: &IdMaps) -> Result<UserNamespace> {
    let [uid, gid] = maps.kernel_text();
    UserNamespace::with_maps([uid.as_str(), gid.as_str()]).map_err(|errno| {
        Error::kernel(
            format!("make a user namespace with {}", maps.text().trim_end().replace('\n', " ")),
            errno,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back_and_others_are_not_ours() {
        for (id, bare, name) in [(1, false, "1"), (987_654, true, "987654v")] {
            let lower = LowerId { id, bare };
            assert_eq!(lower.name(), name);
            assert_eq!(LowerId::from_name(name), Some(lower));
        }
        for name in ["map", "v", "", "-1", "+1", "1x", "1vv", "99999999999999999999999", "new-1"] {
            assert_eq!(LowerId::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn what_a_container_sees_is_read_only_and_nothing_else() {
        let seen = |bare| lower_attributes().difference(LowerId { id: 1, bare }.lifted());
        assert_eq!(seen(true), MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert_eq!(seen(false), lower_attributes());
    }
}
