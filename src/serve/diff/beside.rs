//! A layer that is unpacked beside those below it waits for their images, if it needs them.
//!
//! containerd with the capability `rebase` applies the layers of an image side by side (core/unpack). A layer that does not
//! describe a directory takes its attributes from the layers below, whose own Apply may not be over, or not have come yet.
//! So it is read first, and waits when it turns out that it needs them: for the image, which the Apply below makes, and not
//! for the commit. containerd commits when all layers of the image were applied.
//!
//! What waits holds nothing that the layer below needs: it gives its place at the gate back, and only so many layers are
//! read ahead of those below them ([`Differ::admit`]). Of the layers that are not, the lowest can always go on.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use erolith_differ::apply::ParentImages;
use erolith_differ::apply::layer::{self, Applied, LayerInput, LayerSpec, Options};
use erolith_differ::content::LocalBlob;
use erolith_differ::decode::Cancel;
use erolith_differ::keyed_semaphore::Permit;
use erolith_snapshotter::service::{ParentChain, namespace_of};
use erolith_snapshotter::store::FoundSnapshot;
use tokio::sync::SemaphorePermit;
use tracing::debug;

use super::board::Apply;
use super::differ::Differ;
use super::missing::Missing;
use crate::containerd::Scope;
use crate::serve::error::{Error, Result};

/// How often long waits check whether they are cancelled.
const GLANCE: Duration = Duration::from_millis(50);
/// How often containerd is asked whether it still has the snapshot of a layer whose Apply has not come.
const ASK: Duration = Duration::from_secs(5);
/// How long a chain that no snapshot ends is waited for: containerd prepares the layers of an image in their order.
const ABSENT: Duration = Duration::from_secs(30);
/// How long the commit of a layer that another differ unpacks is waited for. It cannot come while containerd has more layers
/// to hand out than it unpacks at a time.
const DECLINED: Duration = Duration::from_secs(60);

/// What is seen of the layer that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sight {
    /// No snapshot ends the chain.
    Nothing,
    /// A snapshot is there for it, and no Apply.
    Prepared,
    /// Its last Apply.
    Applied(Apply),
}

/// How long what has been waited for.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// Since the last sign of life.
    silent: Duration,
    /// The longest silence.
    limit: Duration,
    /// Whether its snapshot was seen before.
    was_seen: bool,
}

/// Whether to wait on.
fn judge(sight: &Sight, times: Times) -> Result<(), Missing> {
    let Times { silent, limit, was_seen } = times;
    let within = |limit: Duration, missing| if silent < limit { Ok(()) } else { Err(missing) };
    match sight {
        Sight::Nothing if was_seen => Err(Missing::Removed),
        Sight::Nothing => within(ABSENT.min(limit), Missing::Silent(silent)),
        Sight::Prepared => within(limit, Missing::Silent(silent)),
        Sight::Applied(Apply::Running) => Ok(()),
        Sight::Applied(Apply::Failed(message)) => Err(Missing::Failed(message.clone())),
        Sight::Applied(Apply::Declined) => within(DECLINED.min(limit), Missing::Foreign),
    }
}

/// A layer that may have to wait.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Its snapshot.
    id: u64,
    /// When there was a sign of life of the missing layer.
    sign: Instant,
    asked: Instant,
    /// The chain that was missing when its snapshot was last seen.
    seen: Option<String>,
}

impl Waiting {
    pub(super) fn new(id: u64) -> Self {
        let now = Instant::now();
        Self { id, sign: now, asked: now, seen: None }
    }

