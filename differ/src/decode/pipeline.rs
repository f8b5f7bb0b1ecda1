//! The stages that run on threads of their own. Each ends when its input ends or its output is not read any more.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::block::{Block, Pool};
use super::budget::Zeros;
use super::{Budget, Cancel, Decoder};
use crate::error::{MismatchError, ProcessError};
use crate::{Digest, Error, Hasher, Result};

/// What every stage watches.
#[derive(Debug, Clone)]
pub(super) struct DecodeLimits {
    pub(super) budget: Budget,
    pub(super) cancel: Cancel,
    pub(super) start: Instant,
}

/// Blocks on their way to the next stages.
pub(super) type Outlet = Sender<Arc<Block>>;

/// Starts a stage.
pub(super) fn spawn<T: Send + 'static>(
    stage: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let action = || format!("starting a {stage} thread");
    thread::Builder::new().name(stage.to_owned()).spawn(work).map_err(Error::io(action()))
}

/// The result of a stage that has ended or is about to.
pub(super) fn join<T>(stage: &'static str, thread: JoinHandle<T>) -> Result<T> {
    thread.join().map_err(|_| Error::Process(ProcessError::ThreadDied { stage }))
}

/// The first stage: reads the blob and hashes it.
pub(super) struct ReadStage {
    pub(super) source: Box<dyn Read + Send>,
    pub(super) pool: Pool,
    /// For the digest of the blob, if it is wanted.
    pub(super) blob: Option<Hasher>,
    /// For a second digest of a plain blob, with another algorithm.
    pub(super) content: Option<Hasher>,
    /// Digest and size by the descriptor.
    pub(super) expected: Option<(Digest, u64)>,
    pub(super) limits: DecodeLimits,
    /// Whether the blob is what the consumer gets. Then its size counts as output.
    pub(super) plain: bool,
    /// Set when the stream is dropped: its digest is then of no interest any more.
    pub(super) dropped: Arc<AtomicBool>,
}

/// What the first stage knows at the end.
#[derive(Debug)]
pub(super) struct ReadOutcome {
    /// Digest of the blob.
    pub(super) blob: Option<Digest>,
    /// The second digest of it.
    pub(super) content: Option<Digest>,
    pub(super) bytes: u64,
}

impl ReadStage {
    /// Reads until `block` has at least `enough` bytes or the blob ends.
    pub(super) fn fill(&mut self, block: &mut Block, enough: usize) -> Result<()> {
        while block.filled().len() < enough {
            match self.source.read(block.room()) {
                Ok(0) => break,
                Ok(n) => block.advance(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::reading("reading the blob", e)),
            }
        }
        Ok(())
    }

    /// Passes on `first`, then the rest of the blob. Verifies size and digest at the end. When the next stage gives up,
    /// the rest is only hashed, since what that stage stumbled over may be damage; without an expected digest there is no
    /// outcome then.
    pub(super) fn run(mut self, first: Block, next: &Outlet) -> Result<Option<ReadOutcome>> {
        let mut total = 0u64;
        let mut is_wanted = true;
        let mut block = first;
        while !block.filled().is_empty() {
            total += block.filled().len() as u64;
            if let Some((digest, size)) = self.expected.as_ref().filter(|(_, size)| total > *size) {
                return Err(Error::Mismatch(MismatchError::BlobSize {
                    digest: digest.clone(),
                    expected: *size,
                    actual: total,
                }));
            }
            self.limits.cancel.check()?;
            let budget = self.limits.budget.check(total, total, 0, self.limits.start);
            if self.plain && is_wanted {
                budget?;
            } else if !is_wanted && budget.is_err() {
                return Ok(None);
            }
            let block_out = Arc::new(block);
            if is_wanted && next.send(Arc::clone(&block_out)).is_err() {
                is_wanted = false;
            }
            if !is_wanted && !self.is_judged() {
                return Ok(None);
            }
            for hasher in self.blob.iter_mut().chain(&mut self.content) {
                hasher.update(block_out.filled());
            }
            drop(block_out);
            block = self.pool.take()?;
            self.fill(&mut block, BLOCK)?;
        }
        self.verify(total).map(Some)
    }

