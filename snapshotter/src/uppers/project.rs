//! Limits by project quota.
//!
//! The project of a snapshot is that of its work directory, which no container can reach; the upper directory beside
//! it has the same. Its number follows from that of the snapshot and from the root, in a range of our own, and a
//! number that is in use is skipped.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::mkfs::bytes_per_inode;
use crate::LimitError;
use crate::errno::describe;
use crate::fault::point;
use crate::files::{open_dir, stat};
use crate::kernel;
use crate::layerdir::{UPPER, WORK};
use crate::mounts::table::block_device;
use crate::sys::project::{self, Project};
use crate::sys::quota::{Amount, Quotas};
use crate::{Error, Result};

/// The first number of our range; `0x65` is an `e`. People who number projects by hand begin at 1, programs that take
/// the numbers of users stay below 2^31 as a rule, and Kubernetes begins at 2^20.
const FIRST: u32 = 0x6500_0000;
/// Numbers in our range.
const COUNT: u32 = 1 << 24;
/// Numbers that are tried for one snapshot.
const TRIES: u32 = 1024;
/// Files in which administrators name projects, and the column that has the number.
const NAMED: [(&str, usize); 2] = [("/etc/projid", 1), ("/etc/projects", 0)];

/// The projects of one service.
#[derive(Debug)]
pub(super) struct Projects {
    /// Where the directories of snapshots are.
    dir: OwnedFd,
    /// Tells the numbers of this root from those of others.
    seed: u32,
    /// What was found: whether limits are kept there.
    found: std::result::Result<String, String>,
    /// Between a number found free and its first use.
    assigning: Mutex<()>,
}

impl Projects {
    pub(super) fn open(snapshots: &Path, identity: &str) -> Result<Self> {
        let dir = open_dir(snapshots)?;
        let found = match project::of(dir.as_fd()) {
            // What is ours would no longer be counted as theirs, and could not be moved within their directory.
            Ok(Project { id: 1.., .. }) => Err("the root is in a project of its own".to_owned()),
            _ => kernel::project_quota(dir.as_fd()).map_err(describe),
        };
        let seed = identity
            .bytes()
            .fold(0x811C_9DC5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Ok(Self { dir, seed, found, assigning: Mutex::default() })
    }

    pub(super) fn are_kept(&self) -> bool {
        self.found.is_ok()
    }

    /// What was tried, and the result.
    pub(super) fn evidence(&self) -> &str {
        match &self.found {
            Ok(text) | Err(text) => text,
        }
    }

    /// Puts the upper and the work directory in `dir` into an unused project, and limits it.
    pub(super) fn assign(&self, dir: &Path, id: u64, bytes: u64) -> Result<()> {
        if let Err(reason) = &self.found {
            return Err(Error::Limit(LimitError::Unlimited {
                dir: dir.to_owned(),
                reason: reason.clone(),
            }));
        }
        let _alone = self.assigning.lock().unwrap_or_else(PoisonError::into_inner);
        let quotas = self.quotas();
        let number = self.free_number(id)?;
        let project = Project { id: number, inherits: true };
        // The project first, for from then on the limit is found and taken back with the directory.
        for name in [WORK, UPPER] {
            let path = dir.join(name);
            project::set(open_dir(&path)?.as_fd(), project)
                .map_err(Error::kernel_on("set the project of", &path))?;
        }
        point("quota.after_project")?;
        let limit = Amount { bytes, inodes: bytes / bytes_per_inode(bytes) };
        quotas
            .set_limit(number, limit)
            .map_err(|errno| Error::kernel(format!("limit project {number}"), errno))?;
        point("quota.after_limit")
    }

    fn free_number(&self, id: u64) -> Result<u32> {
        let named = named();
        for attempt in 0..TRIES {
            let number = candidate(self.seed, id, attempt);
            if named.contains(&number) {
                continue;
            }
            let nothing = (Amount::default(), Amount::default());
            let now = self.quotas().get(number).map_err(|errno| {
                Error::kernel(format!("read the quota of project {number}"), errno)
            })?;
            if now == nothing {
                return Ok(number);
            }
        }
        Err(Error::kernel("find a project that nobody uses", Errno::USERS))
    }

    /// Refuses a directory that has a project of ours which is not kept to a limit.
    pub(super) fn require(&self, dir: &Path) -> Result<()> {
        let Some(number) = number_of(dir)? else { return Ok(()) };
        let refuse =
            |reason| Err(Error::Limit(LimitError::Unlimited { dir: dir.to_owned(), reason }));
        match self.quotas().are_enforced() {
            Ok(true) => {}
            Ok(false) => return refuse("project quota is switched off".to_owned()),
            Err(errno) => return refuse(describe(errno)),
        }
        match self.quotas().get(number) {
            Ok((Amount { bytes: 1.., .. }, _)) => Ok(()),
            Ok(_) => refuse(format!("somebody took the limit of project {number} away")),
            Err(errno) => refuse(describe(errno)),
        }
    }

    /// Takes the limit of a directory's project away. The number is free again when nothing is left of the directory.
    pub(super) fn release(&self, dir: &Path) -> Result<()> {
        let Some(number) = number_of(dir)? else { return Ok(()) };
        if let Err(errno) = self.quotas().set_limit(number, Amount::default()) {
            // Where quotas are off now there is nothing to take away; and the number stays passed over.
            let error = describe(errno);
            tracing::warn!(error, number, "the limit of a project that is gone stays");
        }
        point("quota.after_release")
    }

    fn quotas(&self) -> Quotas<'_> {
        Quotas::of(self.dir.as_fd(), block_device)
    }
}

