//! Damaged layers are rebuilt from containerd's content store.
//!
//! containerd's metadata store answers `Prepare` of a layer that it knows by itself, so a pull does not bring a damaged
//! layer again. The daemon therefore rebuilds it: in the background, and before it answers a `Stat`, `Prepare`, `View` or
//! `Mounts` that needs it. The blob is found by what was recorded when the layer was applied, else by its label
//! `containerd.io/uncompressed`. It is always verified. Where the digest of the lost image is known, only an image with
//! that digest gets its place; else the verified blob and its diffID are the proof.

mod search;
mod unhealed;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use erolith_differ::apply::layer::{self, Applied, ApplyMethod, LayerSpec, Options, Share, Trust};
use erolith_differ::decode::Cancel;
use erolith_differ::publish::{Durability, FileProtector, ProtectError};
use erolith_snapshotter::layerdir::IMAGE;
use erolith_snapshotter::protect::Protector;
use erolith_snapshotter::service::Broken;
use erolith_verity::fsverity;
use tonic::Code;
use tracing::{debug, error, warn};

use self::search::{Search, parts};
use self::unhealed::Unhealed;
use super::Service;
use super::differ::Differ;
use super::target::Target;
use crate::causes::causes;
use crate::containerd::Scope;
use crate::serve::blocking::blocking;
use crate::serve::error::{Error, Result};

/// How long between two looks at the quarantine. `erolith scrub` fills it from another process.
const INTERVAL: Duration = Duration::from_secs(10);

/// What became of a damaged layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is whole.
    Whole,
    /// It is damaged; the same may succeed later.
    Later,
    /// It is damaged, and stays so until something on the node changes.
    Hopeless,
}

/// The digest of an image that is about to get its name is not the recorded one.
#[derive(Debug, thiserror::Error)]
#[error("its fs-verity digest is {found}, and was {pinned}")]
struct Differing {
    pinned: fsverity::Digest,
    found: fsverity::Digest,
}

/// Refuses an image that is not the one that the layer had, and seals it. The digest is computed here: the word of a
/// worker is not enough for an image that replaces another.
#[derive(Debug)]
struct Expected {
    protector: Protector,
    pinned: Option<fsverity::Digest>,
}

impl FileProtector for Expected {
    fn protect(
        &self,
        file: File,
        path: &Path,
        durability: Durability,
        _digest: Option<fsverity::Digest>,
    ) -> Result<File, ProtectError> {
        let found = fsverity::Digest::of(&file, &mut |_| {})?;
        match self.pinned.filter(|pinned| *pinned != found) {
            Some(pinned) => Err(Box::new(Differing { pinned, found })),
            None => Ok(self.protector.seal(
                file,
                path,
                durability == Durability::Synced,
                Some(found),
            )?),
        }
    }

    fn wants_digest(&self) -> bool {
        false
    }

    fn needs_syncfs(&self, file: &File, path: &Path) -> Result<bool, ProtectError> {
        Ok(self.protector.needs_syncfs(file, path)?)
    }
}

