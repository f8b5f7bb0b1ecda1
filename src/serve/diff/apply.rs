//! A layer comes in: it becomes the image in the directory of the snapshot that the mounts are of.
//!
//! A layer that was converted before is linked: what a blob decompresses to is remembered in the database, and the
//! image of every such layer is kept by its diffID. Not so where the image says more than the layer, because directories
//! that the layer does not describe took their attributes from the layers below; nor where the layer was decrypted,
//! because who may have the blob may not be one who may read it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use erolith_differ::apply::layer::{self, Applied, How, Layer, Options};
use erolith_differ::decode::Cancel;
use erolith_differ::publish::{Place, Sync};
use erolith_differ::{Digest, LayerType};
use erolith_mkfs::build;
use erolith_snapshotter::layerdir::{self, IMAGE};
use prost::Message;
use prost_types::Any;
use tracing::{debug, info, warn};

use super::Differ;
use crate::serve::containerd::Scope;
use crate::serve::error::{Error, Result};
use crate::serve::proto::diff::ApplyRequest;
use crate::serve::proto::types::Descriptor;
use crate::serve::snapshots::from_mounts;

/// A layer as its descriptor describes it, with numbers that can be, and what there is for its processors.
fn layer_of(descriptor: Descriptor, payloads: BTreeMap<String, Any>) -> Result<Layer> {
    let Descriptor { media_type, digest, size, .. } = descriptor;
    let bad_size = |_| Error::Request(format!("blob {digest}: a size of {size} bytes"));
    let size = u64::try_from(size).map_err(bad_size)?;
    let payloads = payloads.into_iter().map(|(id, any)| (id, any.encode_to_vec())).collect();
    Ok(Layer { media_type, digest: digest.parse()?, size, diff_id: None, payloads })
}

/// How an image came to be, in logs and metrics.
fn name(how: How) -> &'static str {
    match how {
        How::Converted => "converted",
        How::Unpacked => "unpacked",
        How::Linked => "linked",
        How::Reflinked => "reflinked",
        How::Copied => "copied",
    }
}

/// Where a layer goes.
struct Target {
    dir: PathBuf,
    /// Images of the layers below, the nearest first.
    lowers: Vec<PathBuf>,
    sync: Sync,
    /// May others who have the blob use its image?
    for_others: bool,
}

/// A layer that came in.
struct Done {
    media_type: String,
    diff_id: String,
    size: u64,
    how: &'static str,
}

impl Differ {
    /// Applies a layer. Returns what it is uncompressed.
    pub(super) fn apply(
        &self,
        request: ApplyRequest,
        scope: &Scope,
        cancel: &Cancel,
    ) -> Result<Descriptor> {
        let start = Instant::now();
        let ApplyRequest { diff, mounts, payloads, sync_fs } = request;
        let nothing = || Error::Request("a request to apply nothing".to_owned());
        let layer = layer_of(diff.ok_or_else(nothing)?, payloads)?;
        let is_processed =
            self.processors.iter().any(|program| program.accepts.contains(&layer.media_type));
        let layer_type = match is_processed {
            true => None,
            false => Some(LayerType::parse(&layer.media_type)?),
        };
        let mounts = from_mounts(mounts);
        let foreign = Error::NotOurs("the mounts are not those of an EROFS layer directory");
        let dir = layerdir::of_mounts(&mounts).ok_or(foreign)?;
        let lowers = self.places.stack(&mounts).map(|stack| stack.lowers).unwrap_or_default();

        let _running = self.metrics.apply_running();
        let _pass = self.gate.enter(&layer.digest.to_string(), cancel)?;
        let sync = if self.sync || sync_fs { Sync::Durable } else { Sync::Skipped };
        let there = layer_type.map(|layer_type| self.reuse(&layer, layer_type, &dir, sync));
        let done = match there.transpose()?.flatten() {
            Some(done) => done,
            None => {
                let target = Target { dir, lowers, sync, for_others: layer_type.is_some() };
                self.convert(&layer, &target, scope, cancel)?
            }
        };
        let took = start.elapsed();
        self.metrics.applied(done.how, took, layer.size, done.size);
        let Done { media_type, diff_id, size, how } = done;
        info!(blob = %layer.digest, diff_id, how, bytes = size, ?took, "applied");
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        Ok(Descriptor { media_type, digest: diff_id, size, ..Descriptor::default() })
    }

    /// Links the image of a layer that was converted before, if there is one.
    fn reuse(
        &self,
        layer: &Layer,
        layer_type: LayerType,
        dir: &Path,
        sync: Sync,
    ) -> Result<Option<Done>> {
        let known = self.snapshotter.store().diff_id_of(&layer.digest.to_string())?;
        let Some((diff_id, size)) = known else { return Ok(None) };
        let Some(image) = self.snapshotter.images().find(&diff_id) else { return Ok(None) };
        let linked = File::open(&image)
            .map_err(|source| Error::Storage { action: "opening", path: image.clone(), source })
            .and_then(|file| Ok(Place::new(&dir.join(IMAGE))?.publish(&file, sync)?));
        if let Err(error) = linked {
            // It went meanwhile, or has as many names as the filesystem allows: it can be made once more.
            debug!(%error, image = %image.display(), "a converted layer could not be linked");
            return Ok(None);
        }
        let media_type = layer_type.decoded_media_type(&layer.media_type);
        Ok(Some(Done { media_type, diff_id, size, how: "reused" }))
    }

    fn convert(
        &self,
        layer: &Layer,
        target: &Target,
        scope: &Scope,
        cancel: &Cancel,
    ) -> Result<Done> {
        let Target { dir, lowers, sync, for_others } = target;
        let root = &self.containerd_root;
        let source = self.containerd.open(scope, root, &layer.digest, layer.size)?;
        let mut build = build::Options::default();
        build.layer.root_inherits = false;
        let options = Options {
            build,
            share: self.share,
            trust: self.trust,
            sync: *sync,
            processors: self.processors.clone(),
            budget: self.budget,
            cancel: cancel.clone(),
            ..Options::default()
        };
        let image = dir.join(IMAGE);
        let applied = layer::apply(source, layer, &image, lowers, &options)?;
        // What a power cut may have damaged is not for others either.
        if *for_others && !applied.inherits && *sync == Sync::Durable {
            self.remember(&layer.digest, &applied, &image);
        }
        let Applied { media_type, digest, size, how, .. } = applied;
        Ok(Done { media_type, diff_id: digest.to_string(), size, how: name(how) })
    }

    /// Keeps the image for others. Without that it is only converted again.
    fn remember(&self, blob: &Digest, applied: &Applied, image: &Path) {
        let diff_id = applied.digest.to_string();
        let store = self.snapshotter.store();
        let kept = self
            .snapshotter
            .images()
            .keep(&diff_id, image)
            .and_then(|()| store.remember_blob(&blob.to_string(), &diff_id, applied.size));
        if let Err(error) = kept {
            warn!(%error, diff_id, "a converted layer could not be kept for others");
        }
    }
}
