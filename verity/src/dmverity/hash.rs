//! Digests of many blocks, on several threads and in bounded memory.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::CancelCheck;
use super::error::{Error, failed};
use super::geometry::{DIGEST, Level, per_block};
use crate::ReadAt;
use crate::blockhash::{BlockHash, Known, Part};

/// Bytes that a thread reads at a time, at least.
const PIECE: u64 = 512 << 10;
/// More threads than this wait for the memory.
const MAX_THREADS: usize = 4;

/// Is shown digests, and the number of the first of them.
pub(super) type BlockVisitor<'a> = dyn Fn(u64, &[u8]) -> Result<(), Error> + Sync + 'a;

/// Digests blocks.
#[derive(Debug, Clone)]
pub(super) struct Hasher {
    block_bits: u8,
    hash: BlockHash,
}

impl Hasher {
    pub(super) fn new(block_bits: u8, salt: &[u8]) -> Self {
        Self { block_bits, hash: BlockHash::new(salt, 1 << block_bits) }
    }

    /// The digest of one block.
    pub(super) fn block(&self, block: &[u8]) -> [u8; DIGEST] {
        self.hash.one(block)
    }

    /// Shows `each` the digests of all blocks of `level`, of which some may be known, whole blocks of digests at a time, with
    /// the number of the first block. From several threads, in no order; pieces are begun in theirs. After an error nothing
    /// more is begun.
    ///
    /// # Errors
    /// That of the foremost piece that has one.
    pub(super) fn each(
        &self,
        file: &dyn ReadAt,
        level: Level,
        known: Option<&Known>,
        stop: &CancelCheck<'_>,
        each: &BlockVisitor<'_>,
    ) -> Result<(), Error> {
        let step = per_block(self.block_bits).max(PIECE >> self.block_bits);
        let next = AtomicU64::new(0);
        let broken = AtomicBool::new(false);
        let first: Mutex<Option<(u64, Error)>> = Mutex::new(None);
        let work = || {
            let mut buf =
                Buffers { hash: self.hash.clone(), bytes: Vec::new(), digests: Vec::new() };
            while !broken.load(Ordering::Acquire) {
                let piece = next.fetch_add(step, Ordering::Relaxed);
                if piece >= level.blocks {
                    break;
                }
                let blocks = step.min(level.blocks - piece);
                let done = if stop() { Err(Error::Stopped) } else { Ok(()) }
                    .and_then(|()| self.piece(file, level, known, piece..piece + blocks, &mut buf))
                    .and_then(|()| each(piece, &buf.digests));
                if let Err(error) = done {
                    broken.store(true, Ordering::Release);
                    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                    if first.as_ref().is_none_or(|(at, _)| piece < *at) {
                        *first = Some((piece, error));
                    }
                }
            }
        };
        let pieces = usize::try_from(level.blocks.div_ceil(step)).unwrap_or(usize::MAX);
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        thread::scope(|scope| {
            for _ in 1..threads.min(MAX_THREADS).min(pieces) {
                // Where there are no more threads, there are fewer.
                let _ = thread::Builder::new().name("dm-verity".into()).spawn_scoped(scope, work);
            }
            work();
        });
        let first = first.into_inner().unwrap_or_else(PoisonError::into_inner);
        first.map_or(Ok(()), |(_, error)| Err(error))
    }

    fn piece(
        &self,
        file: &dyn ReadAt,
        level: Level,
        known: Option<&Known>,
        blocks: Range<u64>,
        buf: &mut Buffers,
    ) -> Result<(), Error> {
        let byte = |block: u64| level.offset + (block << self.block_bits);
        let (mut at, end) = (byte(blocks.start), byte(blocks.end));
        buf.digests.clear();
        while at < end {
            let next = match known.map(|known| known.part(at..end)) {
                Some(Part::Known(digests)) => {
                    buf.digests.extend_from_slice(digests);
                    at += ((digests.len() / DIGEST) as u64) << self.block_bits;
                    continue;
                }
                Some(Part::Missing(next)) => next,
                None => end,
            };
            let len = usize::try_from(next - at);
            let len = len.map_err(|_| failed("reading", at)(io::ErrorKind::OutOfMemory.into()))?;
            buf.bytes.resize(len, 0);
            file.read_exact_at(&mut buf.bytes, at).map_err(failed("reading", at))?;
            buf.hash.all(&buf.bytes, &mut buf.digests);
            at = next;
        }
        Ok(())
    }
}

/// What one thread needs.
struct Buffers {
    hash: BlockHash,
    bytes: Vec<u8>,
    digests: Vec<u8>,
}
