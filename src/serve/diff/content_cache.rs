//! Converted images are put into containerd's content store too, where they can be pushed from, and from where a layer
//! that comes again is taken instead of being converted.
//!
//! Labels tell what belongs together. The blob of the layer names its image with a label that containerd's garbage
//! collector follows (core/metadata/gc.go): the image stays as long as the blob. The image names the layer it was made
//! from as `erolith convert` does in annotations. A label of one namespace is no proof in another.
//!
//! All that happens behind the answer, one image at a time: it costs a copy of the image and its digest.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use erolith_differ::convert::SOURCE_DIFF_ID;
use erolith_differ::decode::Cancel;
use erolith_differ::{Algorithm, Digest, Hasher};
use erolith_snapshotter::service::Snapshotter;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::causes::causes;
use crate::containerd::labels::{Labels, UNCOMPRESSED};
use crate::containerd::upload::{Upload, UploadInfo};
use crate::containerd::{Containerd, Scope};
use crate::proto::content::Info;
use crate::serve::blocking::cancellable;
use crate::serve::error::{Error, Result};
use crate::serve::metrics::Metrics;

/// On the blob of a layer: the digest of its image, which is not collected before the blob is.
const IMAGE_OF: &str = "containerd.io/gc.ref.content.erofs";
/// On an image: bytes of the layer it was made from, uncompressed.
const SOURCE_SIZE: &str = "org.erolith.source.layer.diff-size";
/// Layers that may wait. One more is not kept: it can be converted again.
const WAITING: u32 = 1024;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Puts images into the content store.
#[derive(Debug, Clone)]
pub(super) struct Keeper {
    containerd: Containerd,
    snapshotter: Arc<Snapshotter>,
    metrics: Arc<Metrics>,
    room: Arc<Semaphore>,
    turn: Arc<Semaphore>,
    stop: Cancel,
}

/// A layer whose image is to be kept.
#[derive(Debug)]
pub(super) struct Job {
    /// For whom.
    pub(super) scope: Scope,
    /// Digest of the layer's blob.
    pub(super) blob: Digest,
    /// Its diffID, by which the image is found when it is its turn.
    pub(super) diff_id: Digest,
    /// Its bytes, uncompressed.
    pub(super) size: u64,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// An image of so many bytes was put there.
    Kept(u64),
    /// It was there.
    Present,
    /// The image or the blob of the layer was removed in between.
    Gone,
}

/// The image of a layer in the content store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// Its digest.
    pub(super) digest: Digest,
    /// Its bytes.
    pub(super) size: u64,
    /// The diffID of the layer.
    pub(super) diff_id: Digest,
    /// Bytes of the layer, uncompressed.
    pub(super) diff_size: u64,
}

/// The image that the labels of a layer's blob name, and the diffID of the layer.
fn named(labels: &Labels) -> Option<(Digest, Digest)> {
    let digest = |name| labels.get(name)?.parse().ok();
    Some((digest(IMAGE_OF)?, digest(UNCOMPRESSED)?))
}

/// The image `digest`, if what is known of it says that it was made from the layer `diff_id`.
fn described(digest: Digest, diff_id: Digest, info: &Info) -> Option<Kept> {
    let is_of = info.labels.get(SOURCE_DIFF_ID).is_some_and(|of| *of == diff_id.to_string());
    let diff_size = info.labels.get(SOURCE_SIZE)?.parse().ok()?;
    let size = u64::try_from(info.size).ok()?;
    is_of.then_some(Kept { digest, size, diff_id, diff_size })
}

impl Keeper {
    pub(super) fn new(
        containerd: Containerd,
        snapshotter: Arc<Snapshotter>,
        metrics: Arc<Metrics>,
        stop: Cancel,
    ) -> Self {
        let room = Arc::new(Semaphore::new(WAITING as usize));
        let turn = Arc::new(Semaphore::new(1));
        Self { containerd, snapshotter, metrics, room, turn, stop }
    }

