//! Directories of mounts: one for layers as they are, and one for each way of mapping owners.
//!
//! The name of a space has four characters, from a checksum of its maps. Two maps may have the same checksum; the
//! file `map` in the space says whose it is, and the second of them goes to the next name.

use std::path::{Path, PathBuf};

use erolith_durable::Durability;
use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use super::IdMaps;
use crate::Result;
use crate::files::{failed, make_dir, names, replace, unlink};

/// The space of layers as they are.
pub(crate) const PLAIN_SPACE: &str = "l";
/// The file that says whose space it is.
pub(super) const MAP: &str = "map";
/// Names that are tried for one pair of maps.
const TRIES: u32 = 64;
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A directory of mounts with the same mapping of owners.
#[derive(Debug)]
pub(crate) struct Space {
    dir: PathBuf,
    maps: Option<IdMaps>,
}

impl Space {
    pub(crate) fn plain(state: &Path) -> Self {
        Self { dir: state.join(PLAIN_SPACE), maps: None }
    }

    /// The space of these maps, made if need be.
    pub(super) fn of(state: &Path, maps: &IdMaps) -> Result<Self> {
        let text = maps.text();
        for attempt in 0..TRIES {
            let dir = state.join(name(&text, attempt));
            if holds(&dir, &text)? || make(state, &dir, &text)? || holds(&dir, &text)? {
                return Ok(Self { dir, maps: Some(maps.clone()) });
            }
        }
        Err(failed("finding a free name below", state)(Errno::EXIST))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn maps(&self) -> Option<&IdMaps> {
        self.maps.as_ref()
    }
}

/// The name tried at this attempt: `m` and 15 bits of FNV-1a.
fn name(text: &str, attempt: u32) -> String {
    let bytes = text.bytes().chain(attempt.to_le_bytes());
    let hash =
        bytes.fold(0x811C_9DC5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mixed = hash ^ (hash >> 15);
    let digit = |shift: u32| {
        let index = (mixed >> shift) & 31;
        DIGITS.get(index as usize).map_or('a', |&b| char::from(b))
    };
    ['m', digit(0), digit(5), digit(10)].iter().collect()
}

fn holds(dir: &Path, text: &str) -> Result<bool> {
    let path = dir.join(MAP);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(bytes == text.as_bytes()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("reading", &path)(e)),
    }
}

/// Makes a space that has its map from the beginning. Returns false when the name is taken.
fn make(state: &Path, dir: &Path, text: &str) -> Result<bool> {
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let temporary =
        state.join(format!("{NEW}{}-{thread}", rustix::process::getpid().as_raw_nonzero()));
    remove(&temporary)?;
    make_dir(&temporary, 0o700)?;
    replace(&temporary.join(MAP), text.as_bytes(), 0o600, Durability::Synced)?;
    match rustix::fs::rename(&temporary, dir) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => remove(&temporary).map(|()| false),
        Err(errno) => Err(failed("naming", dir)(errno)),
    }
}

/// What a space that is being made is called.
const NEW: &str = "new-";

/// Removes a space in which nothing is mounted.
fn remove(dir: &Path) -> Result<()> {
    unlink(&dir.join(MAP))?;
    match rustix::fs::unlinkat(CWD, dir, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("removing", dir)(errno)),
    }
}

/// The directories of all spaces below `state`.
pub(super) fn all(state: &Path) -> Result<Vec<PathBuf>> {
    let is_space = |name: &String| {
        let is_mapped = name.len() == 4
            && name.strip_prefix('m').is_some_and(|rest| rest.bytes().all(|b| DIGITS.contains(&b)));
        name == PLAIN_SPACE || is_mapped || name.starts_with(NEW)
    };
    Ok(names(state)?.into_iter().filter(is_space).map(|name| state.join(name)).collect())
}

/// Removes the spaces in which nothing is mounted. For those who are alone.
pub(super) fn remove_unused(spaces: &[PathBuf]) -> Result<()> {
    for dir in spaces {
        let is_plain = dir.file_name().is_some_and(|name| name == PLAIN_SPACE);
        let is_used = names(dir)?.iter().any(|name| !name.starts_with(MAP));
        if !is_plain && !is_used {
            remove(dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Labels;

    fn maps(host: u32) -> IdMaps {
        let value = format!("0:{host}:65536");
        let labels = ["uidmapping", "gidmapping"]
            .map(|kind| (format!("containerd.io/snapshot/{kind}"), value.clone()));
        IdMaps::from_labels(&Labels::from(labels)).unwrap().unwrap()
    }

    #[test]
    fn equal_maps_share_a_space_and_others_never_do() {
        let state = tempfile::tempdir().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        // More maps than half of the names squared: some have equal checksums.
        for host in 1..600 {
            let space = Space::of(state.path(), &maps(host)).unwrap();
            assert!(seen.insert(space.dir().to_owned()), "{host}");
            assert_eq!(space.dir().file_name().unwrap().len(), 4);
        }
        for host in 1..600 {
            let again = Space::of(state.path(), &maps(host)).unwrap();
            assert!(seen.contains(again.dir()));
            assert!(holds(again.dir(), &maps(host).text()).unwrap());
        }
        let spaces = all(state.path()).unwrap();
        assert_eq!(spaces.len(), 599);
        std::fs::create_dir(spaces[0].join("7")).unwrap();
        remove_unused(&spaces).unwrap();
        assert_eq!(all(state.path()).unwrap(), [spaces[0].clone()]);
    }

    #[test]
    fn an_empty_directory_left_by_a_kill_is_taken_over() {
        let state = tempfile::tempdir().unwrap();
        std::fs::create_dir(state.path().join(name(&maps(1).text(), 0))).unwrap();
        let space = Space::of(state.path(), &maps(1)).unwrap();
        assert_eq!(space.dir(), state.path().join(name(&maps(1).text(), 0)));
    }
}
