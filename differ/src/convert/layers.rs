//! All layers of all images, several at a time, each one once.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use erolith_mkfs::tree::DroppedXattrs;
use erolith_verity::dmverity::DmVerityTree;
use erolith_verity::fsverity;

use super::record::{self, Keys};
use super::{Event, NonDistributable, Options, Progress};
use crate::apply::{self, LayerJob, Output, ParentImages, Protect, StoredImage, Task, dm_verity};
use crate::content::{Blob, Ingest, LocalBlob, Mode, OciLayout, spool};
use crate::decode::{Budget, Cancel, Digests, LayerStream, OnBytes, Request};
use crate::error::LayerError;
use crate::oci::{ImageLayer, ImageSource};
use crate::{Digest, Error, LayerType, Result};

/// An image that is written, and not yet under its digest.
type StagedBlob = apply::StagedImage<Box<dyn Ingest>>;

/// A converted layer.
#[derive(Debug, Clone)]
pub(super) struct ConvertedLayer {
    pub(super) sealed: StoredImage,
    pub(super) reused: bool,
    /// Which extended attributes were dropped; none where the image was there.
    pub(super) dropped_xattrs: DroppedXattrs,
    /// Whether it depends on the layers below.
    inherits: bool,
}

/// The converted layers of the images, in their order.
pub(super) type Converted = Vec<Vec<ConvertedLayer>>;

/// Converts every layer. A layer is the same when its content and all layers below it are the same.
///
/// # Errors
/// What went wrong first, with the layer.
pub(super) fn convert(
    source: &ImageSource,
    layout: &OciLayout,
    options: &Options,
    progress: &Arc<dyn Progress>,
) -> Result<Converted> {
    let (jobs, images) = plan(source, options)?;
    let bytes = jobs.iter().map(|job| job.layer.size()).sum();
    progress.event(Event::Planned { layers: jobs.len(), bytes });
    let board = LayerBoard {
        slots: Mutex::new(vec![LayerSlot::Pending; jobs.len()]),
        changed: Condvar::new(),
    };
    let (cancel, next, error) = (options.cancel.part(), AtomicUsize::new(0), Mutex::new(None));
    let work = Conversion { source, layout, options, progress, jobs, board, cancel, next, error };
    thread::scope(|scope| -> Result<()> {
        for _ in 0..options.jobs.get().min(work.jobs.len()) {
            let worker = thread::Builder::new().name("layer".to_owned());
            let started = worker.spawn_scoped(scope, || work.run(scope));
            if let Err(e) = started {
                work.cancel.cancel();
                return Err(Error::io("starting a thread")(e));
            }
        }
        Ok(())
    })?;
    if let Some(error) = lock(&work.error).take() {
        return Err(error);
    }
    let slots = lock(&work.board.slots);
    let made = |job: &usize| match slots.get(*job) {
        Some(LayerSlot::Done(made)) => Ok(ConvertedLayer::clone(made)),
        _ => Err(Error::Cancelled),
    };
    images.iter().map(|jobs| jobs.iter().map(made).collect()).collect()
}

/// A layer to convert.
struct ConversionJob<'a> {
    layer: &'a ImageLayer,
    /// Position in its image; 0 is the lowest.
    index: usize,
    /// The jobs of the layers below, nearest first.
    below: Vec<usize>,
    /// The last job before this one with the same content, over other layers.
    twin: Option<usize>,
    keys: Keys,
    protect: Protect,
}

type JobPlan<'a> = (Vec<ConversionJob<'a>>, Vec<Vec<usize>>);

/// Lowest layers first, so that a job that waits for a lower layer waits for one that has begun.
fn plan<'a>(source: &'a ImageSource, options: &Options) -> Result<JobPlan<'a>> {
    let mut jobs: Vec<ConversionJob<'a>> = Vec::new();
    let mut known: BTreeMap<Vec<Digest>, usize> = BTreeMap::new();
    let mut same: BTreeMap<(&Digest, bool), usize> = BTreeMap::new();
    let mut images = Vec::with_capacity(source.images.len());
    let build = record::build_form(options)?;
    for image in &source.images {
        let mut chain = Vec::new();
        let mut below: Vec<usize> = Vec::new();
        for (index, layer) in image.layers.iter().enumerate() {
            if let LayerType::Tar { nondistributable: true, .. } = layer.layer_type
                && options.nondistributable == NonDistributable::Refuse
            {
                let media_type = layer.descriptor().map(|d| d.media_type.clone());
                let media_type = media_type.unwrap_or_default();
                return Err(name(
                    index,
                    layer,
                    Error::Layer(LayerError::NonDistributable { media_type }),
                ));
            }
            chain.push(layer.diff_id.clone());
            let (promised, digest) = promised(layer).map_err(|error| name(index, layer, error))?;
            let job = *known.entry(chain.clone()).or_insert_with(|| {
                let below = below.iter().rev().copied().collect();
                let twin = same.insert((&layer.diff_id, index == 0), jobs.len());
                let protect = Protect {
                    promised,
                    is_wanted: options.dm_verity,
                    digest,
                    is_digest_wanted: options.fs_verity,
                };
                let keys = Keys::new(&chain, &protect, options, &build);
                jobs.push(ConversionJob { layer, index, below, twin, keys, protect });
                jobs.len() - 1
            });
            below.push(job);
        }
        images.push(below);
    }
    Ok((jobs, images))
}

