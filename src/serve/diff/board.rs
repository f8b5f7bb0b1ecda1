//! Which Apply is under way or failed, for those that wait for the layer below theirs.
//!
//! What succeeded is on the disk. The rest lives as long as the daemon: after a restart the callers of every Apply are gone
//! as well.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::serve::registration::SNAPSHOTTER;

/// Endings that are remembered. The oldest are forgotten: their snapshots were removed, or applied again, long ago.
const REMEMBERED: usize = 1024;

/// The last Apply into a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Apply {
    /// It is under way.
    Running,
    /// It failed with this message.
    Failed(String),
    /// It was left to another differ.
    Declined,
}

/// What those who wait look at.
#[derive(Debug)]
pub(crate) struct Board {
    applies: Mutex<BTreeMap<u64, Apply>>,
    /// What containerd's configuration calls this snapshotter, as its last request said.
    snapshotter: Mutex<String>,
    changes: watch::Sender<u64>,
}

impl Default for Board {
    fn default() -> Self {
        let (changes, _) = watch::channel(0);
        let snapshotter = Mutex::new(SNAPSHOTTER.to_owned());
        Self { applies: Mutex::default(), snapshotter, changes }
    }
}

impl Board {
    /// Wakes those who wait: a snapshot came, changed or went.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Hears of changes from now on.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Remembers what a request called the snapshotter.
    pub(crate) fn called(&self, snapshotter: &str) {
        let mut name = self.snapshotter.lock().unwrap_or_else(PoisonError::into_inner);
        if !snapshotter.is_empty() && *name != snapshotter {
            snapshotter.clone_into(&mut name);
        }
    }

    /// What containerd calls the snapshotter.
    pub(super) fn snapshotter(&self) -> String {
        self.snapshotter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of the last Apply into the snapshot `id`.
    pub(crate) fn of(&self, id: u64) -> Option<Apply> {
        self.applies().get(&id).cloned()
    }

    /// An Apply into the snapshot `id` begins.
    pub(super) fn begin(self: &std::sync::Arc<Self>, id: u64) -> Running {
        self.set(id, Some(Apply::Running));
        Running { board: self.clone(), id, end: Some(Apply::Failed("it was called off".into())) }
    }

    fn set(&self, id: u64, apply: Option<Apply>) {
        {
            let mut applies = self.applies();
            match apply {
                Some(apply) => drop(applies.insert(id, apply)),
                None => drop(applies.remove(&id)),
            }
            while applies.len() > REMEMBERED {
                let ended = applies.iter().find(|(_, apply)| **apply != Apply::Running);
                let Some(id) = ended.map(|(id, _)| *id) else { break };
                applies.remove(&id);
            }
        }
        self.changed();
    }

    fn applies(&self) -> MutexGuard<'_, BTreeMap<u64, Apply>> {
        self.applies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An Apply that is under way. It was cancelled if this is dropped before it ended.
#[derive(Debug)]
pub(super) struct Running {
    board: std::sync::Arc<Board>,
    id: u64,
    end: Option<Apply>,
}

impl Running {
    /// It ended: as `failure` says, or well.
    pub(super) fn ended(mut self, failure: Option<Apply>) {
        self.end = failure;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.board.set(self.id, self.end.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn endings_are_known_and_the_oldest_are_forgotten() {
        let board = Arc::new(Board::default());
        let mut changes = board.changes();
        let failed = |text: &str| Some(Apply::Failed(text.to_owned()));
        let kept = board.begin(0);
        assert_eq!(board.of(0), Some(Apply::Running));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        drop(board.begin(1));
        assert_eq!(board.of(1), failed("it was called off"));
        board.begin(1).ended(failed("bad"));
        assert_eq!(board.of(1), failed("bad"));
        board.begin(1).ended(Some(Apply::Declined));
        assert_eq!(board.of(1), Some(Apply::Declined));
        board.begin(1).ended(None);
        assert_eq!(board.of(1), None);
        for id in 2..2000 {
            drop(board.begin(id));
        }
        assert_eq!((board.of(0), board.of(2)), (Some(Apply::Running), None));
        assert!(board.of(1999).is_some() && changes.has_changed().unwrap());
        kept.ended(None);
        assert_eq!(board.of(0), None);
    }
}
