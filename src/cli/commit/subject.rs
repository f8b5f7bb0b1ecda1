//! What is committed: a container or a snapshot, and the image below it.

use anyhow::Context as _;
use erolith_differ::Digest;
use erolith_differ::commit::{self, Base, CommitOrigin};
use erolith_differ::oci::{Config, Descriptor, Manifest};

use crate::containerd::snapshots::Snapshots;
use crate::containerd::store::NodeStore;
use crate::containerd::{Containerd, Scope};
use crate::exit::BadInput;
use crate::proto::containers::Container;
use crate::proto::images::Image;
use crate::proto::snapshots::{Info, Kind};
use crate::proto::types;
use crate::serve::registration::SNAPSHOTTER;

/// The container, if it is one, and its snapshot.
pub(super) struct Subject {
    pub(super) container: Option<Container>,
    pub(super) snapshots: Snapshots,
    pub(super) snapshot: Info,
}

/// The image below the new layer.
pub(super) struct CommitBase {
    pub(super) manifest: Manifest,
    pub(super) config: Config,
    /// Nothing when the layer is the first one.
    pub(super) image: Option<Named>,
}

/// The name and the manifest of an image.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) origin: CommitOrigin,
}

impl Subject {
    /// Finds the container called `name`, or the snapshot.
    ///
    /// # Errors
    /// When there is none, or more than one, or when nothing can have changed in it.
    pub(super) fn find(
        containerd: &Containerd,
        scope: &Scope,
        name: &str,
        snapshotter: Option<&str>,
    ) -> anyhow::Result<Self> {
        let container = find_container(containerd, scope, name)?;
        let own = container.as_ref().map(snapshot_of).transpose()?;
        let (own, key) = own.unwrap_or((SNAPSHOTTER, name));
        let snapshotter = snapshotter.unwrap_or(own);
        let snapshots = containerd.snapshots(snapshotter);
        let Some(snapshot) = snapshots.stat(scope, key)? else {
            return Err(BadInput(match &container {
                Some(_) => format!(
                    "container {name:?} has no snapshot {key:?} in snapshotter {snapshotter:?}; \
                     --snapshotter names another one"
                ),
                None => format!(
                    "there is neither a container nor a snapshot of snapshotter {snapshotter:?} called \
                     {name:?} in namespace {:?}; `ctr containers ls` lists containers, --namespace and \
                     --snapshotter name others",
                    scope.namespace()
                ),
            })
            .into());
        };
        if snapshot.kind() == Kind::View {
            let text = format!("snapshot {key:?} is a view, in which nothing can have changed");
            return Err(BadInput(text).into());
        }
        Ok(Self { container, snapshots, snapshot })
    }

    /// What the container was told to run, as one line.
    pub(super) fn command(&self) -> String {
        let spec = self.container.as_ref().and_then(|container| container.spec.as_ref());
        spec.map(|spec| command(&spec.value)).unwrap_or_default()
    }

    /// The image whose chain the snapshot has for its parent.
    ///
    /// # Errors
    /// When no image has exactly the layers below the snapshot.
    pub(super) fn below(&self, store: &NodeStore<'_>) -> anyhow::Result<CommitBase> {
        let parent = &self.snapshot.parent;
        if parent.is_empty() {
            let (manifest, config) = Base::scratch();
            return Ok(CommitBase { manifest, config, image: None });
        }
        let image = self.container.as_ref().map(|container| container.image.as_str());
        let image = image.filter(|name| !name.is_empty());
        let found = parent.parse().ok().map(|chain| search(store, image, &chain));
        found.transpose()?.flatten().ok_or_else(|| {
            let was = image.map(|name| format!(", nor has {name:?}, of which the container was made"));
            let was = was.unwrap_or_default();
            let text = format!(
                "no image in namespace {:?} has the layers on which snapshot {:?} stands ({parent}){was}; \
                 get the image again that it was made of, under any name",
                store.scope().namespace(),
                self.snapshot.name
            );
            BadInput(text).into()
        })
    }
}

/// By its ID, by its name in nerdctl, or by the start of its ID.
fn find_container(
    containerd: &Containerd,
    scope: &Scope,
    name: &str,
) -> anyhow::Result<Option<Container>> {
    if let Some(container) = containerd.container(scope, name)? {
        return Ok(Some(container));
    }
    let filters = filters(name);
    if filters.is_empty() {
        return Ok(None);
    }
    let mut found = containerd.matching_containers(scope, filters)?;
    if found.len() > 1 {
        let ids: Vec<_> = found.iter().map(|container| container.id.as_str()).collect();
        let text = format!("{name:?} could be any of these containers: {}", ids.join(", "));
        return Err(BadInput(text).into());
    }
    Ok(found.pop())
}

