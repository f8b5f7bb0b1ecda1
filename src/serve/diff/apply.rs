//! `Apply`: a layer becomes the image in the directory of the snapshot that the mounts are of.
//!
//! A layer that was converted before is linked: what a blob decompresses to is remembered in the database, and the
//! image of every such layer is kept by its diffID. Not so in directories of another snapshotter; where the image says
//! more than the layer, because directories that the layer does not describe took their attributes from the layers
//! below; nor where the layer was decrypted, because who may have the blob may not be one who may read it.
//!
//! A caller gets what its namespace has: the blob must be in containerd's content store for that namespace, although the
//! file of a blob is the same for all, and although the layer may have been converted for another. And an image stands for
//! the blob that it was made from and for no other: what a blob decompresses to is the word of the worker that read it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use erolith_differ::apply::layer::{
    self, Applied, ApplyMethod, LayerInput, LayerSpec, Options, Share,
};
use erolith_differ::apply::{self, Times};
use erolith_differ::decode::Cancel;
use erolith_differ::publish::{Durability, FileProtector, ProtectError};
use erolith_differ::{Compression, Digest, EROFS_LAYER, LayerType};
use erolith_mkfs::build;
use erolith_snapshotter::api_mounts::Mount;
use erolith_snapshotter::layerdir::{self, IMAGE};
use erolith_snapshotter::protect::{FsVerityPolicy, Protector};
use erolith_snapshotter::store::Origin;
use erolith_verity::dmverity;
use erolith_verity::fsverity;
use tracing::{debug, info, warn};

use super::beside::{Beside, Waiting};
use super::content_cache::{Job, Kept};
use super::differ::Differ;
use super::layer_spec::{layer_of, origin_blob};
use super::target::Target;
use crate::causes::causes;
use crate::containerd::{self, Scope};
use crate::proto::diff::ApplyRequest;
use crate::proto::types::Descriptor;
use crate::serve::calls::from_mounts;
use crate::serve::error::{Error, Result};

/// Seals what the differ wrote as the snapshotter wants it.
#[derive(Debug)]
struct Sealed(Protector);

impl FileProtector for Sealed {
    fn protect(
        &self,
        file: File,
        path: &Path,
        durability: Durability,
        digest: Option<fsverity::Digest>,
    ) -> Result<File, ProtectError> {
        Ok(self.0.seal(file, path, durability == Durability::Synced, digest)?)
    }

    fn wants_digest(&self) -> bool {
        self.0.seals()
    }

    fn needs_syncfs(&self, file: &File, path: &Path) -> Result<bool, ProtectError> {
        Ok(self.0.needs_syncfs(file, path)?)
    }
}

/// How an image came to be, in logs and metrics.
fn name(how: ApplyMethod) -> &'static str {
    match how {
        ApplyMethod::Converted => "converted",
        ApplyMethod::Unpacked => "unpacked",
        ApplyMethod::Linked => "linked",
        ApplyMethod::Reflinked => "reflinked",
        ApplyMethod::Copied => "copied",
    }
}

/// Whether it is an archive, so that its image has other bytes.
fn is_tar(layer_type: LayerType) -> bool {
    matches!(layer_type, LayerType::Tar { .. })
}

/// Whether a converted image has the fs-verity digest that the layer promises, if it does. One that has not is made once
/// more, and judged then.
fn is_promised(image: &Path, layer: &LayerSpec) -> bool {
    let Some(promised) = layer.fsverity else { return true };
    let digest = File::open(image).and_then(|file| fsverity::Digest::of(&file, &mut |_| {}));
    digest.is_ok_and(|digest| digest == promised)
}

/// The diffID and size of an archive that is not compressed: those of its blob.
fn own_diff_id(layer: &LayerSpec, layer_type: LayerType) -> Option<(String, u64)> {
    let plain = matches!(layer_type, LayerType::Tar { compression: Compression::None, .. });
    plain.then(|| (layer.digest.to_string(), layer.size))
}

/// A layer that was applied.
struct Done {
    media_type: String,
    diff_id: String,
    size: u64,
    how: &'static str,
    /// Whether there is an image by its diffID, which containerd may not have.
    to_keep: bool,
}