    /// Tells whether damage explains `error`, which the first bytes of the blob gave: hashes all of it.
    pub(super) fn explain(self, first: Block, error: Error) -> Error {
        let (next, _) = channel();
        match self.run(first, &next) {
            Err(mismatch) if is_mismatch(&mismatch) => mismatch,
            _ => error,
        }
    }

    /// Whether there is a digest to compare the bytes with, and interest in the answer.
    fn is_judged(&self) -> bool {
        self.expected.is_some() && self.blob.is_some() && !self.dropped.load(Ordering::Relaxed)
    }

    fn verify(self, bytes: u64) -> Result<ReadOutcome> {
        let blob = self.blob.map(Hasher::finish);
        let content = self.content.map(Hasher::finish);
        if let Some((expected, size)) = self.expected {
            if bytes != size {
                return Err(Error::Mismatch(MismatchError::BlobSize {
                    digest: expected,
                    expected: size,
                    actual: bytes,
                }));
            }
            // Every digest that there is of these bytes, whatever it was computed for.
            let comparable = |d: &&Digest| d.algorithm() == expected.algorithm();
            let wrong = blob.iter().chain(&content).filter(comparable).find(|d| **d != expected);
            if let Some(actual) = wrong.cloned() {
                return Err(Error::Mismatch(MismatchError::BlobDigest { expected, actual }));
            }
        }
        Ok(ReadOutcome { blob, content, bytes })
    }
}

/// Whether the error says that the bytes are not those that were meant. It then explains every other one.
pub(super) fn is_mismatch(error: &Error) -> bool {
    matches!(
        error,
        Error::Mismatch(MismatchError::BlobDigest { .. })
            | Error::Mismatch(MismatchError::BlobSize { .. })
            | Error::Mismatch(MismatchError::DiffId { .. })
    )
}

/// Bytes in a block: large enough that handing it over costs nothing beside filling it, small enough that a block
/// is still in the second-level cache when the next stage reads it.
pub(super) const BLOCK: usize = 256 * 1024;

/// The second stage: decompresses. Returns the number of bytes that came out.
pub(super) fn decode(
    mut decoder: Box<dyn Decoder>,
    input: &Receiver<Arc<Block>>,
    pool: &Pool,
    outlets: &[Outlet],
    limits: &DecodeLimits,
) -> Result<u64> {
    let (mut taken, mut made, mut zeros) = (0u64, 0u64, Zeros::default());
    let mut out = pool.take()?;
    while let Ok(block) = input.recv() {
        let mut rest = block.filled();
        loop {
            let step = decoder.step(rest, out.room())?;
            rest = rest.get(step.used..).unwrap_or_default();
            taken += step.used as u64;
            made += step.made as u64;
            out.advance(step.made);
            limits.cancel.check()?;
            limits.budget.check(taken, made, zeros.free(), limits.start)?;
            if !out.room().is_empty() {
                break;
            }
            zeros.see(out.filled());
            if !hand_over(std::mem::replace(&mut out, pool.take()?), outlets) {
                return Err(Error::Cancelled);
            }
        }
    }
    if !out.filled().is_empty() {
        hand_over(out, outlets);
    }
    decoder.end()?;
    Ok(made)
}

/// False when the receiver is gone.
fn hand_over(block: Block, outlets: &[Outlet]) -> bool {
    let block = Arc::new(block);
    outlets.iter().all(|outlet| outlet.send(Arc::clone(&block)).is_ok())
}

/// The third stage: hashes what came out.
pub(super) fn hash(mut hasher: Hasher, input: &Receiver<Arc<Block>>) -> Digest {
    while let Ok(block) = input.recv() {
        hasher.update(block.filled());
    }
    hasher.finish()
}
