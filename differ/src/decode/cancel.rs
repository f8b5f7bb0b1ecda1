//! Cancellation of work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// Cancels work, from any thread. Clones share one flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    state: Arc<CancelFlag>,
    /// Of the work that this is a part of.
    above: Vec<Arc<CancelFlag>>,
}

type Hook = Box<dyn Fn() + Send>;

#[derive(Default)]
struct CancelFlag {
    set: AtomicBool,
    hooks: Mutex<Hooks>,
}

#[derive(Default)]
struct Hooks {
    next: u64,
    hooks: BTreeMap<u64, Hook>,
}

impl fmt::Debug for CancelFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.set.fmt(f)
    }
}

impl CancelFlag {
    fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    fn hooks(&self) -> MutexGuard<'_, Hooks> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cancel {
    /// A part of the work: cancelled by itself, or with the whole.
    #[must_use]
    pub fn part(&self) -> Self {
        Self { state: Arc::default(), above: self.states().map(Arc::clone).collect() }
    }

    /// Asks the work that holds a clone to stop soon.
    pub fn cancel(&self) {
        self.state.set.store(true, Ordering::Release);
        for hook in self.state.hooks().hooks.values() {
            hook();
        }
    }

    /// Fails once [`Cancel::cancel`] was called.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.states().any(|state| state.is_set()) { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn states(&self) -> impl Iterator<Item = &Arc<CancelFlag>> {
        std::iter::once(&self.state).chain(&self.above)
    }

    /// Calls `wake` when the work is cancelled, at once if it has been: for threads that wait for something else.
    /// It ends when the result is dropped, and must not take a lock under which that happens.
    #[must_use]
    pub(crate) fn on_cancel(&self, wake: impl Fn() + Send + Sync + 'static) -> CancelWatch {
        let wake = Arc::new(wake);
        let mut watch = CancelWatch(Vec::new());
        for state in self.states() {
            let mut hooks = state.hooks();
            let id = hooks.next;
            hooks.next += 1;
            let call = Arc::clone(&wake);
            hooks.hooks.insert(id, Box::new(move || call()));
            watch.0.push((Arc::clone(state), id));
            // Under the lock that `cancel` takes behind the flag: one of the two sees the other.
            if state.is_set() {
                wake();
            }
        }
        watch
    }
}

/// Keeps a hook of a [`Cancel`] alive.
#[derive(Debug)]
pub(crate) struct CancelWatch(Vec<(Arc<CancelFlag>, u64)>);

impl Drop for CancelWatch {
    fn drop(&mut self) {
        for (state, id) in &self.0 {
            state.hooks().hooks.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_part_ends_with_the_whole_and_not_the_other_way() {
        let whole = Cancel::default();
        let [a, b] = [whole.part(), whole.part()];
        a.cancel();
        assert!(a.check().is_err() && b.check().is_ok() && whole.check().is_ok());
        whole.cancel();
        assert!(b.check().is_err());
    }

    #[test]
    fn hooks_are_called_once_they_are_due_and_only_while_they_are_kept() {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = || {
            let calls = Arc::clone(&calls);
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        let whole = Cancel::default();
        let part = whole.part().part();
        let kept = part.on_cancel(count());
        drop(whole.on_cancel(count()));
        whole.cancel();
        assert_eq!(
            calls.load(Ordering::Relaxed),
            1,
            "the part's hook, and not the one that was given up"
        );
        drop(kept);
        let _late = part.on_cancel(count());
        assert_eq!(calls.load(Ordering::Relaxed), 2, "at once");
    }
}
