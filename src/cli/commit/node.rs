//! A commit on a node: containerd has the container, makes the layer, and gets the image.
//!
//! What is made on the way is under a lease of ours: the views that the layer is made from, and what the image will keep.
//! A run that ends in any way but being killed takes the views and the lease away; of one that is killed the lease ends by
//! itself, and containerd collects what it kept.

use std::time::Duration;

use anyhow::Context as _;
use erolith_differ::commit::{self, Addition, BaseImage, CommittedLayer};
use erolith_differ::decode::Cancel;
use erolith_differ::oci::{Descriptor, Manifest};
use erolith_differ::{Compression, Digest, LayerType};
use prost_types::Timestamp;
use tonic::Code;

use super::args::Args;
use super::args::Format;
use super::options::{address, latest, layer_format, namespace, note};
use super::show::{Committed, Made};
use super::subject::{CommitBase, Named, Subject, descriptor};
use crate::containerd::labels::UNCOMPRESSED;
use crate::containerd::lease::Leased;
use crate::containerd::snapshots::Snapshots;
use crate::containerd::store::NodeStore;
use crate::containerd::upload::OWN_REFERENCE;
use crate::containerd::{self, Containerd, Scope};
use crate::exit::{Usage, complain};
use crate::progress::Count;
use crate::proto::diff::DiffRequest;
use crate::proto::images::Image;
use crate::proto::snapshots::Kind;
use crate::proto::types::{self, Mount};

/// How long containerd keeps what a killed run left. Longer than any layer takes; containerd's own clients take as much.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Commits what the arguments say.
///
/// # Errors
/// What is missing, or what containerd refuses. There is no new image then.
pub(super) fn commit(
    args: &Args,
    container: &str,
    image: &str,
    cancel: &Cancel,
) -> anyhow::Result<Made> {
    let media_type = layer_format(args.format, args.compression)?.media_type();
    let latest = latest(args)?;
    if !erolith_differ::oci::is_reference(image) {
        return Err(Usage(format!("{image:?} is no name of an image")).into());
    }
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let runtime = threads.worker_threads(1).enable_all().build().context("starting threads")?;
    let _inside = runtime.enter();
    let address = address(args);
    let containerd = Containerd::at(&address)?;
    let scope = Scope::named(&namespace(args))?;
    let silent = |error: anyhow::Error| match error.downcast_ref::<containerd::Error>() {
        Some(answer) if answer.code() == Code::Unavailable => error.context(format!(
            "{}: no containerd answers; --address names another socket",
            address.display()
        )),
        _ => error,
    };
    let found = Subject::find(&containerd, &scope, container, args.snapshotter.as_deref());
    let subject = found.map_err(silent)?;
    warn_of_old(args, &containerd);
    let reference = format!("{OWN_REFERENCE}{}", uuid::Uuid::new_v4());
    let leased = containerd.lease(&scope, LEASE)?;
    let lease = Lease { leased, reference, containerd: &containerd };
    let work = Work {
        args,
        image,
        cancel,
        latest,
        subject,
        containerd: &containerd,
        lease: &lease.leased,
        reference: &lease.reference,
    };
    Ok(Made::Image(Box::new(work.commit(media_type)?)))
}

/// Says so when the image that is to be made does not run on this containerd.
fn warn_of_old(args: &Args, containerd: &Containerd) {
    if args.format != Format::Erofs || args.quiet {
        return;
    }
    // One that does not tell its version is not a reason to make no image.
    let Some(version) = containerd.version() else { return };
    if !version.runs_erofs() {
        complain(format_args!(
            "this is containerd {version}, which does not run images with EROFS layers: containerd 2.3 and later do; \
             --format oci makes a layer that every version runs"
        ));
    }
}

/// A lease that is given up in the end, and with it the one that keeps for us what the call `reference` made.
struct Lease<'a> {
    containerd: &'a Containerd,
    leased: Leased,
    reference: String,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.containerd.release(self.leased.scope(), &self.reference);
        self.containerd.give_up(&self.leased);
    }
}

/// A container that is paused, until this is dropped.
struct Paused<'a> {
    containerd: &'a Containerd,
    scope: &'a Scope,
    id: &'a str,
}

impl<'a> Paused<'a> {
    /// Pauses the container if it runs.
    fn begin(
        containerd: &'a Containerd,
        scope: &'a Scope,
        id: &'a str,
    ) -> containerd::Result<Option<Self>> {
        if !containerd.is_running(scope, id)? {
            return Ok(None);
        }
        containerd.pause(scope, id).inspect_err(|_| {
            // A call that fails may have paused it all the same; if not, there is nothing to resume.
            let _ = containerd.resume(scope, id);
        })?;
        Ok(Some(Self { containerd, scope, id }))
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.containerd.resume(self.scope, self.id) {
            complain(format_args!("{error}; `ctr task resume {}` does it", self.id));
        }
    }
}

/// A view of a committed snapshot, until this is dropped.
struct View<'a> {
    snapshots: &'a Snapshots,
    scope: &'a Scope,
    key: String,
    mounts: Vec<Mount>,
}

