//! Hashing behind the writer's back: a thread of its own reads what was written, as soon as whole blocks are there.
//!
//! A conversion waits for its input now and then, and what it wrote a moment ago is in memory. Once the file is complete
//! there is little left to hash.

mod spans;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use self::spans::Spans;
use crate::blockhash::Known;

/// Bytes of the blocks that are hashed: a multiple of the blocks of every digest.
const BLOCK: u64 = 4096;
/// Bytes that are read at once: they stay in the processor's cache between being read and being hashed.
const PIECE: usize = 256 << 10;
/// How much less urgent than the writing it is.
const NICE: i32 = 19;
/// Bytes of digests that are kept. What comes behind them is hashed when the file is complete.
const MEMORY: usize = 32 << 20;

/// A file, and the thread that hashes what is written to it, if there is one.
#[derive(Debug)]
pub struct Followed {
    file: File,
    follower: Option<Arc<Shared>>,
}

impl From<File> for Followed {
    /// Nothing is hashed.
    fn from(file: File) -> Self {
        Self { file, follower: None }
    }
}

impl Followed {
    /// The same file, written through another descriptor and hashed by the same thread.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, follower: self.follower.clone() })
    }

    /// The file. What is written to it directly is to be told by [`Self::wrote`].
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file back.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }

    /// From now on `follower` hashes what is written.
    pub fn follow(&mut self, follower: &Follower) {
        self.follower = Some(Arc::clone(&follower.shared));
    }

    /// Writes all of `data` at byte `offset`.
    ///
    /// # Errors
    /// What the storage reports.
    pub fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)?;
        self.wrote(offset, data.len() as u64);
        Ok(())
    }

    /// So many bytes were written at byte `offset` in some other way.
    pub fn wrote(&self, offset: u64, bytes: u64) {
        if let Some(follower) = &self.follower {
            follower.wrote(offset, bytes);
        }
    }

    /// Sets the length of the file, in bytes.
    ///
    /// # Errors
    /// What the storage reports.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        if let Some(follower) = &self.follower {
            follower.set_len(len);
        }
        Ok(())
    }
}

/// Follows the writing of a file. Every byte is written once.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Vec<Known>>>,
}

/// What the thread and those who write have in common.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    written: Spans,
    /// Whole blocks that are to be hashed.
    ready: VecDeque<Range<u64>>,
    is_over: bool,
    /// Something was written twice, so that nothing is certain.
    is_confused: bool,
}

impl Follower {
    /// Begins: for digests of each of these kinds, with blocks of 4096 bytes at most. Where no thread can be had, nothing is
    /// lost but time.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn start(file: &File, mut digests: Vec<Known>) -> io::Result<Self> {
        let file = file.try_clone()?;
        let shared = Arc::new(Shared::default());
        let followed = Arc::clone(&shared);
        let work = move || {
            follow(&followed, &file, &mut digests);
            digests
        };
        let thread = thread::Builder::new().name("follower".into()).spawn(work).ok();
        Ok(Self { shared, thread })
    }

    /// Ends following. Returns what is known of the file, which is all right if nothing is written any more where something
    /// was.
    pub fn finish(mut self) -> Vec<Known> {
        let known = self.end();
        if self.shared.state().is_confused { Vec::new() } else { known }
    }

    fn end(&mut self) -> Vec<Known> {
        self.shared.state().is_over = true;
        self.shared.changed.notify_all();
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Follower {
    /// Nothing is read any more once this returns.
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes were written at byte `offset`.
    fn wrote(&self, offset: u64, bytes: u64) {
        let mut state = self.state();
        let range = offset..offset.saturating_add(bytes);
        let Some(blocks) = state.written.add(range, BLOCK) else {
            state.is_confused = true;
            return;
        };
        if blocks.is_empty() {
            return;
        }
        match state.ready.back_mut() {
            Some(last) if last.end == blocks.start => last.end = blocks.end,
            _ => state.ready.push_back(blocks),
        }
        self.changed.notify_one();
    }

    /// The file got this length.
    fn set_len(&self, len: u64) {
        let mut state = self.state();
        state.is_confused |= len < state.written.end();
    }

    /// Waits for blocks to hash, [`PIECE`] bytes of them at most; `None`: it is over.
    fn next(&self) -> Option<Range<u64>> {
        let wait = |state: &mut State| !state.is_over && state.ready.is_empty();
        let state = self.changed.wait_while(self.state(), wait);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.is_over || state.is_confused {
            return None;
        }
        let first = state.ready.front_mut()?;
        let end = first.end.min(first.start + PIECE as u64);
        let piece = first.start..end;
        first.start = end;
        if first.is_empty() {
            state.ready.pop_front();
        }
        Some(piece)
    }
}

/// Hashes what is written until it is over. What cannot be read now is read once more at the end, where the error is reported.
fn follow(shared: &Shared, file: &File, digests: &mut [Known]) {
    // The writer is what callers wait for, so this thread gets a lower priority, it alone, as Linux counts it. Where that is
    // refused, it has the priority of the others.
    let _ = rustix::process::setpriority_process(None, NICE);
    let mut buffer = vec![0; PIECE];
    while let Some(piece) = shared.next() {
        let len = usize::try_from(piece.end - piece.start).unwrap_or_default();
        let Some(bytes) = buffer.get_mut(..len) else { return };
        if file.read_exact_at(bytes, piece.start).is_err() {
            return;
        }
        for known in &mut *digests {
            known.add(piece.start, bytes);
        }
        if digests.iter().map(Known::memory).sum::<usize>() > MEMORY {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::blockhash::{BlockHash, Part};

    fn follower(file: &File) -> Follower {
        Follower::start(file, vec![Known::new(BlockHash::new(&[], 4096))]).unwrap()
    }

    fn wait(follower: &Follower) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !follower.shared.state().ready.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_was_written_is_known_in_whole_blocks() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
        file.write_all_at(&bytes, 4096).unwrap();
        let follower = follower(&file);
        for (offset, len) in [(4096, 300_000), (304_096, 700_000), (1_004_096, 1 << 10)] {
            follower.shared.wrote(offset, len);
        }
        wait(&follower);
        let known = follower.finish().pop().unwrap();
        let whole = (1_004_096 + (1 << 10)) / 4096 * 4096 - 4096;
        let mut want = Vec::new();
        let len = usize::try_from(whole).unwrap();
        BlockHash::new(&[], 4096).all(&bytes[..len], &mut want);
        assert!(known.part(4096..u64::MAX) == Part::Known(&want));
        assert_eq!(known.part(0..u64::MAX), Part::Missing(4096));
    }

    #[test]
    fn what_was_written_twice_or_cut_off_is_not_known() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        for confuse in
            [|shared: &Shared| shared.wrote(8191, 2), |shared: &Shared| shared.set_len(8192)]
        {
            let follower = follower(&file);
            follower.shared.wrote(0, 16384);
            wait(&follower);
            confuse(&follower.shared);
            assert!(follower.finish().is_empty());
        }
        let follower = follower(&file);
        follower.shared.wrote(0, 16384);
        follower.shared.set_len(16384);
        wait(&follower);
        assert!(matches!(follower.finish().pop().unwrap().part(0..4096), Part::Known(_)));
    }

    #[test]
    fn nobody_minds_a_file_that_cannot_be_read() {
        let file = File::options().write(true).open("/dev/null").unwrap();
        let follower = follower(&file);
        follower.shared.wrote(0, 8192);
        wait(&follower);
        assert_eq!(follower.finish().pop().unwrap().part(0..8192), Part::Missing(8192));
    }
}
