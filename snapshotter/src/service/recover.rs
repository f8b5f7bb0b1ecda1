//! What a process that was killed, or a power cut, left half-done. Directories without a snapshot are no business of
//! a start: cleanup removes them.

use std::collections::BTreeMap;

use super::cleanup::number;
use super::{Snapshotter, commit};
use crate::Result;
use crate::fault::point;
use crate::files::{names, stat};
use crate::layerdir::{self, CONVERTED, UPPER};
use crate::store::{Filters, Kind};

impl Snapshotter {
    /// Looks at every directory once, and at the rows only when something is wrong.
    pub(super) fn recover(&self) -> Result<()> {
        let mut missing = self.store.ids()?;
        let mut unfinished = Vec::new();
        for id in names(&self.snapshots)?.iter().filter_map(|name| number(name)) {
            // A directory without an upper directory was not made to its end.
            let is_made = stat(&self.dir(id).join(UPPER))?.is_some();
            let is_converted = stat(&self.dir(id).join(CONVERTED))?.is_some();
            if is_made || is_converted {
                missing.remove(&id);
            }
            if is_converted {
                unfinished.push(id);
            }
        }
        if missing.is_empty() && unfinished.is_empty() {
            return Ok(());
        }
        point("recover.before_rows")?;
        let kinds = self.kinds()?;
        for id in unfinished {
            match kinds.get(&id) {
                Some(Kind::Committed) => self.finish_commit(id)?,
                Some(_) => commit::undo(&self.dir(id))?,
                None => {}
            }
        }
        for id in missing {
            if let Some(&kind) = kinds.get(&id) {
                self.rebuild(id, kind)?;
            }
        }
        Ok(())
    }

    /// The kind of every snapshot, by number.
    fn kinds(&self) -> Result<BTreeMap<u64, Kind>> {
        let mut kinds = BTreeMap::new();
        for info in self.store.list(&Filters::parse(&[])?)? {
            kinds.insert(self.store.snapshot(&info.name)?.id, info.kind);
        }
        Ok(kinds)
    }

    /// Makes the directory of a snapshot anew, empty. Its content is lost, which only a power cut without
    /// [`super::Config::sync`] or somebody's hand can do; so it is said loudly. A layer stays without its image:
    /// whoever wants to stand on it is told.
    fn rebuild(&self, id: u64, kind: Kind) -> Result<()> {
        tracing::error!(
            id,
            kind = kind.as_str(),
            "the directory of a snapshot was lost; it starts empty"
        );
        let dir = self.dir(id);
        if stat(&dir)?.is_some() {
            self.set_aside(&dir)?;
        }
        layerdir::make(&dir, kind)?;
        point("recover.after_directory")
    }
}