/// The hash tree and the digest that a layer says to have. Annotations of a tar layer apply to another image.
pub(crate) fn promised(
    layer: &ImageLayer,
) -> Result<(Option<DmVerityTree>, Option<fsverity::Digest>)> {
    match (layer.layer_type, layer.descriptor()) {
        (LayerType::Erofs { .. }, Some(descriptor)) => {
            let get = |key: &str| descriptor.annotation(key);
            Ok((dm_verity::from_annotations(get)?, apply::fsverity::from_annotations(get)?))
        }
        _ => Ok((None, None)),
    }
}

/// What is known of the blob of `layer` before it is read: all that its image says of it.
pub(crate) fn request(layer: &ImageLayer, budget: Budget, cancel: &Cancel) -> Request {
    Request {
        layer_type: Some(layer.layer_type),
        blob: layer.descriptor().map(|d| (d.digest.clone(), d.size)),
        is_vouched_for: false,
        diff_id: Some(layer.diff_id.clone()),
        digests: Digests::Expected,
        budget,
        cancel: cancel.clone(),
    }
}

fn name(index: usize, layer: &ImageLayer, source: Error) -> Error {
    let name = layer.descriptor().map_or(&layer.diff_id, |d| &d.digest).clone();
    Error::InLayer { index, name, source: Box::new(source) }
}

#[derive(Debug, Clone)]
enum LayerSlot {
    Pending,
    Done(Box<ConvertedLayer>),
    Failed,
}

/// Which layers are ready.
struct LayerBoard {
    slots: Mutex<Vec<LayerSlot>>,
    changed: Condvar,
}

/// A lock whose holders do not panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LayerBoard {
    fn set(&self, job: usize, to: LayerSlot) {
        if let Some(slot) = lock(&self.slots).get_mut(job) {
            *slot = to;
        }
        self.changed.notify_all();
    }

    fn wait(&self, job: usize) -> Result<ConvertedLayer> {
        let pending =
            |slots: &mut Vec<LayerSlot>| matches!(slots.get(job), Some(LayerSlot::Pending));
        let slots = self.changed.wait_while(lock(&self.slots), pending);
        let slots = slots.unwrap_or_else(PoisonError::into_inner);
        match slots.get(job) {
            Some(LayerSlot::Done(made)) => Ok(ConvertedLayer::clone(made)),
            _ => Err(Error::Cancelled),
        }
    }
}

/// What the workers share.
struct Conversion<'a> {
    source: &'a ImageSource,
    layout: &'a OciLayout,
    options: &'a Options,
    progress: &'a Arc<dyn Progress>,
    jobs: Vec<ConversionJob<'a>>,
    board: LayerBoard,
    cancel: Cancel,
    next: AtomicUsize,
    error: Mutex<Option<Error>>,
}

