//! A layer blob as a verified stream of decoded bytes.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use erolith_errors::error_chain;
use erolith_mkfs::io::Input;
use serde::{Deserialize, Serialize};

use super::block::{Block, Pool};
use super::gzip::Gzip;
use super::pipeline::{self, BLOCK, DecodeLimits, ReadOutcome, ReadStage};
use super::zstd::Zstd;
use super::{Budget, Cancel, Decoder, inflate};
use crate::blob_kind::{self, BlobKind};
use crate::error::{LayerError, MismatchError, ProcessError};
use crate::{Compression, Digest, Error, Hasher, LayerType, Result};

/// Compressed blocks on their way, and decoded ones: what a pipeline holds in memory.
const BLOCKS_IN: usize = 4;
const BLOCKS_OUT: usize = 8;

/// The digests to compute of a blob, besides those that are expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Digests {
    /// That of the blob and that of the decoded bytes.
    #[default]
    Both,
    /// That of the decoded bytes.
    DiffId,
    /// None.
    Expected,
}

/// What is known about a blob before it is read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Request {
    /// What its media type says; `None` takes whatever a layer may be.
    pub layer_type: Option<LayerType>,
    /// Digest and size of the blob by its descriptor.
    pub blob: Option<(Digest, u64)>,
    /// Whether the caller trusts the digest of the blob: then it is not computed for that; the size is verified.
    pub is_vouched_for: bool,
    /// Digest of the decoded bytes by the image's config.
    pub diff_id: Option<Digest>,
    /// What else is to be known of it.
    pub digests: Digests,
    /// What it may cost.
    pub budget: Budget,
    /// Cancels the work. It is not sent to a worker, which is cancelled by being killed.
    #[serde(skip)]
    pub cancel: Cancel,
}

/// What a blob turned out to be. Everything expected was found true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecodedBlob {
    /// Digest of the blob, with the expected algorithm.
    pub blob: Option<Digest>,
    /// Bytes of the blob.
    pub blob_size: u64,
    /// Digest of the decoded bytes, all of them: also those behind the end of the tar archive.
    pub diff_id: Option<Digest>,
    /// Decoded bytes.
    pub size: u64,
    /// The compression found.
    pub compression: Compression,
}

/// The decoded bytes of a blob. Reading it to its end verifies everything the [`Request`] expects; a mismatch is an
/// error of the read that would have returned the end.
pub struct LayerStream {
    blocks: Option<Receiver<Arc<Block>>>,
    current: Option<Arc<Block>>,
    pos: usize,
    cancel: Cancel,
    threads: Option<Threads>,
    outcome: Option<Result<DecodedBlob>>,
    expected_diff_id: Option<Digest>,
    /// Whether the digest of the blob is computed and compared.
    is_blob_judged: bool,
    compression: Compression,
    /// Tells the first stage that its output is not read any more.
    dropped: Arc<AtomicBool>,
}

struct Threads {
    reader: JoinHandle<Result<Option<ReadOutcome>>>,
    decoder: Option<JoinHandle<Result<u64>>>,
    hasher: Option<JoinHandle<Digest>>,
}

/// Who computes the digests of a request.
struct Hashers {
    blob: Option<Hasher>,
    diff_id: Option<Hasher>,
    /// Whether both use one algorithm. Then one of them will do for a plain blob.
    alike: bool,
}

impl Hashers {
    fn of(request: &Request) -> Self {
        let blob = request.blob.as_ref().map(|(digest, _)| digest.algorithm());
        let diff_id = request.diff_id.as_ref().map(Digest::algorithm);
        let verifies_blob = blob.is_some() && !request.is_vouched_for;
        let wants_blob = verifies_blob || request.digests == Digests::Both;
        let wants_diff_id = diff_id.is_some() || request.digests != Digests::Expected;
        let (blob, diff_id) = (blob.unwrap_or_default(), diff_id.unwrap_or_default());
        Self {
            blob: wants_blob.then(|| Hasher::new(blob)),
            diff_id: wants_diff_id.then(|| Hasher::new(diff_id)),
            alike: blob == diff_id,
        }
    }
}