/// The snapshotter of a container, and its snapshot there.
///
/// # Errors
/// When containerd was told of none.
fn snapshot_of(container: &Container) -> Result<(&str, &str), BadInput> {
    if container.snapshot_key.is_empty() {
        return Err(BadInput(format!(
            "container {:?} names no snapshot: what runs it mounts its files itself, as Docker does; \
             `docker commit` makes images of Docker's containers",
            container.id
        )));
    }
    Ok((&container.snapshotter, &container.snapshot_key))
}

/// What finds a container that is not called `name` but known by it.
fn filters(name: &str) -> Vec<String> {
    let mut filters = Vec::new();
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
        filters.push(format!("labels.\"nerdctl/name\"==\"{name}\""));
    }
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        filters.push(format!("id~=\"^{name}\""));
    }
    filters
}

/// The arguments of the process in the configuration of an OCI runtime.
fn command(spec: &[u8]) -> String {
    let spec: serde_json::Value = serde_json::from_slice(spec).unwrap_or_default();
    let args = spec.pointer("/process/args").and_then(serde_json::Value::as_array);
    let args = args.into_iter().flatten().filter_map(serde_json::Value::as_str);
    args.collect::<Vec<_>>().join(" ")
}

/// The image whose layers are called `chain`: the one that is thought to be it, or the first that is.
fn search(
    store: &NodeStore<'_>,
    likely: Option<&str>,
    chain: &Digest,
) -> anyhow::Result<Option<CommitBase>> {
    let NodeStore { containerd, .. } = store;
    if let Some(image) = likely.map(|name| containerd.image(store.scope(), name)).transpose()?
        && let Some(image) = image
        && let Some(found) = matching(store, &image, chain)?
    {
        return Ok(Some(found));
    }
    let mut images = containerd.all_images(store.scope())?;
    images.sort_by(|a, b| a.name.cmp(&b.name));
    for image in images {
        // Damage of another image is no reason to fail.
        if let Ok(Some(found)) = matching(store, &image, chain) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn matching(
    store: &NodeStore<'_>,
    image: &Image,
    chain: &Digest,
) -> anyhow::Result<Option<CommitBase>> {
    let context = || format!("image {:?}", image.name);
    let Some(target) = &image.target else { return Ok(None) };
    let target = descriptor(target).with_context(context)?;
    let found = commit::find(store, &target, chain).with_context(context)?;
    Ok(found.map(|Base { digest, manifest, config }| {
        let origin = CommitOrigin::new(Some(&image.name), &target.digest, &digest);
        let image = Some(Named { name: image.name.clone(), digest, origin });
        CommitBase { manifest, config, image }
    }))
}

/// A descriptor of containerd's as OCI has it.
///
/// # Errors
/// When its digest or size is none.
pub(super) fn descriptor(from: &types::Descriptor) -> anyhow::Result<Descriptor> {
    let digest: Digest = from.digest.parse()?;
    let size = u64::try_from(from.size).context("its size is negative")?;
    let descriptor = Descriptor::new(&from.media_type, &digest, size);
    let annotate =
        |to: Descriptor, (key, value): (&String, &String)| to.with_annotation(key, value);
    Ok(from.annotations.iter().fold(descriptor, annotate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_made_of_harmless_names_only() {
        let name = |name: &str| format!("labels.\"nerdctl/name\"==\"{name}\"");
        assert_eq!(filters("web-1"), [name("web-1")]);
        assert_eq!(filters("abc"), [name("abc"), "id~=\"^abc\"".to_owned()]);
        for text in ["a\"b", "a b", "a/b", "a,b"] {
            assert_eq!(filters(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn containers_without_a_snapshot_are_those_of_another() {
        let named = |snapshotter: &str, snapshot_key: &str| Container {
            id: "one".into(),
            snapshotter: snapshotter.into(),
            snapshot_key: snapshot_key.into(),
            ..Container::default()
        };
        assert_eq!(snapshot_of(&named("erolith", "key")).unwrap(), ("erolith", "key"));
        let error = snapshot_of(&named("", "")).unwrap_err().to_string();
        for word in ["container \"one\"", "`docker commit`"] {
            assert!(error.contains(word), "no {word} in {error}");
        }
    }

    #[test]
    fn the_command_is_that_of_the_process() {
        let spec = br#"{"process":{"args":["sh","-c","echo  x"]}}"#;
        assert_eq!(command(spec), "sh -c echo  x");
        for other in [&b"{}"[..], b"", b"\0", br#"{"process":{"args":null}}"#] {
            assert_eq!(command(other), "");
        }
    }
}
