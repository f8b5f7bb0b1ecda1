//! Which rows a database gets that is made of the records in the directories, and what is wrong with the rest. Nothing
//! here touches a disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use crate::layerdir::record::Unreadable;
use crate::store::{Entry, Kind};

/// Ids that may have been given out beyond the largest one that is found: their directories are gone, and other
/// programs may still refer to them.
const MARGIN: u64 = 64;

/// Numbers beyond this one were never given out by us.
const LARGEST: u64 = 1 << 60;

/// What there is in the directory of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerDirState {
    /// The directory's number.
    pub(super) id: u64,
    /// Its record.
    pub(super) record: Option<Result<Entry, Unreadable>>,
    /// What its record was to be after a commit that was under way.
    pub(super) announced: Option<Result<Entry, Unreadable>>,
    /// Whether there is an image, whatever it is.
    pub(super) has_image: bool,
}

/// What is wrong with one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inconsistency {
    /// There is no record.
    NoRecord,
    /// There is one that says nothing.
    Unreadable(Unreadable),
    /// The parent is not there, or is left out itself.
    ParentMissing(u64),
    /// The parent is no layer.
    ParentNotLayer(u64),
    /// A later snapshot, this one, has the same key.
    KeyTaken(u64),
    /// It is above itself, or above one that is.
    Circle,
    /// A layer without image. It is kept, as damaged.
    NoImage,
}

impl Inconsistency {
    /// Whether the snapshot has a row all the same.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        matches!(self, Self::NoImage)
    }

    /// A stable name for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoRecord => "no-record",
            Self::Unreadable(why) => why.code(),
            Self::ParentMissing(_) => "parent-missing",
            Self::ParentNotLayer(_) => "parent-not-committed",
            Self::KeyTaken(_) => "key-taken",
            Self::Circle => "circle",
            Self::NoImage => "no-image",
        }
    }
}

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRecord => f.write_str("it has no record"),
            Self::Unreadable(why) => write!(f, "its record cannot be read: {why}"),
            Self::ParentMissing(parent) => write!(f, "its parent, snapshot {parent}, is missing"),
            Self::ParentNotLayer(parent) => {
                write!(f, "its parent, snapshot {parent}, is not committed")
            }
            Self::KeyTaken(by) => write!(f, "snapshot {by}, which is newer, has the same key"),
            Self::Circle => f.write_str("its parents run in a circle"),
            Self::NoImage => f.write_str("its image is gone: pull it again"),
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The directory's number.
    pub id: u64,
    /// The key, where it is known.
    pub key: Option<String>,
    /// What is wrong.
    pub fault: Inconsistency,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The rows, parents first.
    pub entries: Vec<Entry>,
    /// The first id that will be given out.
    pub next: u64,
    /// What is wrong, by number. All but those that are kept have no row.
    pub problems: Vec<Problem>,
}

impl Plan {
    /// The snapshots that get no row.
    pub fn left_out(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| !problem.fault.is_kept())
    }
}

/// Decides about every directory. `used` are other ids that must not come again.
pub(super) fn plan(found: Vec<LayerDirState>, used: &BTreeSet<u64>) -> Plan {
    let ids = found.iter().map(|found| found.id).chain(used.iter().copied());
    let next = ids.filter(|id| *id <= LARGEST).max().unwrap_or(0) + 1 + MARGIN;
    let mut problems = Vec::new();
    let mut rows = BTreeMap::new();
    for found in found {
        let (id, has_image) = (found.id, found.has_image);
        match state(found) {
            Ok(mut entry) => {
                if entry.kind == Kind::Committed && !has_image && entry.damage.is_none() {
                    let (key, fault) = (Some(entry.key.clone()), Inconsistency::NoImage);
                    entry.damage =
                        Some("its image was gone when the database was made anew".into());
                    problems.push(Problem { id, key, fault });
                }
                rows.insert(id, entry);
            }
            Err(fault) => problems.push(Problem { id, key: None, fault }),
        }
    }
    let mut faults = taken(&rows);
    let mut entries = Vec::new();
    let order = order(&rows, &mut faults);
    problems.retain(|problem| !faults.contains_key(&problem.id));
    for (id, fault) in faults {
        let key = rows.remove(&id).map(|entry| entry.key);
        problems.push(Problem { id, key, fault });
    }
    entries.extend(order.iter().filter_map(|id| rows.remove(id)));
    problems.sort_by_key(|problem| problem.id);
    Plan { entries, next, problems }
}

/// What a snapshot is. What a commit announced holds as soon as there is an image: it was whole by then, and whether the
/// database had it is unknown.
fn state(found: LayerDirState) -> Result<Entry, Inconsistency> {
    match (found.announced, found.record) {
        _ if found.id > LARGEST => Err(Inconsistency::NoRecord),
        (Some(Ok(entry)), _) if found.has_image => Ok(entry),
        (_, Some(record)) => record.map_err(Inconsistency::Unreadable),
        (Some(Err(why)), None) => Err(Inconsistency::Unreadable(why)),
        (Some(Ok(_)) | None, None) => Err(Inconsistency::NoRecord),
    }
}

/// Those whose key a later one has.
fn taken(rows: &BTreeMap<u64, Entry>) -> BTreeMap<u64, Inconsistency> {
    let owners: BTreeMap<&str, u64> =
        rows.values().map(|entry| (entry.key.as_str(), entry.id)).collect();
    let owner = |entry: &Entry| owners.get(entry.key.as_str()).copied().unwrap_or(entry.id);
    let losers = rows.values().filter(|entry| owner(entry) != entry.id);
    losers.map(|entry| (entry.id, Inconsistency::KeyTaken(owner(entry)))).collect()
}

/// The ids of those that can have a row, parents first. The others go to `faults`.
fn order(rows: &BTreeMap<u64, Entry>, faults: &mut BTreeMap<u64, Inconsistency>) -> Vec<u64> {
    let mut children: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let (mut ready, mut out) = (VecDeque::new(), VecDeque::from_iter(faults.keys().copied()));
    for (id, entry) in rows.iter().filter(|(id, _)| !faults.contains_key(id)) {
        match entry.parent {
            None => ready.push_back(*id),
            Some(parent) => {
                children.entry(parent).or_default().push(*id);
                if !rows.contains_key(&parent) && !out.contains(&parent) {
                    out.push_back(parent);
                }
            }
        }
    }
    let mut order = Vec::new();
    while let Some(id) = ready.pop_front() {
        order.push(id);
        let above = children.remove(&id).unwrap_or_default();
        if rows.get(&id).is_some_and(|entry| entry.kind == Kind::Committed) {
            ready.extend(above);
        } else {
            faults.extend(above.iter().map(|child| (*child, Inconsistency::ParentNotLayer(id))));
            out.extend(above);
        }
    }
    // Descendants of what is left out are left out, whatever else is wrong with them.
    while let Some(id) = out.pop_front() {
        let above = children.remove(&id).unwrap_or_default();
        faults.extend(above.iter().map(|child| (*child, Inconsistency::ParentMissing(id))));
        out.extend(above);
    }
    faults.extend(children.into_values().flatten().map(|child| (child, Inconsistency::Circle)));
    order
}

#[cfg(test)]
mod tests;