impl<'a> View<'a> {
    fn of(
        snapshots: &'a Snapshots,
        scope: &'a Scope,
        parent: &str,
    ) -> containerd::Result<View<'a>> {
        let key = format!("erolith-commit-{}", uuid::Uuid::new_v4());
        let mounts = snapshots.view(scope, &key, parent)?;
        Ok(Self { snapshots, scope, key, mounts })
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        // If it cannot be removed, the end of the lease does it.
        if let Err(error) = self.snapshots.remove(self.scope, &self.key) {
            complain(error);
        }
    }
}

/// What every step needs.
struct Work<'a> {
    args: &'a Args,
    image: &'a str,
    cancel: &'a Cancel,
    latest: Option<i64>,
    subject: Subject,
    containerd: &'a Containerd,
    lease: &'a Leased,
    reference: &'a str,
}

impl Work<'_> {
    fn commit(&self, media_type: String) -> anyhow::Result<Committed> {
        let store = NodeStore {
            containerd: self.containerd,
            leased: self.lease,
            snapshots: &self.subject.snapshots,
        };
        let CommitBase { manifest, config, image } = self.subject.below(&store)?;
        let origin = image.as_ref().map(|image| &image.origin);
        let base = BaseImage { manifest: &manifest, config: &config, origin };
        let note = note(self.args, self.latest, self.subject.command());
        let addition = Addition { changes: &self.args.change, note: &note, cancel: self.cancel };
        let made = commit::add_layer(&store, base, &addition, || self.layer(media_type))?;
        self.warn_of_missing(&manifest, &made.layer)?;
        self.name(&made.manifest)?;
        Ok(Committed {
            image: self.image.to_owned(),
            manifest: made.manifest.digest,
            config: made.config,
            layer: made.layer,
            base: image.map(|Named { name, digest, .. }| (name, digest)),
        })
    }

    /// Has containerd make the layer, while the container does not change.
    fn layer(&self, media_type: String) -> anyhow::Result<CommittedLayer> {
        let made = self.diff(media_type);
        // A cancelled call is reported as cancelled, not with the error that it returned.
        self.cancel.check()?;
        let made = made?;
        self.containerd.protect(self.lease, &made.digest)?;
        let made = descriptor(&made).context("the layer that containerd made")?;
        let diff_id = self.diff_id(&made)?;
        Ok(CommittedLayer::new(made, diff_id)?)
    }

    fn diff(&self, media_type: String) -> anyhow::Result<types::Descriptor> {
        let Self { subject: Subject { snapshots, snapshot, container, .. }, containerd, .. } = self;
        let scope = self.lease.scope();
        let left = View::of(snapshots, scope, &snapshot.parent)?;
        let paused = container.as_ref().filter(|_| self.args.pause);
        let paused = paused.map(|container| Paused::begin(containerd, scope, &container.id));
        let _paused = paused.transpose().context("--pause=false does without")?;
        let (right, _view) = match snapshot.kind() {
            Kind::Active => (snapshots.mounts(scope, &snapshot.name)?, None),
            _ => {
                let view = View::of(snapshots, scope, &snapshot.name)?;
                (view.mounts.clone(), Some(view))
            }
        };
        let time = self.latest.map(|seconds| Timestamp { seconds, nanos: 0 });
        let request = DiffRequest {
            left: left.mounts.clone(),
            right,
            media_type,
            r#ref: self.reference.to_owned(),
            source_date_epoch: time,
            ..DiffRequest::default()
        };
        // It is gone before a container that cannot be resumed is complained about.
        let line = self.args.line();
        line.step("containerd makes the layer", Count::Nothing);
        Ok(containerd.diff(scope, request, self.cancel)?)
    }

    /// The digest of what a layer decompresses to, which its maker noted.
    fn diff_id(&self, layer: &Descriptor) -> anyhow::Result<Digest> {
        let info = self.containerd.info(self.lease.scope(), &layer.digest)?;
        let noted = info.and_then(|info| info.labels.get(UNCOMPRESSED).cloned());
        match (noted, LayerType::parse(&layer.media_type)?) {
            (Some(noted), _) => Ok(noted.parse()?),
            (
                None,
                LayerType::Tar { compression: Compression::None, .. }
                | LayerType::Erofs { compression: Compression::None },
            ) => Ok(layer.digest.clone()),
            _ => anyhow::bail!("containerd made layer {} and no note of its diffID", layer.digest),
        }
    }

    /// Blobs of layers may be thrown away once they are unpacked.
    fn warn_of_missing(&self, base: &Manifest, top: &CommittedLayer) -> anyhow::Result<()> {
        let mut missing = 0;
        for layer in base.layers.iter().chain([&top.descriptor]) {
            let info = self.containerd.info(self.lease.scope(), &layer.digest)?;
            missing += usize::from(info.is_none());
        }
        if missing > 0 {
            complain(format_args!(
                "{missing} of {} layers are not in containerd's content store: the image runs here, but cannot \
                 be exported or pushed",
                base.layers.len() + 1
            ));
        }
        Ok(())
    }

    /// Gives the image its name: from here on it is there.
    fn name(&self, manifest: &Descriptor) -> anyhow::Result<()> {
        let target = types::Descriptor {
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.to_string(),
            size: i64::try_from(manifest.size).unwrap_or(i64::MAX),
            ..types::Descriptor::default()
        };
        let time = self.latest.map(|seconds| Timestamp { seconds, nanos: 0 });
        let name = self.image.to_owned();
        let image = Image { name, target: Some(target), ..Image::default() };
        Ok(self.containerd.name_image(self.lease.scope(), image, time)?)
    }
}