impl Differ {
    /// Rebuilds the damaged layer `id`, and before it those below that are damaged.
    fn heal_chain(&self, id: u64, cancel: &Cancel) -> Result<Outcome> {
        let store = self.snapshotter.store();
        let Some(name) = store.name_of(id)? else { return Ok(Outcome::Whole) };
        for id in store.damaged_below(&name)? {
            let outcome = self.heal_one(id, cancel);
            if outcome != Outcome::Whole {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Whole)
    }

    fn heal_one(&self, id: u64, cancel: &Cancel) -> Outcome {
        let start = Instant::now();
        match self.rebuild(id, cancel) {
            Ok(None) => Outcome::Whole,
            Ok(Some(from)) => {
                let took = start.elapsed().as_secs_f64();
                warn!(id, from, seconds = took, "a damaged layer was rebuilt");
                self.metrics.healed("healed");
                Outcome::Whole
            }
            Err(Unhealed::Cancelled) => Outcome::Later,
            Err(why) => {
                let advice = why.advice();
                error!(id, error = causes(&why), advice, "a damaged layer cannot be rebuilt");
                self.metrics.healed(why.code());
                if why.is_transient() { Outcome::Later } else { Outcome::Hopeless }
            }
        }
    }

    /// Rebuilds one layer. Returns of what; nothing for a layer that is not damaged any more.
    fn rebuild(&self, id: u64, cancel: &Cancel) -> Result<Option<String>, Unhealed> {
        let Some(broken) = self.snapshotter.broken(id)? else { return Ok(None) };
        let blob = broken.origin.as_ref().and_then(|origin| origin.blob.as_ref());
        let key = blob.map_or_else(|| format!("snapshot {id}"), |blob| blob.digest.clone());
        let _pass = self.gate.enter(&key, cancel)?;
        // Another request may have rebuilt it while this one waited.
        let Some(broken) = self.snapshotter.broken(id)? else { return Ok(None) };
        // A daemon that was killed between the image and the row left a whole one.
        if broken.pin.is_some() && self.snapshotter.healed(id).is_ok() {
            return Ok(Some("its directory".to_owned()));
        }
        let rebuilt = self.rebuild_from_store(&broken, cancel);
        match rebuilt {
            Err(Unhealed::Cancelled) => Err(Unhealed::Cancelled),
            Err(why) => match self.snapshotter.relink(id)? {
                true => Ok(Some("the cache".to_owned())),
                false => Err(why),
            },
            Ok(digest) => Ok(Some(digest)),
        }
    }

    fn rebuild_from_store(&self, broken: &Broken, cancel: &Cancel) -> Result<String, Unhealed> {
        let recorded = broken.origin.as_ref().map(|origin| origin.namespace.as_str());
        let named = parts(&broken.name).map(|(namespace, _)| namespace);
        let namespace = recorded.or(named).ok_or(Unhealed::Unknown)?;
        let scope = Scope::named(namespace)?;
        let search = Search { containerd: &self.containerd, scope: &scope, broken };
        let mut why = Unhealed::Missing { namespace: namespace.to_owned() };
        for candidate in search.candidates()? {
            match self.rebuild_from(broken, &candidate, &scope, cancel) {
                Ok(()) => return Ok(candidate.blob.digest),
                Err(Unhealed::Cancelled) => return Err(Unhealed::Cancelled),
                Err(other) => {
                    debug!(id = broken.id, error = causes(&other), "a blob is not the layer");
                    why = other;
                }
            }
        }
        Err(why)
    }

    fn rebuild_from(
        &self,
        broken: &Broken,
        candidate: &search::Candidate,
        scope: &Scope,
        cancel: &Cancel,
    ) -> Result<(), Unhealed> {
        let layer = candidate.layer()?;
        if self.is_processed(&layer) {
            return Err(Unhealed::Encrypted { digest: layer.digest });
        }
        let target = |lowers| Target {
            dir: broken.dir.clone(),
            lowers,
            durability: Durability::Synced,
            is_ours: true,
        };
        let over = target(broken.lowers.clone());
        let mut written = self.write(broken, &layer, &over, scope, cancel);
        // One that was unpacked beside the layers below did not inherit from them.
        if matches!(written, Err(Unhealed::Differs { .. })) && !broken.lowers.is_empty() {
            written = self.write(broken, &layer, &target(Vec::new()), scope, cancel);
        }
        let applied = written?;
        self.mark(&over);
        self.snapshotter.healed(broken.id)?;
        if !applied.inherits && applied.how != ApplyMethod::Linked {
            self.remember(&layer.digest, &applied, &broken.dir.join(IMAGE));
        }
        Ok(())
    }

    /// Writes the image of `layer` into the directory of the damaged one.
    fn write(
        &self,
        broken: &Broken,
        layer: &LayerSpec,
        target: &Target,
        scope: &Scope,
        cancel: &Cancel,
    ) -> Result<Applied, Unhealed> {
        let root = &self.containerd_root;
        let source = self.containerd.open(scope, root, &layer.digest, layer.size)?;
        let options = self.options(target, cancel);
        let protector = self.snapshotter.protector();
        let share = match (options.share, broken.pin) {
            // A file of the store has no digest of ours.
            (Share::Link, Some(_)) => Share::Reflink,
            (share, _) => share,
        };
        let options = Options {
            share,
            trust: Trust::Nothing,
            dm_verity: broken.has_tree,
            seal: Some(Arc::new(Expected { protector, pinned: broken.pin })),
            ..options
        };
        let image: PathBuf = target.dir.join(IMAGE);
        let applied = layer::apply(source, layer, &image, &target.lowers, &options);
        applied.map_err(|error| unhealed(error, layer, scope))
    }
}

/// What an error of a rebuild says about the blob.
fn unhealed(error: erolith_differ::Error, layer: &LayerSpec, scope: &Scope) -> Unhealed {
    if let erolith_differ::Error::Seal { source, .. } = &error
        && let Some(&Differing { pinned, found }) = source.downcast_ref()
    {
        return Unhealed::Differs { digest: layer.digest.clone(), pinned, found };
    }
    let error = Error::from(error);
    match error.code() {
        Code::DataLoss | Code::InvalidArgument => Unhealed::Blob {
            digest: layer.digest.clone(),
            namespace: scope.namespace().to_owned(),
            source: Box::new(error),
        },
        _ => error.into(),
    }
}

impl Service {
    /// Rebuilds the damaged layer `id`, and those below it. Goes on when the caller goes away.
    pub(crate) async fn heal(&self, id: u64) -> Outcome {
        let service = self.clone();
        let work = async move {
            let work = move |differ: &Differ, cancel: &Cancel| differ.heal_chain(id, cancel);
            service.work(work).await
        };
        let healed = tokio::spawn(work).await.unwrap_or(Err(Error::WorkerDied));
        healed.unwrap_or_else(|error| {
            error!(id, error = causes(&error), "a damaged layer could not be looked at");
            Outcome::Later
        })
    }

    /// Rebuilds what is quarantined, as long as the daemon runs. A layer that cannot be rebuilt is tried again when other
    /// layers were applied, or a request needs it.
    pub(crate) async fn keep_whole(self) -> Infallible {
        let (mut hopeless, mut applied) = (BTreeSet::new(), 0);
        loop {
            let now = self.0.applied.load(Ordering::Relaxed);
            if std::mem::replace(&mut applied, now) != now {
                hopeless.clear();
            }
            let snapshotter = Arc::clone(&self.0.snapshotter);
            let damaged = blocking(move || Ok(snapshotter.store().damaged()?)).await;
            let damaged = damaged.unwrap_or_else(|error| {
                warn!(error = causes(&error), "the quarantine cannot be read");
                BTreeMap::new()
            });
            hopeless.retain(|id| damaged.contains_key(id));
            for id in damaged.into_keys() {
                if !hopeless.contains(&id) && self.heal(id).await == Outcome::Hopeless {
                    hopeless.insert(id);
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests;