impl<'a> Conversion<'a> {
    /// Converts one layer after the other. A layer is sealed on a thread of its own while the next is decoded.
    fn run<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let mut sealing: Option<ScopedJoinHandle<'scope, ()>> = None;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(number) else { break };
            let built = match self.build(number, job) {
                Ok(Some(built)) => built,
                Ok(None) => continue,
                Err(error) => {
                    self.fail(number, job, error);
                    continue;
                }
            };
            if let Some(previous) = sealing.take() {
                // It reports its failure itself.
                let _ = previous.join();
            }
            let sealer = thread::Builder::new().name("seal".to_owned());
            let seal = move || self.seal(number, job, built);
            match sealer.spawn_scoped(scope, seal) {
                Ok(handle) => sealing = Some(handle),
                Err(e) => self.fail(number, job, Error::io("starting a thread")(e)),
            }
        }
    }

    /// `None`: the layer is ready, it was there.
    fn build(&self, number: usize, job: &ConversionJob<'a>) -> Result<Option<StagedBlob>> {
        self.cancel.check()?;
        let layer = job.layer;
        let (diff_id, bytes) = (&layer.diff_id, layer.size());
        self.progress.event(Event::Started { layer: number, diff_id, bytes });
        if let Some(made) = self.find(job)? {
            self.done(number, made);
            return Ok(None);
        }
        let blob = self.source.blob(layer)?;
        let progress = Arc::clone(self.progress);
        let read = move |bytes| progress.event(Event::Read { layer: number, bytes });
        let request = request(layer, self.options.budget, &self.cancel);
        let ingest = self.layout.ingest(Mode::Fresh)?;
        let task = match layer.layer_type {
            LayerType::Erofs { .. } => Task::Native,
            LayerType::Tar { .. } => {
                let mut build = self.options.build.clone();
                build.layer.base = job.below.is_empty();
                Task::Tar(build)
            }
        };
        let wanted = job.protect.wanted(&task);
        let source = apply::LayerInput::Stored(blob);
        let layer_job = LayerJob { task, source, told: OnBytes::new(read), request, wanted };
        let parents = JobParents { work: self, job };
        let built = self.options.room.convert(ingest, layer_job, &parents)?;
        self.progress.event(Event::Sealing { layer: number });
        Ok(Some(built))
    }

    /// What was made of the same layer before, in this run or an earlier one.
    fn find(&self, job: &ConversionJob<'a>) -> Result<Option<ConvertedLayer>> {
        if let Some(twin) = job.twin {
            let made = self.board.wait(twin)?;
            if !made.inherits {
                return Ok(Some(made));
            }
        }
        let found = record::find(self.layout, &job.keys, self.options.output, &self.cancel)?;
        let dropped_xattrs = DroppedXattrs::default();
        Ok(found.map(|(sealed, inherits)| ConvertedLayer {
            sealed,
            reused: true,
            dropped_xattrs,
            inherits,
        }))
    }

    fn seal(&self, number: usize, job: &ConversionJob<'a>, built: StagedBlob) {
        let inherits = built.inherits;
        let dropped_xattrs = built.summary.as_ref().map(|summary| summary.dropped_xattrs.clone());
        let dropped_xattrs = dropped_xattrs.unwrap_or_default();
        let sealed = built.seal(self.layout, self.options.output, &job.protect, &self.cancel);
        let kept = sealed.and_then(|sealed| {
            record::keep(self.layout, &job.keys, inherits, &sealed)?;
            Ok(sealed)
        });
        match kept {
            Ok(sealed) => {
                self.done(
                    number,
                    ConvertedLayer { sealed, reused: false, dropped_xattrs, inherits },
                );
            }
            Err(error) => self.fail(number, job, error),
        }
    }

    fn done(&self, number: usize, made: ConvertedLayer) {
        let (bytes, reused) = (made.sealed.size, made.reused);
        self.progress.event(Event::Done { layer: number, bytes, reused });
        self.board.set(number, LayerSlot::Done(Box::new(made)));
    }

    /// Stops all others. What they then report is a consequence and not the reason.
    fn fail(&self, number: usize, job: &ConversionJob<'a>, error: Error) {
        let mut first = lock(&self.error);
        let consequence = matches!(error, Error::Cancelled);
        if first.is_none() || (matches!(*first, Some(Error::Cancelled)) && !consequence) {
            *first = Some(if consequence { error } else { name(job.index, job.layer, error) });
        }
        drop(first);
        self.cancel.cancel();
        self.board.set(number, LayerSlot::Failed);
    }
}

/// The layers below a job.
struct JobParents<'a, 'b> {
    work: &'b Conversion<'a>,
    job: &'b ConversionJob<'a>,
}

impl ParentImages for JobParents<'_, '_> {
    fn images(&self) -> Result<Vec<LocalBlob>> {
        let image = |number: &usize| {
            let made = self.work.board.wait(*number)?;
            let blob = self.work.layout.open_blob(&made.sealed.digest)?;
            match self.work.options.output {
                Output::Raw => Ok(blob),
                Output::Zstd { .. } => self.unpack(blob.into()),
            }
        };
        self.job.below.iter().map(image).collect()
    }
}

impl JobParents<'_, '_> {
    /// A compressed image in a scratch file.
    fn unpack(&self, blob: Blob) -> Result<LocalBlob> {
        let mut stream = LayerStream::open(blob.reader(), Request::default())?;
        let file: File = spool(self.work.layout.root(), &mut stream)?;
        let size = stream.finish()?.size;
        Ok(LocalBlob::new(Arc::new(file), 0, size))
    }
}