impl Differ {
    /// Applies a layer. Returns what it is uncompressed.
    pub(super) fn apply(
        &self,
        request: ApplyRequest,
        scope: &Scope,
        cancel: &Cancel,
        beside: Option<Waiting>,
    ) -> Result<Descriptor> {
        let start = Instant::now();
        let ApplyRequest { diff, mounts, payloads, sync_fs } = request;
        let nothing = || Error::Request("a request to apply nothing".to_owned());
        let descriptor = diff.ok_or_else(nothing)?;
        let blob = origin_blob(&descriptor);
        let layer = layer_of(descriptor, payloads)?;
        let layer_type = self.type_of(&layer)?;
        let target = self.target(&from_mounts(mounts), sync_fs)?;
        self.require_blob(&layer, scope)?;

        let _running = self.metrics.apply_running();
        let waiting = Instant::now();
        let pass = self.gate.enter(&layer.digest.to_string(), cancel)?;
        self.metrics.apply_stage("wait", waiting.elapsed());
        let there = match self.reuse(&layer, layer_type, &target)? {
            None => self.take_kept(&layer, layer_type, &target, scope, cancel)?,
            reused => reused,
        };
        let done = match there {
            Some(done) => done,
            None => {
                // A layer that may wait gives its place back then.
                let (_pass, beside) = match beside {
                    Some(waiting) => (None, Some(Beside::new(self, scope, cancel, waiting, pass))),
                    None => (Some(pass), None),
                };
                let convert = |source, image: &Path, options: &Options| match &beside {
                    Some(beside) => beside.apply(source, &layer, image, options),
                    None => Ok(layer::apply(source, &layer, image, &target.lowers, options)?),
                };
                self.convert(&layer, layer_type, &target, (scope, cancel), convert)?
            }
        };
        self.heal(&target);
        let (namespace, diff_id) = (scope.namespace().to_owned(), done.diff_id.clone());
        let origin = Origin { namespace, diff_id, blob: Some(blob) };
        self.snapshotter.note_origin(&target.dir, origin);
        self.applied.fetch_add(1, Ordering::Relaxed);
        let took = start.elapsed();
        self.metrics.applied(done.how, took, layer.size, done.size);
        let Done { media_type, diff_id, size, how, to_keep } = done;
        info!(blob = %layer.digest, diff_id, how, bytes = size, ?took, "applied");
        if let Some(keeper) = self.keeper.as_ref().filter(|_| to_keep) {
            let (scope, blob) = (scope.clone(), layer.digest.clone());
            keeper.submit(Job { scope, blob, diff_id: diff_id.parse()?, size });
        }
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        Ok(Descriptor { media_type, digest: diff_id, size, ..Descriptor::default() })
    }

    /// What a layer is; nothing for one that a processor of the user turns into another.
    fn type_of(&self, layer: &LayerSpec) -> Result<Option<LayerType>> {
        Ok(if self.is_processed(layer) { None } else { Some(LayerType::parse(&layer.media_type)?) })
    }

    /// Whether a processor of the user turns this layer into another.
    pub(super) fn is_processed(&self, layer: &LayerSpec) -> bool {
        self.processors.iter().any(|program| program.accepts.contains(&layer.media_type))
    }

    /// Where the layer of these mounts goes.
    fn target(&self, mounts: &[Mount], sync_fs: bool) -> Result<Target> {
        let foreign = Error::NotOurs("the mounts are not those of an EROFS layer directory");
        let dir = self.snapshotter.layer_dir(mounts)?.ok_or(foreign)?;
        let lowers = self.mounts.stack(mounts).and_then(|stack| stack.images()).unwrap_or_default();
        let durability = Durability::of(self.sync || sync_fs);
        Ok(Target { is_ours: self.mounts.is_ours(&dir), dir, lowers, durability })
    }

