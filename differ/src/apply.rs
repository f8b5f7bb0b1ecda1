//! One layer becomes one EROFS image in a content store.
//!
//! [`build`] decodes the layer and writes the image to an ingest file; [`Built::seal`] computes the image's digest,
//! compresses it if that is wanted, syncs and publishes it. They are two steps because the second can go on while
//! the next layer is being decoded.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};

use std::sync::Arc;

use erolith_mkfs::build::{Builder, Finish, Options, Summary};
use erolith_mkfs::check;
use erolith_mkfs::image::Image;
use erolith_mkfs::io::{FileSink, ReadAt};
use erolith_mkfs::tar::Limits;
use erolith_mkfs::tree::{Lower, LowerDir};

use crate::content::{Blob, ContentStore, Ingest, Mode};
use crate::decode::{Cancel, Decoded, LayerStream, Request};
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

/// UUID of the image of the layer with this diffID, the one that containerd's differ gives: version 5 in the
/// namespace of URLs, of `erofs:blobs/` and the digest.
#[must_use]
pub fn image_uuid(diff_id: &Digest) -> [u8; 16] {
    let name = format!("erofs:blobs/{diff_id}");
    *uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes()).as_bytes()
}

/// The layers below, to be asked for when it turns out that they matter.
pub trait Lowers {
    /// The images of the layers below, the nearest first. May wait for them.
    ///
    /// # Errors
    /// When one of them could not be made.
    fn images(&self) -> Result<Vec<Blob>>;
}

/// An image that is written and not yet published.
#[derive(Debug)]
pub struct Built {
    ingest: Box<dyn Ingest>,
    /// What the layer's blob was.
    pub source: Decoded,
    /// What was built; `None` for a layer that was an image already.
    pub summary: Option<Summary>,
    /// Does the image depend on the layers below? It takes attributes of directories from them that it does not
    /// describe itself.
    pub inherits: bool,
}

/// A published image layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Digest of the raw image.
    pub diff_id: Digest,
}

/// Decodes a tar layer into an image.
///
/// # Errors
/// Everything that can be wrong with the blob or the archive, and what the storage reports. Nothing is published.
pub fn build_tar(
    store: &dyn ContentStore,
    blob: impl Read + Send + 'static,
    request: Request,
    options: Options,
    lowers: &dyn Lowers,
) -> Result<Built> {
    let ingest = store.ingest(Mode::Fresh)?;
    let mut stream = LayerStream::open(blob, request)?;
    let file = ingest.file().try_clone().map_err(Error::io("duplicating a descriptor"))?;
    let sink = FileSink::new(file, ingest.scratch_dir()?);
    let base = options.layer.base;
    let mut builder = Builder::new(sink, options)?;
    if let Err(error) = builder.fill_from_tar(&mut stream, Limits::default()) {
        return Err(stream.take_error().unwrap_or(error.into()));
    }
    let source = stream.finish()?;
    let inherits = !base && builder.tree().has_implicit_dirs();
    if inherits {
        let images = lowers.images()?;
        let images = images.into_iter().map(LowerImage::open).collect::<Result<Vec<_>>>()?;
        let lowers: Vec<&dyn Lower> = images.iter().map(|image| image as &dyn Lower).collect();
        builder.inherit(&lowers);
        images.iter().try_for_each(LowerImage::result)?;
    }
    let uuid = source.diff_id.as_ref().map(image_uuid).unwrap_or_default();
    let finish = Finish { uuid, ..Finish::default() };
    let (_, summary) = builder.finish(&finish)?;
    Ok(Built { ingest, source, summary: Some(summary), inherits })
}

/// Takes a layer that is an EROFS image as it is, once it has been checked: no kernel sees an image before that.
///
/// The bytes that are checked are the copy that is published, so nobody can change them in between.
///
/// # Errors
/// [`Error::BadImage`], everything that can be wrong with the blob, and what the storage reports.
pub fn take_native(
    store: &dyn ContentStore,
    blob: impl Read + Send + 'static,
    request: Request,
) -> Result<Built> {
    let ingest = store.ingest(Mode::Fresh)?;
    let mut stream = LayerStream::open(blob, request)?;
    let mut file = ingest.file();
    if let Err(error) = io::copy(&mut stream, &mut file) {
        return Err(stream.take_error().unwrap_or_else(|| Error::io("copying an image")(error)));
    }
    let source = stream.finish()?;
    check_image(ingest.file())?;
    Ok(Built { ingest, source, summary: None, inherits: false })
}

fn check_image(file: &File) -> Result<()> {
    let report = check::check(file, &[], &check::Limits::default());
    let report = report.map_err(Error::io("checking an image"))?;
    let Some(finding) = report.errors().next() else { return Ok(()) };
    Err(Error::BadImage {
        code: finding.code(),
        reason: finding.corruption.to_string(),
        path: String::from_utf8_lossy(&finding.path).into_owned(),
    })
}

impl Built {
    /// Publishes the image in `store`.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and what the storage reports. Nothing is published then.
    pub fn seal(self, store: &dyn ContentStore, output: Output, cancel: &Cancel) -> Result<Sealed> {
        let size = self.ingest.file().metadata().map_err(Error::io("examining an image"))?.len();
        let diff_id = match output {
            Output::Raw => copy_hashed(self.ingest.file(), cancel, &mut io::sink())?,
            Output::Zstd { level, threads } => {
                let packed = store.ingest(Mode::Fresh)?;
                let (diff_id, digest, size) = compress(&self, &*packed, level, threads, cancel)?;
                packed.commit(&digest, size)?;
                return Ok(Sealed { digest, size, diff_id });
            }
        };
        self.ingest.commit(&diff_id, size)?;
        Ok(Sealed { digest: diff_id.clone(), size, diff_id })
    }
}