    /// Takes a job, to be done soon or, when there are too many, not at all.
    pub(super) fn submit(&self, job: Job) {
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            debug!(blob = %job.blob, "too many images wait to be kept");
            return self.metrics.kept("passed_over", Duration::ZERO, 0);
        };
        let keeper = self.clone();
        let waiting = self.metrics.keep_waiting();
        self.containerd.runtime().spawn(async move {
            let (_place, _waiting) = (place, waiting);
            let Ok(_turn) = keeper.turn.acquire().await else { return };
            let start = Instant::now();
            let (worker, blob) = (keeper.clone(), job.blob.clone());
            let done = cancellable(&keeper.stop, move |cancel| worker.keep(&job, cancel)).await;
            keeper.report(&blob, done, start);
        });
    }

    /// Waits until no job is left.
    pub(super) async fn settled(&self) {
        // Closed it never is.
        let _ = self.room.acquire_many(WAITING).await;
    }

    fn report(&self, blob: &Digest, done: Result<Outcome>, start: Instant) {
        let took = start.elapsed();
        let (result, bytes) = match done {
            Ok(Outcome::Kept(bytes)) => {
                info!(%blob, bytes, ?took, "kept in the content store");
                ("kept", bytes)
            }
            Ok(Outcome::Present) => ("present", 0),
            Ok(Outcome::Gone) => {
                debug!(%blob, "went before its image was kept");
                ("passed_over", 0)
            }
            Err(Error::Differ(erolith_differ::Error::Cancelled)) => ("passed_over", 0),
            Err(error) => {
                warn!(%blob, error = causes(&error), "a converted image could not be kept in the content store");
                ("failed", 0)
            }
        };
        self.metrics.kept(result, took, bytes);
    }

    fn keep(&self, job: &Job, cancel: &Cancel) -> Result<Outcome> {
        cancel.check()?;
        // The call that brought the layer is over, and perhaps its lease.
        let scope = job.scope.without_lease();
        let Some(blob) = self.containerd.info(&scope, &job.blob)? else {
            return Ok(Outcome::Gone);
        };
        if self.kept(&scope, &blob.labels)?.is_some() {
            return Ok(Outcome::Present);
        }
        let (diff_id, made_from) = (job.diff_id.to_string(), job.blob.to_string());
        let Some(path) = self.snapshotter.images().find_made_from(&diff_id, &made_from) else {
            return Ok(Outcome::Gone);
        };
        let Ok(image) = File::open(&path) else { return Ok(Outcome::Gone) };
        let upload = self.containerd.upload(&scope, "")?;
        let (upload, digest, size) = copy(image, upload, cancel).map_err(|error| match error {
            Stopped::Cancelled(error) => error.into(),
            Stopped::Io(source) => Error::Storage { action: "keeping", path, source },
        })?;
        let written = UploadInfo { digest: &digest, diff_id: &digest, size };
        let about = [
            (SOURCE_DIFF_ID.to_owned(), job.diff_id.to_string()),
            (SOURCE_SIZE.to_owned(), job.size.to_string()),
        ];
        let leased = upload.commit(&written, Labels::new(), about.into())?;
        let linked = self.link(&scope, job, &blob.labels, &digest);
        // From now on the label keeps the image; without it nothing shall.
        self.containerd.give_up(&leased);
        linked.map(|()| Outcome::Kept(size))
    }

    /// Names the image on the blob of the layer.
    fn link(&self, scope: &Scope, job: &Job, there: &Labels, image: &Digest) -> Result<()> {
        let mut labels = Labels::from([(IMAGE_OF.to_owned(), image.to_string())]);
        if !there.contains_key(UNCOMPRESSED) {
            labels.insert(UNCOMPRESSED.to_owned(), job.diff_id.to_string());
        }
        Ok(self.containerd.label(scope, &job.blob, labels)?)
    }

    /// The image of the layer with this blob, if it was kept in the caller's namespace.
    ///
    /// # Errors
    /// When containerd does not say.
    pub(super) fn find(&self, scope: &Scope, blob: &Digest) -> Result<Option<Kept>> {
        let Some(info) = self.containerd.info(scope, blob)? else { return Ok(None) };
        self.kept(scope, &info.labels)
    }

    fn kept(&self, scope: &Scope, labels: &Labels) -> Result<Option<Kept>> {
        let Some((digest, diff_id)) = named(labels) else { return Ok(None) };
        let info = self.containerd.info(scope, &digest)?;
        Ok(info.and_then(|info| described(digest, diff_id, &info)))
    }
}

/// Why an image did not get to the content store.
enum Stopped {
    Cancelled(erolith_differ::Error),
    Io(std::io::Error),
}

/// Sends an image, and computes what it is called.
fn copy(
    mut image: File,
    mut upload: Upload,
    cancel: &Cancel,
) -> Result<(Upload, Digest, u64), Stopped> {
    let (mut hasher, mut size) = (Hasher::new(Algorithm::Sha256), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        cancel.check().map_err(Stopped::Cancelled)?;
        let n = image.read(&mut buffer).map_err(Stopped::Io)?;
        let part = buffer.get(..n).unwrap_or_default();
        if part.is_empty() {
            return Ok((upload, hasher.finish(), size));
        }
        hasher.update(part);
        upload.write_all(part).map_err(Stopped::Io)?;
        size += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn images_are_named_by_two_labels_that_are_digests() {
        let (image, layer) = (Digest::of(b"image"), Digest::of(b"layer"));
        let (i, l) = (image.to_string(), layer.to_string());
        for (pairs, want) in [
            (&[(IMAGE_OF, i.as_str()), (UNCOMPRESSED, l.as_str())][..], Some((image, layer))),
            (&[(IMAGE_OF, i.as_str())], None),
            (&[(UNCOMPRESSED, l.as_str())], None),
            (&[(IMAGE_OF, "sha256:../../x"), (UNCOMPRESSED, l.as_str())], None),
            (&[(IMAGE_OF, i.as_str()), (UNCOMPRESSED, "")], None),
        ] {
            assert_eq!(named(&labels(pairs)), want, "{pairs:?}");
        }
    }

    #[test]
    fn an_image_must_say_that_it_is_of_the_layer() {
        let (image, layer) = (Digest::of(b"image"), Digest::of(b"layer"));
        let (l, other) = (layer.to_string(), Digest::of(b"other").to_string());
        let found = |size, pairs: &[(&str, &str)]| {
            let info = Info { size, labels: labels(pairs), ..Info::default() };
            described(image.clone(), layer.clone(), &info).map(|kept| (kept.size, kept.diff_size))
        };
        assert_eq!(found(9, &[(SOURCE_DIFF_ID, &l), (SOURCE_SIZE, "7")]), Some((9, 7)));
        assert_eq!(found(9, &[(SOURCE_DIFF_ID, &other), (SOURCE_SIZE, "7")]), None);
        assert_eq!(found(9, &[(SOURCE_DIFF_ID, &l)]), None);
        assert_eq!(found(9, &[(SOURCE_DIFF_ID, &l), (SOURCE_SIZE, "-7")]), None);
        assert_eq!(found(-9, &[(SOURCE_DIFF_ID, &l), (SOURCE_SIZE, "7")]), None);
        assert_eq!(found(9, &[]), None);
    }
}