    /// The images below; nothing as long as one is missing that may still come.
    fn look(&mut self, differ: &Differ) -> Result<Option<Vec<PathBuf>>> {
        let (chain, active) = match differ.snapshotter.layers_below(self.id)? {
            ParentChain::Complete(images) => return Ok(Some(images)),
            ParentChain::Missing { chain, active } => (chain, active),
        };
        let sight = match active.first() {
            None => Sight::Nothing,
            Some(newest) => differ.board.of(newest.id).map_or(Sight::Prepared, Sight::Applied),
        };
        let was_seen = self.seen.as_deref() == Some(chain.as_str());
        let is_news = self.seen.is_some() && !was_seen;
        if is_news || sight == Sight::Applied(Apply::Running) {
            self.sign = Instant::now();
        }
        let times = Times { silent: self.sign.elapsed(), limit: differ.patience, was_seen };
        judge(&sight, times).map_err(|source| Error::Below { chain: chain.clone(), source })?;
        if sight != Sight::Nothing {
            self.seen = Some(chain);
        }
        Ok(None)
    }

    /// Asks containerd now and then whether it still has the snapshot of the layer that is missing: what it gave up is not
    /// removed here before its garbage collection.
    fn ask(&mut self, differ: &Differ, scope: &Scope) -> Result<()> {
        if self.asked.elapsed() < ASK.min(differ.patience / 2) {
            return Ok(());
        }
        self.asked = Instant::now();
        let ParentChain::Missing { chain, active } = differ.snapshotter.layers_below(self.id)?
        else {
            return Ok(());
        };
        let Some(newest) = active.first().filter(|end| differ.board.of(end.id).is_none()) else {
            return Ok(());
        };
        let Some(key) = clients_key(newest) else { return Ok(()) };
        let snapshots = differ.containerd.snapshots(&differ.board.snapshotter());
        match snapshots.stat(scope, key) {
            Ok(Some(_)) => self.sign = Instant::now(),
            Ok(None) => {
                let missing = ParentChain::Missing { chain: chain.clone(), active: active.clone() };
                // It may have been committed since, which takes that key away.
                if differ.snapshotter.layers_below(self.id)? == missing {
                    return Err(Error::Below { chain, source: Missing::Removed });
                }
            }
            Err(error) => debug!(%error, "containerd does not say what became of a layer"),
        }
        Ok(())
    }

    /// Waits for the images below.
    ///
    /// # Errors
    /// [`Error::Below`] when they do not come, [`erolith_differ::Error::Cancelled`], and those of the database.
    fn wait(&mut self, differ: &Differ, scope: &Scope, cancel: &Cancel) -> Result<Vec<PathBuf>> {
        let mut changes = differ.board.changes();
        let runtime = differ.containerd.runtime();
        loop {
            cancel.check()?;
            changes.mark_unchanged();
            if let Some(images) = self.look(differ)? {
                return Ok(images);
            }
            self.ask(differ, scope)?;
            let change = async { tokio::time::timeout(GLANCE, changes.changed()).await };
            // A change, or the time for a glance.
            let _ = runtime.block_on(change);
        }
    }
}

/// What containerd's clients call a snapshot: its key without namespace and number.
fn clients_key(found: &FoundSnapshot) -> Option<&str> {
    let is_containerds = !namespace_of(&found.key).is_empty();
    found.key.splitn(3, '/').nth(2).filter(|_| is_containerds)
}

/// The layers below one that is being read: asked for when it turns out that they matter.
pub(super) struct Beside<'a> {
    differ: &'a Differ,
    scope: &'a Scope,
    cancel: &'a Cancel,
    waiting: RefCell<Waiting>,
    /// The place at the gate; none while it waits.
    pass: RefCell<Option<Permit>>,
    /// How long they were waited for.
    waited: Cell<Duration>,
    /// Why they do not come.
    failure: RefCell<Option<Error>>,
}

impl<'a> Beside<'a> {
    pub(super) fn new(
        differ: &'a Differ,
        scope: &'a Scope,
        cancel: &'a Cancel,
        waiting: Waiting,
        pass: Permit,
    ) -> Self {
        let (waiting, pass) = (RefCell::new(waiting), RefCell::new(Some(pass)));
        let (waited, failure) = (Cell::default(), RefCell::default());
        Self { differ, scope, cancel, waiting, pass, waited, failure }
    }

