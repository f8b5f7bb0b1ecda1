//! The database of a root, made again of the records in the directories of its snapshots, when it is lost or damaged.
//!
//! - `plan`: which rows there will be, and what is wrong with the rest; a function.
//! - [`Repair`]: reads the directories, and puts the plan into effect.
//!
//! The order makes every step safe to be killed after. The new database is whole, under another name, before the old one
//! loses its name. From then on a service refuses to start until the new one has its name, which is last; and a repair
//! that starts over finds everything it needs. What gets no row is out of the way by then, since a cleanup deletes
//! directories without a row.

mod plan;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::fault::point;
use crate::files::{ensure_dir, failed, names, stat, sync_dir, unlink, with_suffix};
use crate::layerdir::IMAGE;
use crate::layerdir::record::{self, COMMITTING, RECORD};
use crate::layerdir::{SNAPSHOTS, snapshot_id};
use crate::service::{DATABASE, take};
use crate::store::{Health, Store};
use crate::{Error, Result, ServiceError};

use plan::LayerDirState;
pub use plan::{Inconsistency, Plan, Problem};

/// Where directories go that nothing is known of.
const LOST: &str = "lost";
/// What a database is called from the moment it is no longer used, before a number.
const DAMAGED: &str = "metadata.db.damaged-";
/// What the new database is called until it is the one.
const NEW: &str = "metadata.db.new";
/// The endings of the files of a database: its own, which is none, and of what SQLite keeps beside it.
const FILES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// A root that can be repaired. No service can open it as long as this lives.
#[derive(Debug)]
pub struct Repair {
    root: PathBuf,
    health: Health,
    plan: Plan,
    /// Held as long as this lives.
    _lock: File,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
    /// Where the database is that was there before, if there was one.
    pub kept: Option<PathBuf>,
    /// The directories that have no row, where they are now, each after its number.
    pub lost: Vec<(u64, PathBuf)>,
}

impl Repair {
    /// Looks at every directory of a root, and changes nothing. With `force` it does so as well when the database needs
    /// no repair.
    ///
    /// # Errors
    /// [`ServiceError::InUse`] while a service has the root; [`ServiceError::DatabaseSound`]; [`ServiceError::Config`]
    /// where there are no snapshots; [`Error::Storage`].
    pub fn open(root: &Path, force: bool) -> Result<Self> {
        let snapshots = root.join(SNAPSHOTS);
        if stat(&snapshots)?.is_none() {
            let (value, reason) = (root.display().to_string(), "there are no snapshots in it");
            return Err(Error::Service(ServiceError::Config { setting: "root", value, reason }));
        }
        let lock = take(root)?;
        let path = root.join(DATABASE);
        let health = match Store::health(&path) {
            Err(error) if force => Health::Damaged(error.line()),
            other => other?,
        };
        let state = match health {
            Health::Sound => Some("it is sound and needs no repair"),
            Health::OtherVersion => Some("it is of another version of erolith, and not damaged"),
            Health::Missing | Health::Blank | Health::Damaged(_) => None,
        };
        if let Some(state) = state.filter(|_| !force) {
            return Err(Error::Service(ServiceError::DatabaseSound { path, state }));
        }
        let mut found = Vec::new();
        for name in names(&snapshots)? {
            let Some(id) = snapshot_id(&name).filter(|id| id.to_string() == name) else { continue };
            found.push(look(&snapshots.join(id.to_string()), id)?);
        }
        let plan = plan::plan(found, &lost_before(root)?);
        Ok(Self { root: root.to_owned(), health, plan, _lock: lock })
    }

