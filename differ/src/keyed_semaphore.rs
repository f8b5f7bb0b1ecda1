//! A keyed semaphore: one permit for each key, and a limit on all permits together.
//!
//! Two calls for one layer must not both convert it. The second one waits without a permit, so that another layer can
//! have it, and looks for the result of the first when it gets one.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::Result;
use crate::decode::Cancel;

/// A door that lets at most so many in, and of those with the same key one.
#[derive(Debug, Clone)]
pub struct KeyedSemaphore(Arc<SharedSemaphore>);

#[derive(Debug)]
struct SharedSemaphore {
    state: Mutex<SemaphoreState>,
    changed: Condvar,
}

#[derive(Debug)]
struct SemaphoreState {
    limit: usize,
    next: u64,
    /// Keys of those inside.
    inside: BTreeSet<String>,
    /// Those who wait, by number, in the order in which they came.
    waiting: VecDeque<(u64, String)>,
}

impl SemaphoreState {
    /// The one whose turn it is: the first whose key is not inside, if there is room.
    fn turn(&self) -> Option<u64> {
        if self.inside.len() >= self.limit {
            return None;
        }
        let free = |(_, key): &&(u64, String)| !self.inside.contains(key);
        self.waiting.iter().find(free).map(|(number, _)| *number)
    }

    fn leave_queue(&mut self, number: u64) -> Option<String> {
        let at = self.waiting.iter().position(|(n, _)| *n == number)?;
        self.waiting.remove(at).map(|(_, key)| key)
    }
}

/// The right to work on one key, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<SharedSemaphore>,
    key: String,
    waited: bool,
}

impl Permit {
    /// Whether another call worked on the same key while this one waited: then the result may be there.
    #[must_use]
    pub fn waited(&self) -> bool {
        self.waited
    }
}

impl KeyedSemaphore {
    /// A gate for `limit` at the same time.
    #[must_use]
    pub fn new(limit: NonZeroUsize) -> Self {
        let state = SemaphoreState {
            limit: limit.get(),
            next: 0,
            inside: BTreeSet::new(),
            waiting: VecDeque::new(),
        };
        Self(Arc::new(SharedSemaphore { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Waits until no other call works on `key` and a permit is free, in order of arrival.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`].
    pub fn enter(&self, key: &str, cancel: &Cancel) -> Result<Permit> {
        let shared = Arc::clone(&self.0);
        let waker = Arc::clone(&shared);
        // Taken and given back while the state is not locked: the hook locks it.
        let _watch = cancel.on_cancel(move || {
            // No thread is between the check of the flag and the wait now.
            drop(waker.state());
            waker.changed.notify_all();
        });
        let mut state = shared.state();
        let number = state.next;
        state.next += 1;
        let waited = state.inside.contains(key) || state.waiting.iter().any(|(_, k)| k == key);
        state.waiting.push_back((number, key.to_owned()));
        loop {
            if let Err(cancelled) = cancel.check() {
                state.leave_queue(number);
                drop(state);
                shared.changed.notify_all();
                return Err(cancelled);
            }
            if state.turn() == Some(number) {
                break;
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let key = state.leave_queue(number).unwrap_or_default();
        state.inside.insert(key.clone());
        drop(state);
        // There may be room for one more.
        shared.changed.notify_all();
        Ok(Permit { shared, key, waited })
    }
}

impl SharedSemaphore {
    fn state(&self) -> MutexGuard<'_, SemaphoreState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.state().inside.remove(&self.key);
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn gate(limit: usize) -> KeyedSemaphore {
        KeyedSemaphore::new(NonZeroUsize::new(limit).unwrap())
    }

    /// Waits until `n` threads are in the queue.
    fn queued(gate: &KeyedSemaphore, n: usize) {
        while gate.0.state().waiting.len() != n {
            thread::yield_now();
        }
    }

    #[test]
    fn turns_go_to_the_first_whose_key_is_free() {
        let state = |limit, inside: &[&str], waiting: &[&str]| SemaphoreState {
            limit,
            next: 0,
            inside: inside.iter().map(|key| (*key).to_owned()).collect(),
            waiting: (0..).zip(waiting.iter().map(|key| (*key).to_owned())).collect(),
        };
        for (limit, inside, waiting, turn) in [
            (2, &[][..], &[][..], None),
            (2, &[], &["a", "b"], Some(0)),
            (2, &["a"], &["a", "b"], Some(1)),
            (2, &["a"], &["a", "a"], None),
            (2, &["a", "b"], &["c"], None),
            (3, &["a", "b"], &["b", "a", "c", "d"], Some(2)),
        ] {
            let got = state(limit, inside, waiting).turn();
            assert_eq!(got, turn, "{limit} {inside:?} {waiting:?}");
        }
    }

    #[test]
    fn one_at_a_time_on_a_key_and_never_more_than_the_limit() {
        let gate = gate(3);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let keys: Vec<AtomicUsize> = (0..5).map(|_| AtomicUsize::new(0)).collect();
        thread::scope(|scope| {
            for i in 0..40 {
                let (gate, inside, most, key) = (&gate, &inside, &most, &keys[i % keys.len()]);
                scope.spawn(move || {
                    let name = (i % 5).to_string();
                    let pass = gate.enter(&name, &Cancel::default()).unwrap();
                    assert_eq!(key.fetch_add(1, Ordering::SeqCst), 0, "two at {name}");
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    key.fetch_sub(1, Ordering::SeqCst);
                    drop(pass);
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3);
        assert!(gate.0.state().inside.is_empty() && gate.0.state().waiting.is_empty());
    }

    #[test]
    fn who_is_called_off_leaves_and_lets_the_next_one_in() {
        let gate = gate(2);
        let first = gate.enter("a", &Cancel::default()).unwrap();
        assert!(!first.waited());
        let cancel = Cancel::default();
        thread::scope(|scope| {
            let second = scope.spawn(|| gate.enter("a", &cancel).map(drop));
            queued(&gate, 1);
            let third = scope.spawn(|| gate.enter("a", &Cancel::default()).map(|p| p.waited()));
            queued(&gate, 2);
            cancel.cancel();
            assert_eq!(second.join().unwrap().unwrap_err().code(), "cancelled");
            queued(&gate, 1);
            drop(first);
            assert!(third.join().unwrap().unwrap());
        });
        assert!(gate.enter("a", &cancel).is_err(), "called off before it came");
    }

    #[test]
    fn other_keys_pass_those_who_wait() {
        let gate = gate(2);
        let first = gate.enter("a", &Cancel::default()).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let cancel = Cancel::default();
                gate.enter("a", &cancel).map(|pass| pass.waited())
            });
            queued(&gate, 1);
            drop(gate.enter("b", &Cancel::default()).unwrap());
            drop(first);
            assert!(waiting.join().unwrap().unwrap());
        });
    }
}