/// The numbers of our range that have a limit or a use now, on the filesystem of `dir`.
#[cfg(test)]
pub(crate) fn in_use(dir: &Path) -> Vec<(u32, Amount)> {
    let dir = open_dir(dir).unwrap();
    let quotas = Quotas::of(dir.as_fd(), block_device);
    let mut found = Vec::new();
    let mut next = FIRST;
    while let Some(number) = quotas.next(next).filter(|number| is_ours(*number)) {
        let (limit, used) = quotas.get(number).unwrap();
        // The filesystem forgets a project in its own time.
        if (limit, used) != Default::default() {
            found.push((number, limit));
        }
        next = number + 1;
    }
    found
}

/// The number of our project on a directory of a snapshot, if it has one.
fn number_of(dir: &Path) -> Result<Option<u32>> {
    let work = dir.join(WORK);
    if stat(&work)?.is_none() {
        return Ok(None);
    }
    let project = project::of(open_dir(&work)?.as_fd());
    // Where there are no projects, it has none.
    let ours = project.ok().filter(|project| project.inherits && is_ours(project.id));
    Ok(ours.map(|project| project.id))
}

fn candidate(seed: u32, id: u64, attempt: u32) -> u32 {
    let sum = u64::from(seed).wrapping_add(id).wrapping_add(u64::from(attempt));
    FIRST + u32::try_from(sum % u64::from(COUNT)).unwrap_or_default()
}

fn is_ours(number: u32) -> bool {
    (FIRST..FIRST + COUNT).contains(&number)
}

/// The numbers that administrators gave away. Files that cannot be read name none.
fn named() -> BTreeSet<u32> {
    let numbers = NAMED.iter().flat_map(|(path, column)| {
        numbers_in(&std::fs::read_to_string(path).unwrap_or_default(), *column)
    });
    numbers.collect()
}

fn numbers_in(text: &str, column: usize) -> Vec<u32> {
    let fields = text.lines().filter_map(|line| line.split(':').nth(column));
    fields.filter_map(|field| field.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_our_range_and_differ_by_snapshot_and_root() {
        for (seed, id, attempt) in [(0, 0, 0), (u32::MAX, u64::MAX, TRIES), (7, 1 << 40, 3)] {
            assert!(is_ours(candidate(seed, id, attempt)));
        }
        let numbers: BTreeSet<_> = (0..1000).map(|id| candidate(5, id, 0)).collect();
        assert_eq!(numbers.len(), 1000);
        assert_ne!(candidate(1, 9, 0), candidate(2, 9, 0));
        assert!(!is_ours(FIRST - 1) && !is_ours(FIRST + COUNT) && !is_ours(0));
    }

    #[test]
    fn named_projects_are_read_from_both_files() {
        assert_eq!(numbers_in("# comment\nlogs:42\nbad\nweb: 7 \n", 1), [42, 7]);
        assert_eq!(numbers_in("42:/var/log\n7:/srv/web\n:/x\n", 0), [42, 7]);
    }
}