/// Compresses the image into `packed`. Returns the digest of the image, and digest and size of the result.
fn compress(
    built: &Built,
    packed: &dyn Ingest,
    level: i32,
    threads: u32,
    cancel: &Cancel,
) -> Result<(Digest, Digest, u64)> {
    let failed = || Error::io("compressing an image");
    let size = built.ingest.file().metadata().map_err(failed())?.len();
    let out = Hashed { file: packed.file(), hasher: Hasher::new(Algorithm::Sha256), bytes: 0 };
    let mut encoder = zstd::stream::write::Encoder::new(out, level).map_err(failed())?;
    // Even one thread compresses in the jobs that several would: the bytes must not depend on the machine.
    encoder.multithread(threads.max(1)).map_err(failed())?;
    encoder.include_checksum(true).map_err(failed())?;
    encoder.set_pledged_src_size(Some(size)).map_err(failed())?;
    let diff_id = copy_hashed(built.ingest.file(), cancel, &mut encoder)?;
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

/// Digests all of `from`, and shows every part of it to `each`.
fn hash_all(
    from: &dyn ReadAt,
    algorithm: Algorithm,
    cancel: &Cancel,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buf = vec![0; 256 * 1024];
    let mut offset = 0;
    loop {
        cancel.check()?;
        let n = match from.read_at(&mut buf, offset) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io("reading a blob")(e)),
        };
        let part = buf.get(..n).unwrap_or_default();
        hasher.update(part);
        each(part)?;
        offset += n as u64;
    }
}

/// The image of a layer below. What is wrong with it is remembered: the question has no room for it.
struct LowerImage {
    image: Image<Blob>,
    failed: RefCell<Option<Error>>,
}

impl LowerImage {
    fn open(blob: Blob) -> Result<Self> {
        let image = Image::open(blob, Vec::new()).map_err(lower_failed)?;
        Ok(Self { image, failed: RefCell::new(None) })
    }

    fn result(&self) -> Result<()> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }

    fn find(&self, path: &[&[u8]]) -> std::result::Result<LowerDir, erolith_mkfs::image::Error> {
        let mut at = self.image.root()?;
        let mut hidden = false;
        for name in path {
            hidden |= self.is_opaque(&at)?;
            let Some(nid) = self.image.lookup_in(&at, name)? else {
                return Ok(if hidden { LowerDir::Hidden } else { LowerDir::Unknown });
            };
            at = self.image.stat(nid)?;
            if !at.is_dir() {
                return Ok(LowerDir::Hidden);
            }
        }
        let mut xattrs = self.image.xattrs(&at)?;
        xattrs.retain(|x| !x.name.starts_with(b"trusted.overlay."));
        Ok(LowerDir::Found(at.meta(), xattrs))
    }

    fn is_opaque(
        &self,
        dir: &erolith_mkfs::image::Inode,
    ) -> std::result::Result<bool, erolith_mkfs::image::Error> {
        let xattrs = self.image.xattrs(dir)?;
        Ok(xattrs.iter().any(|x| x.name == b"trusted.overlay.opaque" && x.value == b"y"))
    }
}

impl Lower for LowerImage {
    fn directory(&self, path: &[&[u8]]) -> LowerDir {
        self.find(path).unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(lower_failed(error));
            LowerDir::Hidden
        })
    }
}

fn lower_failed(error: erolith_mkfs::image::Error) -> Error {
    let (code, reason) = (error.code(), error.to_string());
    Error::BadImage { code, reason, path: String::new() }
}

/// Reads a published layer to its end and verifies it against what is known of it.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn verify(blob: &Blob, sealed: &Sealed, output: Output, cancel: &Cancel) -> Result<()> {
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
/// [`Error::BlobSize`], [`Error::BlobDigest`], and what the storage reports.
pub(crate) fn copy_blob(
    store: &dyn ContentStore,
    blob: &Blob,
    digest: &Digest,
    size: u64,
    cancel: &Cancel,
) -> Result<()> {
    let mismatch = |actual| Error::BlobSize { digest: digest.clone(), expected: size, actual };
    let hash_blob = |blob: &Blob| hash_all(blob, digest.algorithm(), cancel, &mut |_| Ok(()));
    if blob.len() != size {
        return Err(mismatch(blob.len()));
    }
    if let Ok(there) = store.open(digest)
        && there.len() == size
        && (there.is_same_file(blob) || hash_blob(&there)? == *digest)
    {
        return Ok(());
    }
    let ingest = store.ingest(Mode::Fresh)?;
    let file = ingest.file().try_clone().map_err(Error::io("duplicating a descriptor"))?;
    let sink = FileSink::new(file, ingest.scratch_dir()?);
    let (from, offset) = blob.file();
    let copied = erolith_mkfs::io::Sink::copy_from(
        &sink,
        std::os::fd::AsFd::as_fd(&**from),
        offset,
        0,
        size,
    );
    copied.map_err(Error::io(format!("copying blob {digest}")))?;
    let copy = Blob::new(Arc::new(sink.into_file()), 0, size);
    let actual = hash_blob(&copy)?;
    if actual != *digest {
        return Err(Error::BlobDigest { expected: digest.clone(), actual });
    }
    ingest.commit(digest, size)
}
