//! A directory of converted layers by diffID, as containerd's `layer_content_caches` and erolith's `caches` read it:
//! `<algorithm>/<2 hex>/<hex>.erofs`, each with a sidecar if it has a hash tree.
//!
//! An image in there stands for its diffID whatever lies below it. So a layer that takes attributes of directories from
//! those below is left out: it is another image on every chain.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use erolith_mkfs::build;
use erolith_verity::dmverity::sidecar::{LIMIT, Sidecar};
use erolith_verity::dmverity::{DmVerityTree, Signature};

use crate::apply::{
    CompleteImage, ImageName, Isolation, LayerInput, LayerJob, ParentImages, Protect, StagedImage,
    Task, dm_verity, sidecar,
};
use crate::content::LocalBlob;
use crate::convert::{Event, Progress, promised, request};
use crate::decode::{Budget, Cancel, OnBytes};
use crate::error::{ContentError, LayerError, ProcessError};
use crate::oci::{ImageLayer, ImageSource};
use crate::publish::{Durability, OutputFile};
use crate::{Digest, Error, LayerType, Result};

/// Permissions of an image: only root has to read it, and its files may belong to any user.
const MODE: u32 = 0o600;

/// How a cache is filled.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory.
    pub dir: PathBuf,
    /// Where a layer with a diffID is, relative to it.
    pub place: fn(&str) -> Option<PathBuf>,
    /// How images are built of archives.
    pub build: build::Options,
    /// Whether images get a dm-verity hash tree.
    pub dm_verity: bool,
    /// Layers that are made at the same time.
    pub jobs: NonZeroUsize,
    /// Which process looks into layers.
    pub room: Isolation,
    /// What decoding one of them may cost.
    pub budget: Budget,
    /// Cancels the work.
    pub cancel: Cancel,
}

/// What became of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheOutcome {
    /// It was made.
    Made,
    /// It was there, and whole.
    Present,
    /// It is left out, because it takes attributes of directories from the layers below it.
    LeftOut,
}

/// A layer of the images that a cache was filled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// Its diffID.
    pub diff_id: Digest,
    /// Where its image is.
    pub path: PathBuf,
    /// Bytes of the image; 0 for one that is left out.
    pub size: u64,
    /// The hash tree of the image, if it has one.
    pub verity: Option<DmVerityTree>,
    /// What became of it.
    pub outcome: CacheOutcome,
}

/// Puts the layers of all images of `sources` into the cache, each once, several at a time. An image appears whole and
/// durable, or not at all; those that are there and whole stay as they are.
///
/// # Errors
/// What went wrong first, with the layer. What was finished by then stays.
pub fn fill(
    sources: &[ImageSource],
    options: &Options,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<Filled>> {
    let jobs = plan(sources, options)?;
    let bytes = jobs.iter().map(|job| job.layer.size()).sum();
    progress.event(Event::Planned { layers: jobs.len(), bytes });
    let done = Mutex::new(vec![None; jobs.len()]);
    let (cancel, next, error) = (options.cancel.part(), AtomicUsize::new(0), Mutex::new(None));
    let work = CacheFill { options, progress, jobs, done, cancel, next, error };
    thread::scope(|scope| {
        for _ in 0..options.jobs.get().min(work.jobs.len()) {
            let worker = thread::Builder::new().name("layer".to_owned());
            if let Err(error) = worker.spawn_scoped(scope, || work.run()) {
                work.fail(Error::io("starting a thread")(error));
            }
        }
    });
    if let Some(error) = lock(&work.error).take() {
        return Err(error);
    }
    options.cancel.check()?;
    Ok(lock(&work.done).drain(..).flatten().collect())
}

/// A layer to make.
struct CacheJob<'a> {
    source: &'a ImageSource,
    layer: &'a ImageLayer,
    /// Position in its image; 0 is the lowest.
    index: usize,
    path: PathBuf,
}

/// Every layer once, by its diffID.
fn plan<'a>(sources: &'a [ImageSource], options: &Options) -> Result<Vec<CacheJob<'a>>> {
    let mut jobs: Vec<CacheJob<'a>> = Vec::new();
    for source in sources {
        for (index, layer) in source.images.iter().flat_map(|i| i.layers.iter().enumerate()) {
            if jobs.iter().any(|job| job.layer.diff_id == layer.diff_id) {
                continue;
            }
            let text = layer.diff_id.to_string();
            let place =
                (options.place)(&text).ok_or(Error::Content(ContentError::BadDigest { text }))?;
            jobs.push(CacheJob { source, layer, index, path: options.dir.join(place) });
        }
    }
    Ok(jobs)
}

/// What the workers share.
struct CacheFill<'a> {
    options: &'a Options,
    progress: &'a Arc<dyn Progress>,
    jobs: Vec<CacheJob<'a>>,
    done: Mutex<Vec<Option<Filled>>>,
    cancel: Cancel,
    next: AtomicUsize,
    error: Mutex<Option<Error>>,
}