impl fmt::Debug for LayerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerStream")
            .field("compression", &self.compression)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl LayerStream {
    /// Starts decoding `source`.
    ///
    /// # Errors
    /// When the first bytes cannot be read or are nothing a layer of that type may be.
    pub fn open(source: impl Read + Send + 'static, request: Request) -> Result<Self> {
        let hashers = Hashers::of(&request);
        let Request { layer_type, blob, diff_id, budget, cancel, .. } = request;
        let limits = DecodeLimits { budget, cancel: cancel.clone(), start: Instant::now() };
        let dropped = Arc::new(AtomicBool::new(false));
        let is_blob_judged = blob.is_some() && hashers.blob.is_some();
        let mut reader = ReadStage {
            source: Box::new(source),
            pool: Pool::new(BLOCKS_IN, BLOCK),
            blob: hashers.blob,
            content: None,
            expected: blob,
            limits: limits.clone(),
            plain: false,
            dropped: Arc::clone(&dropped),
        };
        let mut first = reader.pool.take()?;
        reader.fill(&mut first, BlobKind::PREFIX)?;
        let compression = match blob_kind::compression(first.filled(), layer_type) {
            Ok(compression) => compression,
            Err(error) => return Err(reader.explain(first, error)),
        };
        let decoder: Option<Box<dyn Decoder>> = match compression {
            Compression::None => None,
            Compression::Gzip => Some(Box::new(Gzip::new(inflate::fastest()))),
            Compression::Zstd => Some(Box::new(Zstd::new(budget.zstd_window_log)?)),
        };
        let (outlet, blocks) = channel();
        let threads = if let Some(decoder) = decoder {
            let (to_decoder, compressed) = channel();
            let mut outlets = Vec::new();
            let hasher = hashers.diff_id.map(|hasher| {
                let (to_hasher, to_hash) = channel();
                outlets.push(to_hasher);
                pipeline::spawn("diffid", move || pipeline::hash(hasher, &to_hash))
            });
            outlets.push(outlet);
            let decoder = pipeline::spawn("inflate", move || {
                let pool = Pool::new(BLOCKS_OUT, BLOCK);
                pipeline::decode(decoder, &compressed, &pool, &outlets, &limits)
            })?;
            let reader = pipeline::spawn("read", move || reader.run(first, &to_decoder))?;
            Threads { reader, decoder: Some(decoder), hasher: hasher.transpose()? }
        } else {
            reader.plain = true;
            reader.content = hashers.diff_id.filter(|_| !hashers.alike || reader.blob.is_none());
            let reader = pipeline::spawn("read", move || reader.run(first, &outlet))?;
            Threads { reader, decoder: None, hasher: None }
        };
        Ok(Self {
            blocks: Some(blocks),
            current: None,
            pos: 0,
            cancel,
            threads: Some(threads),
            outcome: None,
            expected_diff_id: diff_id,
            is_blob_judged,
            compression,
            dropped,
        })
    }

    /// The compression found.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Reads what is left, and tells what the blob was.
    ///
    /// # Errors
    /// Whatever is wrong with the blob: it is damaged, over its budget, or not what was expected.
    pub fn finish(mut self) -> Result<DecodedBlob> {
        while self.advance()? {
            self.current = None;
        }
        self.outcome
            .take()
            .unwrap_or(Err(Error::Process(ProcessError::ThreadDied { stage: "decoder" })))
    }

    /// The reason why reading failed, when it failed here and not in the consumer: it says more than the
    /// [`io::Error`] that the consumer got.
    pub fn take_error(&mut self) -> Option<Error> {
        match self.outcome.take() {
            Some(Err(error)) => Some(error),
            other => {
                self.outcome = other;
                None
            }
        }
    }

    /// Why the work on these bytes failed, which ended with `error`. It is a failure of the stream itself, if there was one;
    /// or that the bytes are not those that were meant, for which the rest of the blob is hashed; or else `error`.
    pub fn explain(&mut self, error: Error) -> Error {
        if let Some(own) = self.take_error() {
            return own;
        }
        let is_judged = self.is_blob_judged || self.expected_diff_id.is_some();
        let is_content = matches!(&error, Error::Build(error) if error.is_about_content());
        let mut is_more = is_judged && is_content;
        if self.is_blob_judged {
            // The first stage hashes on when the last one is gone.
            self.blocks = None;
        }
        while is_more {
            self.current = None;
            match self.advance() {
                Ok(more) => is_more = more,
                Err(found) if pipeline::is_mismatch(&found) => return found,
                Err(found @ (Error::Layer(LayerError::Corrupt { .. }) | Error::Cancelled))
                    if !self.is_blob_judged =>
                {
                    return found;
                }
                Err(_) => break,
            }
        }
        error
    }

    /// Makes `current` a block with unread bytes. False at the verified end.
    fn advance(&mut self) -> Result<bool> {
        if self.current.as_ref().is_some_and(|block| self.pos < block.filled().len()) {
            return Ok(true);
        }
        self.current = None;
        self.pos = 0;
        self.cancel.check()?;
        if let Some(block) = self.blocks.as_ref().and_then(|blocks| blocks.recv().ok()) {
            self.current = Some(block);
            return Ok(true);
        }
        self.blocks = None;
        if let Some(threads) = self.threads.take() {
            self.outcome = Some(self.verify(threads));
        }
        match &self.outcome {
            Some(Ok(_)) => Ok(false),
            _ => Err(self
                .take_error()
                .unwrap_or(Error::Process(ProcessError::ThreadDied { stage: "decoder" }))),
        }
    }

    fn verify(&self, threads: Threads) -> Result<DecodedBlob> {
        // The decoder's complaint about a blob that ends early is a consequence of what the reader complains about.
        let read = pipeline::join("reader", threads.reader)?;
        let decoder = threads.decoder.map(|decoder| pipeline::join("decoder", decoder));
        let hasher = threads.hasher.map(|hasher| pipeline::join("hasher", hasher));
        let Some(ReadOutcome { blob, content, bytes }) = read? else {
            let told = decoder.map_or(Ok(Ok(0)), |made| made)?;
            return Err(told
                .err()
                .unwrap_or(Error::Process(ProcessError::ThreadDied { stage: "decoder" })));
        };
        let (size, diff_id) = match decoder {
            Some(made) => (made??, hasher.transpose()?),
            None => (bytes, content.or_else(|| blob.clone())),
        };
        if let Some(expected) = self.expected_diff_id.clone()
            && let Some(actual) = diff_id.clone().filter(|d| *d != expected)
        {
            return Err(Error::Mismatch(MismatchError::DiffId { expected, actual }));
        }
        Ok(DecodedBlob { blob, blob_size: bytes, diff_id, size, compression: self.compression })
    }
}

impl Drop for LayerStream {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

impl Input for LayerStream {
    fn fill(&mut self) -> io::Result<&[u8]> {
        if let Err(error) = self.advance() {
            let told = io::Error::other(error_chain(&error));
            self.outcome = Some(Err(error));
            return Err(told);
        }
        let rest = self.current.as_ref().and_then(|block| block.filled().get(self.pos..));
        Ok(rest.unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.pos = self.pos.saturating_add(n);
    }
}

impl Read for LayerStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let have = self.fill()?;
        let n = have.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), have.get(..n)) {
            to.copy_from_slice(from);
        }
        self.consume(n);
        Ok(n)
    }
}