    /// Applies `layer` over them.
    ///
    /// # Errors
    /// As [`layer::apply`], and [`Error::Below`].
    pub(super) fn apply(
        &self,
        source: LayerInput,
        layer: &LayerSpec,
        image: &Path,
        options: &Options,
    ) -> Result<Applied> {
        let applied = layer::apply(source, layer, image, self, options);
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut applied = applied?;
        let waited = self.waited.get();
        self.differ.metrics.apply_stage("below", waited);
        applied.times.build = applied.times.build.saturating_sub(waited);
        Ok(applied)
    }

    fn wait(&self) -> Result<Vec<PathBuf>> {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(images) = waiting.look(self.differ)? {
            return Ok(images);
        }
        let start = Instant::now();
        // The layer below may be the same blob, so its key goes, too. The blob was read, so no second Apply reads it at the same time.
        drop(self.pass.borrow_mut().take());
        let images = waiting.wait(self.differ, self.scope, self.cancel);
        let key = format!("snapshot {}", waiting.id);
        let pass = self.differ.gate.enter(&key, self.cancel)?;
        self.pass.replace(Some(pass));
        self.waited.set(start.elapsed());
        images
    }
}

impl ParentImages for Beside<'_> {
    fn images(&self) -> erolith_differ::Result<Vec<LocalBlob>> {
        match self.wait() {
            Ok(images) => images.images(),
            Err(error) => {
                self.failure.replace(Some(error));
                Err(erolith_differ::Error::Cancelled)
            }
        }
    }
}

impl Differ {
    /// Waits until a layer may be read: at once when the layers below are there or will not come, else when there is room
    /// for one more that is read ahead of them. It holds nothing while it waits, and blocks no thread.
    pub(super) async fn admit(&self, waiting: &mut Waiting) -> Result<Option<SemaphorePermit<'_>>> {
        let mut changes = self.board.changes();
        loop {
            self.stop.check()?;
            changes.mark_unchanged();
            // One that needs no other layer is right without them. One that does finds out itself what is wrong.
            if !matches!(waiting.look(self), Ok(None)) {
                return Ok(None);
            }
            if let Ok(permit) = self.ahead.try_acquire() {
                return Ok(Some(permit));
            }
            tokio::select! {
                _ = changes.changed() => {}
                permit = self.ahead.acquire() => return Ok(permit.ok()),
                () = tokio::time::sleep(ASK) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_nothing_can_come() {
        let limit = Duration::from_secs(600);
        let after =
            |silent, was_seen| Times { silent: Duration::from_secs(silent), limit, was_seen };
        let failed = Sight::Applied(Apply::Failed("bad".into()));
        let silent = |seconds| Err(Missing::Silent(Duration::from_secs(seconds)));
        let running = Sight::Applied(Apply::Running);
        let declined = Sight::Applied(Apply::Declined);
        for (sight, times, want) in [
            (&Sight::Nothing, after(0, false), Ok(())),
            (&Sight::Nothing, after(0, true), Err(Missing::Removed)),
            (&Sight::Nothing, after(30, false), silent(30)),
            (&Sight::Prepared, after(30, true), Ok(())),
            (&Sight::Prepared, after(600, true), silent(600)),
            (&running, after(6000, true), Ok(())),
            (&failed, after(0, true), Err(Missing::Failed("bad".into()))),
            (&declined, after(0, true), Ok(())),
            (&declined, after(60, true), Err(Missing::Foreign)),
        ] {
            assert_eq!(judge(sight, times), want, "{sight:?} {times:?}");
        }
        let short = Times { limit: Duration::from_secs(1), ..after(1, false) };
        assert_eq!(judge(&Sight::Nothing, short), silent(1));
    }

    #[test]
    fn clients_know_keys_without_what_containerd_puts_before() {
        let found = |key: &str| FoundSnapshot {
            id: 1,
            key: key.to_owned(),
            kind: erolith_snapshotter::store::Kind::Active,
        };
        for (key, want) in [
            ("k8s.io/12/extract-1-a/b sha256:c", Some("extract-1-a/b sha256:c")),
            ("k8s.io/extract-1", None),
            ("extract-1", None),
        ] {
            assert_eq!(clients_key(&found(key)), want, "{key}");
        }
    }
}