/// A lock whose holders do not panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CacheFill<'_> {
    fn run(&self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(number) else { return };
            match self.one(number, job) {
                Ok(filled) => {
                    let (bytes, reused) = (filled.size, filled.outcome == CacheOutcome::Present);
                    self.progress.event(Event::Done { layer: number, bytes, reused });
                    if let Some(slot) = lock(&self.done).get_mut(number) {
                        *slot = Some(filled);
                    }
                }
                Err(error) => {
                    let name = job.layer.descriptor().map_or(&job.layer.diff_id, |d| &d.digest);
                    let (index, name) = (job.index, name.clone());
                    return self.fail(match error {
                        Error::Cancelled => error,
                        error => Error::InLayer { index, name, source: Box::new(error) },
                    });
                }
            }
        }
    }

    /// Stops all others. What they then report is a consequence and not the reason.
    fn fail(&self, error: Error) {
        let mut first = lock(&self.error);
        if first.is_none() || matches!(*first, Some(Error::Cancelled)) {
            *first = Some(error);
        }
        drop(first);
        self.cancel.cancel();
    }

    fn one(&self, number: usize, job: &CacheJob<'_>) -> Result<Filled> {
        self.cancel.check()?;
        let (diff_id, path) = (job.layer.diff_id.clone(), job.path.clone());
        let bytes = job.layer.size();
        self.progress.event(Event::Started { layer: number, diff_id: &diff_id, bytes });
        if let Some((size, verity)) = self.present(&path)? {
            return Ok(Filled { diff_id, path, size, verity, outcome: CacheOutcome::Present });
        }
        match self.make(number, job) {
            Ok((size, verity)) => {
                Ok(Filled { diff_id, path, size, verity, outcome: CacheOutcome::Made })
            }
            Err(Error::Layer(LayerError::Inherits)) => {
                Ok(Filled { diff_id, path, size: 0, verity: None, outcome: CacheOutcome::LeftOut })
            }
            Err(error) => Err(error),
        }
    }

    /// The image that is there, if it is whole: its structure is sound, it ends where it says, and its hash tree is the one
    /// that its sidecar tells of.
    fn present(&self, path: &Path) -> Result<Option<(u64, Option<DmVerityTree>)>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io(format!("opening {}", path.display())))?,
        };
        let failed = Error::io(format!("examining {}", path.display()));
        let size = file.metadata().map_err(failed)?.len();
        let blob = LocalBlob::new(Arc::new(file), 0, size);
        match self.options.room.check(&blob, &self.cancel) {
            Ok(()) => {}
            Err(error @ (Error::Cancelled | Error::Process(ProcessError::WorkerDied { .. }))) => {
                return Err(error);
            }
            Err(_) => return Ok(None),
        }
        let Some(sidecar) = read_sidecar(path)? else {
            return Ok((!self.options.dm_verity).then_some((size, None)));
        };
        let Ok(sidecar) = Sidecar::parse(&sidecar) else { return Ok(None) };
        match dm_verity::of_sidecar(&blob, sidecar, &self.cancel) {
            Ok(verity) => Ok(Some((size, Some(verity)))),
            Err(error @ Error::Cancelled) => Err(error),
            Err(_) => Ok(None),
        }
    }

    fn make(&self, number: usize, job: &CacheJob<'_>) -> Result<(u64, Option<DmVerityTree>)> {
        let CacheJob { source, layer, path, .. } = job;
        make_dirs(path)?;
        let (tree, digest) = promised(layer)?;
        let signature = signature(layer)?;
        let protect = Protect {
            promised: tree,
            is_wanted: self.options.dm_verity,
            digest,
            is_digest_wanted: false,
        };
        let task = match layer.layer_type {
            LayerType::Erofs { .. } => Task::Native,
            LayerType::Tar { .. } => {
                let mut build = self.options.build.clone();
                // The lowest layer of one image may lie over others in the next.
                build.layer.base = false;
                build.layer.root_inherits = false;
                Task::Tar(build)
            }
        };
        let wanted = protect.wanted(&task);
        let progress = Arc::clone(self.progress);
        let read = move |bytes| progress.event(Event::Read { layer: number, bytes });
        let request = request(layer, self.options.budget, &self.cancel);
        let source = LayerInput::Stored(source.blob(layer)?);
        let job = LayerJob { task, source, told: OnBytes::new(read), request, wanted };
        let staging = OutputFile::create(path, MODE)?.written_back();
        let StagedImage { staging, protected, .. } =
            self.options.room.convert(staging, job, &NoLowers)?;
        self.progress.event(Event::Sealing { layer: number });
        let name = ImageName {
            path,
            signature: signature.as_ref(),
            durability: Durability::Synced,
            seal: None,
        };
        let named =
            name.finish(CompleteImage::Staged(staging), &protect, protected, &self.cancel)?;
        Ok((named.size, named.verity))
    }
}

/// The sidecar of an image, if it has one.
fn read_sidecar(image: &Path) -> Result<Option<Vec<u8>>> {
    let path = sidecar::path_of(image);
    let failed = Error::io(format!("reading {}", path.display()));
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// The signature of the tree that a layer promises.
fn signature(layer: &ImageLayer) -> Result<Option<Signature>> {
    match (layer.layer_type, layer.descriptor()) {
        (LayerType::Erofs { .. }, Some(descriptor)) => {
            dm_verity::signature_from_annotations(|key| descriptor.annotation(key))
        }
        _ => Ok(None),
    }
}

/// Makes the directories on the way to the image at `path`, durable like what will be in them.
fn make_dirs(path: &Path) -> Result<()> {
    let made = |dir: &Path| Error::io(format!("making directory {}", dir.display()));
    let missing: Vec<_> = path.ancestors().skip(1).take_while(|dir| !dir.is_dir()).collect();
    for dir in missing.into_iter().rev() {
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => created.map_err(made(dir))?,
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
        parent.map_err(made(dir))?;
    }
    Ok(())
}

/// An image that depends on others is none for a cache.
struct NoLowers;

impl ParentImages for NoLowers {
    fn images(&self) -> Result<Vec<LocalBlob>> {
        Err(Error::Layer(LayerError::Inherits))
    }
}
