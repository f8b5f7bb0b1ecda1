//! Mapped layers that are mounted no longer than containerd needs their names.
//!
//! An overlay keeps clones of its own of the mounts that it was given, so a name below `<state>/m???` is needed from the
//! moment it is handed out until the overlay is there. Every pod may have a map of its own, and would leave a mount for each
//! layer in the table of the node as long as it lives. What may go is decided by the mount table and the database; the
//! moment of the last handing out is the modification time of the file `map`, so that it survives the daemon, too.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use rustix::mount::UnmountFlags;

use super::space::{self, MAP, PLAIN_SPACE};
use super::{BATCH, LowerId, LowerMounts, unmount};
use crate::Result;
use crate::files::{failed, names};

/// The mounts in one space of mapped layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// The maps, as [`super::IdMaps::text`] has them.
    pub(crate) maps: String,
    /// What is mounted for overlays.
    pub(crate) lowers: Vec<LowerId>,
}

/// Which of the mounts in these spaces are still needed, in the same order.
pub(crate) type Needed<'a> = &'a dyn Fn(&[Mapped]) -> Result<Vec<Vec<LowerId>>>;

impl LowerMounts {
    /// Undoes the mounts of mapped layers that `needed` does not name, in spaces from which nothing was handed out for
    /// `idle`. It is asked while nothing is handed out. Returns how many are left. Failures are logged: the next call
    /// tries again.
    ///
    /// # Errors
    /// What `needed` gives, and [`crate::Error::Storage`] when directories cannot be read.
    pub(crate) fn release(&self, idle: Duration, needed: Needed<'_>) -> Result<usize> {
        loop {
            if self.mapped()?.is_empty() {
                return Ok(0);
            }
            // In batches, so that others get a turn.
            let _alone = self.alone();
            let spaces = self.mapped()?;
            let left = spaces.iter().map(|space| space.lowers.len()).sum();
            let now = SystemTime::now();
            let idle_spaces: Vec<_> =
                spaces.into_iter().filter(|space| is_idle(&space.dir, idle, now)).collect();
            if idle_spaces.is_empty() {
                return Ok(left);
            }
            let unneeded = unneeded(&idle_spaces, &needed(&idle_spaces)?);
            let undone = undo(unneeded.iter().take(BATCH));
            if undone < BATCH {
                let dirs: Vec<_> = idle_spaces.into_iter().map(|space| space.dir).collect();
                space::remove_unused(&dirs)?;
                return Ok(left.saturating_sub(undone));
            }
        }
    }

    /// The spaces of mapped layers in which something is mounted for overlays.
    fn mapped(&self) -> Result<Vec<Mapped>> {
        let mut found = Vec::new();
        for dir in space::all(&self.state)? {
            if dir.file_name().is_some_and(|name| name == PLAIN_SPACE) {
                continue;
            }
            let lowers = names(&dir)?.into_iter().filter_map(|name| LowerId::from_name(&name));
            let lowers: Vec<_> = lowers.filter(|lower| !lower.bare).collect();
            if let (false, Ok(maps)) = (lowers.is_empty(), std::fs::read_to_string(dir.join(MAP))) {
                found.push(Mapped { dir, maps, lowers });
            }
        }
        Ok(found)
    }
}

/// Notes that mounts of the space at `dir` are handed out now.
pub(super) fn hand_out(dir: &Path) -> Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let map = dir.join(MAP);
    let times = Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(CWD, &map, &times, AtFlags::empty()).map_err(failed("touching", &map))
}

/// Whether nothing was handed out of the space at `dir` for so long. A clock that was set back counts as long ago: what is
/// needed is known without it, but for two callers that mount one snapshot at the same time.
fn is_idle(dir: &Path, idle: Duration, now: SystemTime) -> bool {
    let touched = std::fs::metadata(dir.join(MAP)).and_then(|map| map.modified());
    touched.is_ok_and(|touched| now.duration_since(touched).map_or(true, |since| since >= idle))
}

fn unneeded(spaces: &[Mapped], needed: &[Vec<LowerId>]) -> Vec<PathBuf> {
    let pairs = spaces.iter().zip(needed);
    let each = pairs.flat_map(|(space, needed)| {
        let unneeded = space.lowers.iter().filter(|lower| !needed.contains(lower));
        unneeded.map(|lower| space.dir.join(lower.name()))
    });
    each.collect()
}

/// Returns how many are undone.
fn undo<'p>(places: impl Iterator<Item = &'p PathBuf>) -> usize {
    let mut undone = 0;
    for place in places {
        match unmount(place, UnmountFlags::NOFOLLOW) {
            Ok(()) => undone += 1,
            Err(error) => {
                tracing::warn!(error = error.line(), "a mapped layer stays mounted for now")
            }
        }
    }
    undone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_is_idle_when_nothing_was_handed_out_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let second = Duration::from_secs(1);
        assert!(!is_idle(dir.path(), second, SystemTime::now()), "without a map it is none");
        std::fs::File::create(dir.path().join(MAP)).unwrap();
        hand_out(dir.path()).unwrap();
        let touched = std::fs::metadata(dir.path().join(MAP)).unwrap().modified().unwrap();
        for (now, idle) in [
            (touched, false),
            (touched + second / 2, false),
            (touched + second, true),
            (touched - 60 * second, true),
        ] {
            assert_eq!(is_idle(dir.path(), second, now), idle, "{now:?}");
        }
    }

    #[test]
    fn what_is_not_needed_goes_and_nothing_else() {
        let lower = |id| LowerId { id, bare: false };
        let space = |dir: &str, ids: &[u64]| Mapped {
            dir: dir.into(),
            maps: String::new(),
            lowers: ids.iter().map(|&id| lower(id)).collect(),
        };
        let spaces = [space("/maaa", &[1, 2, 3]), space("/mbbb", &[1, 2]), space("/mccc", &[9])];
        let needed = [vec![lower(2)], vec![lower(1), lower(2)], vec![]];
        let places: Vec<PathBuf> = ["/maaa/1", "/maaa/3", "/mccc/9"].map(PathBuf::from).into();
        assert_eq!(unneeded(&spaces, &needed), places);
    }
}