    /// What was found of the database.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// What is to be done.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Does it, durably.
    ///
    /// # Errors
    /// [`Error::Storage`], and those of the database. It can be tried again then.
    pub fn run(&self) -> Result<Done> {
        let new = self.root.join(NEW);
        for end in FILES {
            unlink(&with_suffix(&new, end))?;
        }
        Store::make(&new, &self.plan.entries, self.plan.next)?;
        let file = File::open(&new).map_err(failed("opening", &new))?;
        file.sync_all().map_err(failed("syncing", &new))?;
        sync_dir(&self.root)?;
        point("repair.after_database")?;
        let kept = self.put_old_aside()?;
        point("repair.after_aside")?;
        let lost = self.put_lost_aside()?;
        point("repair.after_lost")?;
        rustix::fs::rename(&new, self.root.join(DATABASE)).map_err(failed("naming", &new))?;
        sync_dir(&self.root)?;
        point("repair.after_name")?;
        Ok(Done { kept, lost })
    }

    /// Gives the old database another name, with its log: the log of one is never replayed into the other. Its name goes
    /// first, since without its log it would silently be an older state.
    fn put_old_aside(&self) -> Result<Option<PathBuf>> {
        let old = self.root.join(DATABASE);
        let there = names(&self.root)?;
        let has_name = there.iter().any(|name| name == DATABASE);
        let is_of_it =
            |name: &String| name.strip_prefix(DATABASE).is_some_and(|end| FILES.contains(&end));
        if !there.iter().any(is_of_it) {
            return Ok(None);
        }
        let kept = self.root.join(format!("{DAMAGED}{}", aside(&there, has_name)));
        for end in FILES {
            let (from, to) = (with_suffix(&old, end), with_suffix(&kept, end));
            if stat(&from)?.is_some() {
                rustix::fs::rename(&from, &to).map_err(failed("putting away", &from))?;
                sync_dir(&self.root)?;
            }
        }
        Ok(Some(kept))
    }

    /// Moves the directories that get no row.
    fn put_lost_aside(&self) -> Result<Vec<(u64, PathBuf)>> {
        let (snapshots, lost) = (self.root.join(SNAPSHOTS), self.root.join(LOST));
        let mut moved = Vec::new();
        for Problem { id, .. } in self.plan.left_out() {
            ensure_dir(&lost, 0o700)?;
            let from = snapshots.join(id.to_string());
            let to = free(&lost, *id)?;
            rustix::fs::rename(&from, &to).map_err(failed("putting away", &from))?;
            moved.push((*id, to));
        }
        if !moved.is_empty() {
            [&lost, &snapshots, &self.root].into_iter().try_for_each(|dir| sync_dir(dir))?;
        }
        Ok(moved)
    }
}

/// What there is in one directory.
fn look(dir: &Path, id: u64) -> Result<LayerDirState> {
    Ok(LayerDirState {
        id,
        record: record::read(dir, RECORD, id),
        announced: record::read(dir, COMMITTING, id),
        has_image: stat(&dir.join(IMAGE))?.is_some(),
    })
}

/// The ids of directories that an earlier repair moved to `lost`.
fn lost_before(root: &Path) -> Result<BTreeSet<u64>> {
    let names = names(&root.join(LOST))?;
    Ok(names.iter().filter_map(|name| snapshot_id(name.split('.').next()?)).collect())
}

/// A name in `lost` that is not taken.
fn free(lost: &Path, id: u64) -> Result<PathBuf> {
    let mut path = lost.join(id.to_string());
    let mut count = 0_u64;
    while stat(&path)?.is_some() {
        count += 1;
        path = lost.join(format!("{id}.{count}"));
    }
    Ok(path)
}

/// The number under which an old database is kept: the next one. When only its log is there, a repair was cut short
/// after the database itself was renamed, and the log goes beside it, unless that one has a log.
fn aside(there: &[String], has_name: bool) -> u64 {
    let split = |name: &String| {
        let text = name.strip_prefix(DAMAGED)?;
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        Some((snapshot_id(text.get(..end)?)?, end < text.len()))
    };
    let numbers: Vec<(u64, bool)> = there.iter().filter_map(split).collect();
    let Some(last) = numbers.iter().map(|(number, _)| *number).max() else { return 1 };
    if has_name || numbers.contains(&(last, true)) { last.saturating_add(1) } else { last }
}

#[cfg(test)]
mod tests;
