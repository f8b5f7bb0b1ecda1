//! The bytes of a layer on their way out: hashed, compressed on other threads, hashed again.
//!
//! The same bytes come out whatever machine compresses them: nothing depends on the processor or on the number of threads.

mod gzip;

use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::decode::Cancel;
use crate::error::ProcessError;
use crate::{Algorithm, Compression, Digest, Error, Hasher, Result};

/// Bytes handed over at a time.
const BLOCK: usize = 256 << 10;
/// Blocks on their way.
const BLOCKS: usize = 4;
/// zstd's level: its default.
const ZSTD_LEVEL: i32 = 3;

/// What was written.
#[derive(Debug)]
pub(crate) struct EncodedTotals {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Of what went in.
    pub(crate) diff_id: Digest,
    pub(crate) raw_size: u64,
}

/// Writes to `out` what `fill` writes, compressed.
///
/// # Errors
/// What `fill`, `out` or the compressor says, [`Error::Cancelled`].
pub(crate) fn encode<T>(
    out: &mut (dyn Write + Send),
    compression: Compression,
    cancel: &Cancel,
    fill: impl FnOnce(&mut dyn Write) -> Result<T>,
) -> Result<(T, EncodedTotals)> {
    let (blocks, compressor) = sync_channel(BLOCKS);
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("compress".to_owned());
        // The receiver moves along: when the thread ends, sending fails.
        let compress = move || compress(compressor, out, compression, cancel);
        let handle = worker
            .spawn_scoped(scope, compress)
            .map_err(Error::io("starting a compress thread"))?;
        let mut feed = Feed::new(blocks);
        let filled = fill(&mut feed).and_then(|value| {
            feed.flush().map_err(Error::io("writing a layer"))?;
            Ok(value)
        });
        let (diff_id, raw_size) = feed.end();
        let written = handle
            .join()
            .map_err(|_| Error::Process(ProcessError::ThreadDied { stage: "compress" }));
        // When both failed, writing to a thread that had given up was the consequence.
        let (digest, size) = written??;
        let digest = digest.unwrap_or_else(|| diff_id.clone());
        Ok((filled?, EncodedTotals { digest, size, diff_id, raw_size }))
    })
}

/// The end at which a layer is written.
struct Feed {
    blocks: SyncSender<Vec<u8>>,
    block: Vec<u8>,
    hasher: Hasher,
    bytes: u64,
}

impl Feed {
    fn new(blocks: SyncSender<Vec<u8>>) -> Self {
        let block = Vec::with_capacity(BLOCK);
        Self { blocks, block, hasher: Hasher::new(Algorithm::Sha256), bytes: 0 }
    }

    /// Digest and number of the bytes; the other end sees the end.
    fn end(self) -> (Digest, u64) {
        (self.hasher.finish(), self.bytes)
    }
}

impl Write for Feed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(buf.get(..n).unwrap_or_default());
        if self.block.len() == BLOCK {
            self.flush()?;
        }
        Ok(n)
    }

    /// Hands over what there is.
    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.hasher.update(&block);
        self.bytes += block.len() as u64;
        self.blocks.send(block).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Threads that compress one layer.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Writes all blocks, compressed. Returns the number of bytes that came out, and their digest if they are others than
/// went in.
fn compress(
    blocks: Receiver<Vec<u8>>,
    out: &mut (dyn Write + Send),
    compression: Compression,
    cancel: &Cancel,
) -> Result<(Option<Digest>, u64)> {
    let failed = || Error::io("writing a layer");
    let hasher = (compression != Compression::None).then(|| Hasher::new(Algorithm::Sha256));
    let mut out = ByteCounter { out: BufWriter::with_capacity(BLOCK, out), hasher, bytes: 0 };
    match compression {
        Compression::None => copy(&blocks, &mut out, cancel)?,
        Compression::Gzip => gzip::compress(blocks, &mut out, threads(), cancel)?,
        Compression::Zstd => {
            let encoder = zstd::stream::write::Encoder::new(&mut out, ZSTD_LEVEL);
            let mut encoder = encoder.map_err(failed())?;
            // Even one thread compresses in the jobs that several would.
            let threads = u32::try_from(threads()).unwrap_or(1);
            encoder.multithread(threads).map_err(failed())?;
            encoder.include_checksum(true).map_err(failed())?;
            copy(&blocks, &mut encoder, cancel)?;
            encoder.finish().map_err(failed())?;
        }
    }
    out.flush().map_err(failed())?;
    Ok((out.hasher.map(Hasher::finish), out.bytes))
}

fn copy(blocks: &Receiver<Vec<u8>>, to: &mut dyn Write, cancel: &Cancel) -> Result<()> {
    for block in blocks {
        cancel.check()?;
        to.write_all(&block).map_err(Error::io("writing a layer"))?;
    }
    Ok(())
}

/// An output whose bytes are counted, and hashed if that is wanted.
struct ByteCounter<W> {
    out: W,
    hasher: Option<Hasher>,
    bytes: u64,
}

impl<W: Write> Write for ByteCounter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(buf.get(..n).unwrap_or_default());
        }
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
