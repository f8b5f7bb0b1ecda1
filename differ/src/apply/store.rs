//! The last steps of an image that becomes a blob of a content store, raw or compressed.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use erolith_mkfs::protect::Protected;
use erolith_verity::dmverity::DmVerityTree;
use erolith_verity::fsverity;

use super::isolation::StagedImage;
use super::protect::Protect;
use super::verify::hash_all;
use crate::content::{Blob, Ingest, Mode, OciLayout, Provider as _, Staging, require_digest};
use crate::decode::{Cancel, LayerStream, Request};
use crate::{Algorithm, Compression, Digest, EROFS_LAYER, EROFS_LAYER_ZSTD, Error, Hasher, Result};

/// How an image layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// As it is: it can be mounted in place.
    #[default]
    Raw,
    /// In one zstd frame: smaller to send, unpacked before it is mounted.
    Zstd {
        /// zstd's level, 1 to 22.
        level: i32,
        /// Threads that compress. The result does not depend on their number.
        threads: u32,
    },
}

impl Output {
    /// The media type of such a layer.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Raw => EROFS_LAYER,
            Self::Zstd { .. } => EROFS_LAYER_ZSTD,
        }
    }
}

/// A published image layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Digest of the raw image, hash tree included.
    pub diff_id: Digest,
    /// Its hash tree, when it has one.
    pub verity: Option<DmVerityTree>,
    /// The fs-verity digest of the raw image, where that was wanted or promised.
    pub fsverity: Option<fsverity::Digest>,
}

impl StagedImage<Box<dyn Ingest>> {
    /// Publishes the image in `store`.
    ///
    /// # Errors
    /// [`Error::Verity`], [`Error::Cancelled`], and what the storage reports. Nothing is published then.
    pub(crate) fn seal(
        self,
        store: &OciLayout,
        output: Output,
        protect: &Protect,
        cancel: &Cancel,
    ) -> Result<StoredImage> {
        let Protected { digest, verity } =
            protect.complete(self.staging.file(), self.protected, cancel)?;
        let size = self.staging.file().metadata().map_err(Error::io("examining an image"))?.len();
        let is_digest_wanted = protect.is_digest_wanted || protect.digest.is_some();
        let fsverity = match digest {
            None if is_digest_wanted => Some(super::fsverity::of(self.staging.file(), cancel)?),
            digest => digest,
        };
        let diff_id = match output {
            Output::Raw => copy_hashed(self.staging.file(), cancel, &mut io::sink())?,
            Output::Zstd { level, threads } => {
                let packed = store.ingest(Mode::Fresh)?;
                let (diff_id, digest, size) = compress(&self, &*packed, level, threads, cancel)?;
                packed.commit(&digest, size)?;
                return Ok(StoredImage { digest, size, diff_id, verity, fsverity });
            }
        };
        self.staging.commit(&diff_id, size)?;
        Ok(StoredImage { digest: diff_id.clone(), size, diff_id, verity, fsverity })
    }
}

/// Compresses the image into `packed`. Returns the digest of the image, and digest and size of the result.
fn compress(
    built: &StagedImage<Box<dyn Ingest>>,
    packed: &dyn Ingest,
    level: i32,
    threads: u32,
    cancel: &Cancel,
) -> Result<(Digest, Digest, u64)> {
    let failed = || Error::io("compressing an image");
    let size = built.staging.file().metadata().map_err(failed())?.len();
    let out = Hashed { file: packed.file(), hasher: Hasher::new(Algorithm::Sha256), bytes: 0 };
    let mut encoder = zstd::stream::write::Encoder::new(out, level).map_err(failed())?;
    // Even one thread compresses in the jobs that several would: the bytes must not depend on the machine.
    encoder.multithread(threads.max(1)).map_err(failed())?;
    encoder.include_checksum(true).map_err(failed())?;
    encoder.set_pledged_src_size(Some(size)).map_err(failed())?;
    let diff_id = copy_hashed(built.staging.file(), cancel, &mut encoder)?;
    let out = encoder.finish().map_err(failed())?;
    Ok((diff_id, out.hasher.finish(), out.bytes))
}

/// A file whose bytes are hashed as they are written.
struct Hashed<'a> {
    file: &'a File,
    hasher: Hasher,
    bytes: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.hasher.update(buf.get(..n).unwrap_or_default());
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads all of `file`, which is still in the page cache, and writes it to `out`. Returns its digest.
fn copy_hashed(file: &File, cancel: &Cancel, out: &mut dyn Write) -> Result<Digest> {
    hash_all(file, Algorithm::Sha256, cancel, &mut |part| {
        out.write_all(part).map_err(Error::io("writing an image"))
    })
}

/// Reads a published layer to its end and verifies it against what is known of it.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn verify(
    blob: &Blob,
    sealed: &StoredImage,
    output: Output,
    cancel: &Cancel,
) -> Result<()> {
    let compression = match output {
        Output::Raw => Compression::None,
        Output::Zstd { .. } => Compression::Zstd,
    };
    let request = Request {
        layer_type: Some(crate::LayerType::Erofs { compression }),
        blob: Some((sealed.digest.clone(), sealed.size)),
        diff_id: Some(sealed.diff_id.clone()),
        cancel: cancel.clone(),
        ..Request::default()
    };
    LayerStream::open(blob.reader(), request)?.finish().map(drop)
}

/// Copies a blob into `store`, unless it is there, and verifies the copy.
///
/// # Errors
/// [`crate::error::MismatchError::BlobSize`], [`crate::error::MismatchError::BlobDigest`], and what the storage reports.
pub(crate) fn copy_blob(
    store: &OciLayout,
    blob: &Blob,
    digest: &Digest,
    size: u64,
    cancel: &Cancel,
) -> Result<()> {
    let hash_blob = |blob: &Blob| hash_all(blob, digest.algorithm(), cancel, &mut |_| Ok(()));
    blob.require_size(digest, size)?;
    if let Ok(there) = store.open(digest)
        && there.len() == size
        && (there.is_same_file(blob) || hash_blob(&there)? == *digest)
    {
        return Ok(());
    }
    let ingest = store.ingest(Mode::Fresh)?;
    let file = ingest.file().try_clone().map_err(Error::io("duplicating a descriptor"))?;
    blob.copy_to(0, size, &file, 0).map_err(Error::io(format!("copying blob {digest}")))?;
    require_digest(digest, hash_blob(&Blob::new(Arc::new(file), 0, size))?)?;
    ingest.commit(digest, size)
}