    /// Refuses a blob that the caller's namespace does not have. Where containerd does not answer there are no namespaces
    /// to tell apart.
    fn require_blob(&self, layer: &LayerSpec, scope: &Scope) -> Result<()> {
        match self.containerd.info(scope, &layer.digest) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                let action = format!("reading blob {}", layer.digest);
                let namespace = scope.namespace();
                let status = tonic::Status::not_found(format!("namespace {namespace:?} has none"));
                Err(containerd::Error::answer(action)(status).into())
            }
            Err(error) => {
                debug!(%error, blob = %layer.digest, "containerd does not say whether it has a blob");
                Ok(())
            }
        }
    }

    /// Links the image of a layer that was converted before, if there is one.
    fn reuse(
        &self,
        layer: &LayerSpec,
        layer_type: Option<LayerType>,
        target: &Target,
    ) -> Result<Option<Done>> {
        let Some(layer_type) = layer_type.filter(|_| target.is_ours) else { return Ok(None) };
        let known = self.snapshotter.store().diff_id_of(&layer.digest.to_string())?;
        let Some((diff_id, size)) = known.or_else(|| own_diff_id(layer, layer_type)) else {
            return Ok(None);
        };
        let blob = layer.digest.to_string();
        let Some(image) = self.snapshotter.images().find_made_from(&diff_id, &blob) else {
            return Ok(None);
        };
        let Some(verity) = self.verity_of(&image, layer) else { return Ok(None) };
        if !is_promised(&image, layer) {
            return Ok(None);
        }
        // The mark of what was checked comes with the link.
        let to = target.dir.join(IMAGE);
        let linked = File::open(&image)
            .map_err(|source| Error::Storage { action: "opening", path: image.clone(), source })
            .and_then(|file| {
                let (verity, signature) = (verity.as_ref(), layer.signature.as_ref());
                Ok(apply::link(&file, &to, verity, signature, target.durability)?)
            });
        if let Err(error) = linked {
            // It was removed since it was found, or has as many names as the filesystem allows: it can be made once more.
            debug!(error = causes(&error), image = %image.display(), "a converted layer could not be linked");
            return Ok(None);
        }
        let media_type = layer_type.decoded_media_type(&layer.media_type);
        let to_keep = is_tar(layer_type);
        Ok(Some(Done { media_type, diff_id, size, how: "reused", to_keep }))
    }

    /// The hash tree of a converted image that is to be linked; nothing for one that lacks the tree that it shall have. The
    /// topmost block is compared: so much that the image belongs to its sidecar.
    fn verity_of(&self, image: &Path, layer: &LayerSpec) -> Option<Option<dmverity::DmVerityTree>> {
        let found = match layerdir::sidecar_of(image) {
            Ok(found) => found,
            Err(error) => {
                debug!(error = causes(&error), image = %image.display(), "a converted layer is made once more");
                return None;
            }
        };
        let is_promised = layer.verity.is_none() || layer.verity == found;
        let is_enough = found.is_some() || !self.dm_verity;
        (is_promised && is_enough).then_some(found)
    }

    /// Takes the image that containerd has of a layer, if it was kept there. One that is not what it should be is as good
    /// as none. It is not for callers of other namespaces: labels of one say nothing in another.
    fn take_kept(
        &self,
        layer: &LayerSpec,
        layer_type: Option<LayerType>,
        target: &Target,
        scope: &Scope,
        cancel: &Cancel,
    ) -> Result<Option<Done>> {
        let Some(layer_type) = layer_type.filter(|layer_type| is_tar(*layer_type)) else {
            return Ok(None);
        };
        let Some(keeper) = &self.keeper else { return Ok(None) };
        let taken = keeper.find(scope, &layer.digest).and_then(|kept| {
            let Some(kept) = kept else { return Ok(None) };
            let how = self.take_image(&kept, target, scope, cancel)?;
            Ok(Some((kept, how)))
        });
        match taken {
            Ok(Some((Kept { diff_id, diff_size: size, .. }, how))) => {
                let media_type = layer_type.decoded_media_type(&layer.media_type);
                let (diff_id, how) = (diff_id.to_string(), name(how));
                Ok(Some(Done { media_type, diff_id, size, how, to_keep: false }))
            }
            Ok(None) => Ok(None),
            Err(Error::Differ(error @ erolith_differ::Error::Cancelled)) => Err(error.into()),
            Err(error) => {
                warn!(blob = %layer.digest, error = causes(&error), "the image kept of a layer cannot be used");
                Ok(None)
            }
        }
    }

    /// Makes an image of the content store that of the target, verified as a layer that came as an image.
    fn take_image(
        &self,
        kept: &Kept,
        target: &Target,
        scope: &Scope,
        cancel: &Cancel,
    ) -> Result<ApplyMethod> {
        let Kept { digest, size, .. } = kept;
        let source = self.containerd.open(scope, &self.containerd_root, digest, *size)?;
        let layer = LayerSpec {
            media_type: EROFS_LAYER.to_owned(),
            digest: digest.clone(),
            size: *size,
            diff_id: None,
            payloads: BTreeMap::new(),
            verity: None,
            signature: None,
            fsverity: None,
        };
        let options = Options { processors: Vec::new(), ..self.options(target, cancel) };
        let image = target.dir.join(IMAGE);
        let applied = layer::apply(source, &layer, &image, &target.lowers, &options)?;
        self.mark(target);
        self.stages(applied.times);
        Ok(applied.how)
    }

    fn stages(&self, times: Times) {
        let Times { read, build, publish } = times;
        for (stage, took) in [("read", read), ("build", build), ("publish", publish)] {
            self.metrics.apply_stage(stage, took);
        }
    }

    fn convert(
        &self,
        layer: &LayerSpec,
        layer_type: Option<LayerType>,
        target: &Target,
        (scope, cancel): (&Scope, &Cancel),
        apply: impl FnOnce(LayerInput, &Path, &Options) -> Result<Applied>,
    ) -> Result<Done> {
        let root = &self.containerd_root;
        let source = self.containerd.open(scope, root, &layer.digest, layer.size)?;
        let options = self.options(target, cancel);
        let image = target.dir.join(IMAGE);
        let applied = apply(source, &image, &options)?;
        self.mark(target);
        // What a power cut may have damaged is not for others either. Nor is another name of a blob: it would keep the bytes
        // of a blob that containerd has deleted, and the blob itself is linked as fast.
        let for_others =
            layer_type.is_some() && target.is_ours && target.durability == Durability::Synced;
        let for_others = for_others && applied.how != ApplyMethod::Linked;
        let remembered =
            for_others && !applied.inherits && self.remember(&layer.digest, &applied, &image);
        let to_keep = remembered && layer_type.is_some_and(is_tar);
        let Applied { media_type, digest, size, how, times, summary, .. } = applied;
        let dropped = summary.map(|summary| summary.dropped_xattrs).unwrap_or_default();
        if dropped.count > 0 {
            warn!(blob = %layer.digest, "{dropped}");
        }
        self.stages(times);
        Ok(Done { media_type, diff_id: digest.to_string(), size, how: name(how), to_keep })
    }

    pub(super) fn options(&self, target: &Target, cancel: &Cancel) -> Options {
        let mut build = build::Options::default();
        build.layer.root_inherits = false;
        // The flags that another snapshotter sets on its images would be those of containerd's blob. And that is not ours
        // to seal.
        let protector = self.snapshotter.protector();
        let is_foreign = !target.is_ours || protector.verity == FsVerityPolicy::Required;
        let share = match self.share {
            Share::Link if is_foreign => Share::Reflink,
            share => share,
        };
        let seal: Arc<dyn FileProtector> = Arc::new(Sealed(protector));
        Options {
            build,
            share,
            seal: Some(seal).filter(|_| target.is_ours),
            trust: self.trust,
            dm_verity: self.dm_verity,
            durability: target.durability,
            processors: self.processors.clone(),
            room: self.room.clone(),
            budget: self.budget,
            cancel: cancel.clone(),
            ..Options::default()
        }
    }

    /// Gives the image to damaged layers that had the same. What fails here is tried again when it is needed.
    fn heal(&self, target: &Target) {
        if !target.is_ours {
            return;
        }
        if let Err(error) = self.snapshotter.heal(&target.dir) {
            warn!(error = causes(&error), "a damaged layer could not be given its image");
        }
    }

    /// Says on the image that it was checked or made here, so that the first commit, during which containerd does nothing
    /// else, need not check it.
    pub(super) fn mark(&self, target: &Target) {
        if !target.is_ours {
            return;
        }
        if let Err(error) = layerdir::mark_checked(&target.dir) {
            debug!(error = causes(&error), "a commit will check the image once more");
        }
    }

    /// Keeps the image for others. Without that it is only converted again. Returns whether that was possible.
    pub(super) fn remember(&self, blob: &Digest, applied: &Applied, image: &Path) -> bool {
        let diff_id = applied.digest.to_string();
        let store = self.snapshotter.store();
        let kept = self.snapshotter.images().keep(&diff_id, image, &blob.to_string());
        let kept = kept.and_then(|is_kept| {
            if is_kept {
                store.remember_blob(&blob.to_string(), &diff_id, applied.size)?;
            }
            Ok(is_kept)
        });
        kept.unwrap_or_else(|error| {
            warn!(
                error = causes(&error),
                diff_id, "a converted layer could not be kept for others"
            );
            false
        })
    }
}
