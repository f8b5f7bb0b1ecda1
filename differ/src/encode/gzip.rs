//! One gzip member (RFC 1952), compressed by several threads.
//!
//! Each block is compressed by itself, with the 32 KiB before it as its dictionary, and ends at a byte (`Z_SYNC_FLUSH`); so
//! the pieces follow each other as one deflate stream. Any inflater reads it, and it is less than 0.1 % larger than one
//! that was compressed in one piece. The crate `gzp` does the same for zlib and libdeflate, not for zlib-rs, whose bytes are
//! those of every processor.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::{Compress, Crc, FlushCompress, Status};

use crate::blob_kind::GZIP_MAGIC;
use crate::decode::Cancel;
use crate::error::ProcessError;
use crate::{Error, Result};

/// zlib's level: what gzip and containerd use.
const LEVEL: u32 = 6;
/// How far deflate looks back.
const WINDOW: usize = 32 << 10;
/// RFC 1952, 2.3: deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [GZIP_MAGIC[0], GZIP_MAGIC[1], 8, 0, 0, 0, 0, 0, 0, 255];
/// The last block of a deflate stream: one with fixed codes that is empty.
const END: [u8; 2] = [3, 0];

/// A block to compress, what was before it, and where the result goes.
struct DeflateJob {
    block: Vec<u8>,
    before: Arc<[u8]>,
    done: SyncSender<Result<DeflatePiece>>,
}

/// A part of the deflate stream, and the checksum of what is in it.
struct DeflatePiece {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Writes all blocks to `out` as one member.
///
/// # Errors
/// What `out` says, [`Error::Cancelled`].
pub(super) fn compress(
    blocks: Receiver<Vec<u8>>,
    out: &mut dyn Write,
    threads: usize,
    cancel: &Cancel,
) -> Result<()> {
    let failed = || Error::io("writing a layer");
    out.write_all(&HEADER).map_err(failed())?;
    let (jobs, work) = sync_channel::<DeflateJob>(threads);
    let work = Mutex::new(work);
    // The results in the order of the blocks; as many as may wait for the slowest.
    let (results, order) = sync_channel(threads.saturating_mul(2));
    let crc = thread::scope(|scope| -> Result<Crc> {
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        for _ in 0..threads {
            let started = spawn("deflate").spawn_scoped(scope, || deflate_all(&work));
            started.map_err(Error::io("starting a deflate thread"))?;
        }
        let hand_out = move || hand_out(&blocks, &jobs, &results, cancel);
        let giver = spawn("blocks").spawn_scoped(scope, hand_out);
        let giver = giver.map_err(Error::io("starting a deflate thread"))?;
        let mut crc = Crc::new();
        let order: Receiver<Receiver<Result<DeflatePiece>>> = order;
        for result in order {
            let piece = result
                .recv()
                .map_err(|_| Error::Process(ProcessError::ThreadDied { stage: "deflate" }))??;
            out.write_all(&piece.bytes).map_err(failed())?;
            crc.combine(&piece.crc);
        }
        giver
            .join()
            .map_err(|_| Error::Process(ProcessError::ThreadDied { stage: "deflate" }))??;
        Ok(crc)
    })?;
    let trailer = [crc.sum().to_le_bytes(), crc.amount().to_le_bytes()].concat();
    out.write_all(&[&END[..], &trailer].concat()).map_err(failed())
}

/// Gives each block to a free thread. Ends early when the results are not read any more.
fn hand_out(
    blocks: &Receiver<Vec<u8>>,
    jobs: &SyncSender<DeflateJob>,
    results: &SyncSender<Receiver<Result<DeflatePiece>>>,
    cancel: &Cancel,
) -> Result<()> {
    let mut before: Arc<[u8]> = Arc::from([]);
    for block in blocks {
        cancel.check()?;
        let from = block.len().saturating_sub(WINDOW);
        let next = Arc::from(block.get(from..).unwrap_or_default());
        let (done, result) = sync_channel(1);
        let job = DeflateJob { block, before: std::mem::replace(&mut before, next), done };
        if results.send(result).is_err() || jobs.send(job).is_err() {
            break;
        }
    }
    Ok(())
}

fn deflate_all(work: &Mutex<Receiver<DeflateJob>>) {
    let mut deflate = Compress::new(flate2::Compression::new(LEVEL), false);
    loop {
        let job = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(DeflateJob { block, before, done }) = job else { return };
        // The receiver may be gone.
        let _ = done.send(deflate_block(&mut deflate, &block, &before));
    }
}

fn deflate_block(deflate: &mut Compress, block: &[u8], before: &[u8]) -> Result<DeflatePiece> {
    let failed = |e| Error::io("compressing a layer")(std::io::Error::other(e));
    deflate.reset();
    if !before.is_empty() {
        deflate.set_dictionary(before).map_err(failed)?;
    }
    // What cannot be compressed grows by 5 bytes for each 16 KiB.
    let mut bytes = Vec::with_capacity(block.len() + block.len() / 1024 + 64);
    loop {
        let done = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let rest = block.get(done..).unwrap_or_default();
        let status = deflate.compress_vec(rest, &mut bytes, FlushCompress::Sync);
        let is_full = bytes.len() == bytes.capacity();
        match status.map_err(failed)? {
            Status::Ok | Status::BufError if is_full => bytes.reserve(64 << 10),
            _ => break,
        }
    }
    let mut crc = Crc::new();
    crc.update(block);
    Ok(DeflatePiece { bytes, crc })
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read as _};

    use super::*;
    use crate::decode::{LayerStream, Request};

    fn gzip(blocks: &[Vec<u8>], threads: usize) -> Vec<u8> {
        let (sender, receiver) = sync_channel(blocks.len());
        for block in blocks {
            sender.send(block.clone()).unwrap();
        }
        drop(sender);
        let mut out = Vec::new();
        compress(receiver, &mut out, threads, &Cancel::default()).unwrap();
        out
    }

    /// Bytes that do not compress, from a fixed seed.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()[7]
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn any_number_of_threads_writes_the_same_member() {
        let text = b"what is said once need not be said twice. ".repeat(6000);
        for blocks in [
            vec![],
            vec![b"x".to_vec()],
            vec![text.clone(), noise(256 << 10), text.clone(), noise(70_001), text.clone()],
            vec![vec![0; 256 << 10]; 9],
        ] {
            let one = gzip(&blocks, 1);
            for threads in [2, 5] {
                assert_eq!(gzip(&blocks, threads), one);
            }
            let whole = blocks.concat();
            let mut stream =
                LayerStream::open(Cursor::new(one.clone()), Request::default()).unwrap();
            let mut plain = Vec::new();
            stream.read_to_end(&mut plain).unwrap();
            assert!(plain == whole);
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(LEVEL));
            encoder.write_all(&whole).unwrap();
            let single = encoder.finish().unwrap().len();
            let more = single / 1000 + 32 * (blocks.len() + 1);
            assert!(one.len() <= single + more, "{} and {single}", one.len());
        }
    }

    #[test]
    fn a_cancelled_member_is_an_error() {
        let (sender, receiver) = sync_channel(1);
        sender.send(vec![1]).unwrap();
        drop(sender);
        let cancel = Cancel::default();
        cancel.cancel();
        let error = compress(receiver, &mut Vec::new(), 2, &cancel).unwrap_err();
        assert!(matches!(error, Error::Cancelled));
    }
}
