//! What a process that was killed, or a power cut, left half-done. Directories without a snapshot are no business of
//! a start: cleanup removes them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Snapshotter, commit};
use crate::Result;
use crate::fault::point;
use crate::files::{ensure_dir, names, stat};
use crate::layerdir::record::{self, COMMITTING, RECORD};
use crate::layerdir::snapshot_id;
use crate::layerdir::{CONVERTED, IMAGE, UPPER, WORK};
use crate::lowers::IdMaps;
use crate::store::{Filters, Kind, Snapshot};

/// What is wrong with the directories, by their numbers.
struct Survey {
    /// They are not there, or were not made to their end.
    missing: BTreeSet<u64>,
    /// They have an image and no upper directory.
    hollow: BTreeSet<u64>,
    /// Their commit was cut short.
    unfinished: Vec<u64>,
    /// They have no record.
    unwritten: Vec<u64>,
}

impl Snapshotter {
    /// Looks at every directory once, and at the rows only when something is wrong.
    pub(super) fn recover(&self) -> Result<()> {
        let Survey { missing, hollow, unfinished, unwritten } = self.survey()?;
        let is_whole = missing.is_empty() && hollow.is_empty() && unfinished.is_empty();
        if is_whole && !self.config.immutable {
            self.write_records(unwritten);
            return Ok(());
        }
        point("recover.before_rows")?;
        let rows = self.rows()?;
        for (id, (_, snapshot)) in &rows {
            if snapshot.kind == Kind::Committed {
                self.protect_from_hands(*id);
            }
        }
        for (_, snapshot) in hollow.iter().filter_map(|id| rows.get(id)) {
            self.mend(snapshot)?;
        }
        for id in unfinished {
            match rows.get(&id).map(|(_, snapshot)| snapshot.kind) {
                Some(Kind::Committed) => self.complete_commit(id)?,
                Some(_) => commit::undo(&self.dir(id))?,
                None => {}
            }
        }
        for id in missing {
            if let Some((key, snapshot)) = rows.get(&id) {
                self.rebuild(key, snapshot)?;
            }
        }
        self.write_records(unwritten);
        Ok(())
    }

    fn survey(&self) -> Result<Survey> {
        let mut missing = self.store.ids()?;
        let (mut hollow, mut unfinished, mut unwritten) = (BTreeSet::new(), Vec::new(), Vec::new());
        for id in names(&self.snapshots)?.iter().filter_map(|name| snapshot_id(name)) {
            let dir = self.dir(id);
            let has_upper = stat(&dir.join(UPPER))?.is_some();
            let is_converted = stat(&dir.join(CONVERTED))?.is_some();
            let has_image = is_converted || stat(&dir.join(IMAGE))?.is_some();
            // A directory with neither was not made to its end.
            if has_upper || has_image {
                missing.remove(&id);
            }
            if has_image && !has_upper {
                hollow.insert(id);
            }
            if is_converted || stat(&dir.join(COMMITTING))?.is_some() {
                unfinished.push(id);
            }
            // Before there were records, or a power cut took what was in it.
            if stat(&dir.join(RECORD))?.is_none_or(|record| record.st_size == 0) {
                unwritten.push(id);
            }
        }
        Ok(Survey { missing, hollow, unfinished, unwritten })
    }

    /// Makes the upper directory of a layer anew. The end of a commit exchanges it for an empty one, and after a power cut
    /// btrfs may know that the old one went, and of no new one.
    fn mend(&self, snapshot: &Snapshot) -> Result<()> {
        let Snapshot { id, kind, parents, labels, .. } = snapshot;
        tracing::warn!(id, "an upper directory was lost; it starts empty");
        let dir = self.dir(*id);
        ensure_dir(&dir.join(UPPER), 0o755)?;
        if *kind == Kind::Active {
            ensure_dir(&dir.join(WORK), 0o711)?;
        }
        self.own_upper(&dir, parents.first().copied(), IdMaps::from_labels(labels)?.as_ref())
    }

    /// Does what a commit does once the database has it.
    fn complete_commit(&self, id: u64) -> Result<()> {
        let dir = self.dir(id);
        if stat(&dir.join(CONVERTED))?.is_some() {
            self.finish_commit(id)?;
        }
        record::adopt(&dir)
    }

    fn write_records(&self, ids: Vec<u64>) {
        for id in ids {
            record::refresh_if_possible(&self.store, &self.dir(id), id);
        }
    }

    /// Every snapshot with its key, by number.
    fn rows(&self) -> Result<BTreeMap<u64, (String, Snapshot)>> {
        let mut rows = BTreeMap::new();
        for info in self.store.list(&Filters::parse(&[])?)? {
            let snapshot = self.store.snapshot(&info.name)?;
            rows.insert(snapshot.id, (info.name, snapshot));
        }
        Ok(rows)
    }

    /// Makes the directory of a snapshot anew, empty. A power cut may take one in which nothing was ever synced. A
    /// layer was synced, so it was removed by hand; it stays without its image, and preparing on it
    /// fails.
    pub(super) fn rebuild(&self, key: &str, snapshot: &Snapshot) -> Result<()> {
        let Snapshot { id, kind, parents, labels, .. } = snapshot;
        match kind {
            Kind::Committed => {
                tracing::error!(id, "a layer was lost; pull its image again");
                self.store.set_damaged(*id, "its directory was gone")?;
            }
            Kind::Active | Kind::View => {
                tracing::warn!(id, "a directory was lost; it starts empty")
            }
        }
        let maps = IdMaps::from_labels(labels)?;
        let mut fresh = self.fresh(*kind)?;
        if let Some(bytes) = self.limit_of(*kind, key, labels) {
            let owner = self.owner_of(parents.first().copied(), maps.as_ref())?;
            self.limit(&mut fresh, bytes, owner)?;
        }
        self.place(&mut fresh, key, snapshot, maps.as_ref())?;
        // Of a layer there is more to say.
        record::refresh_if_possible(&self.store, &self.dir(*id), *id);
        point("recover.after_directory")
    }
}
