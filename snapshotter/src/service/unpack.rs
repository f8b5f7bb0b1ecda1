//! Snapshots that containerd unpacks layers into: what their labels say, and which layers are below one that is unpacked
//! beside them.
//!
//! containerd's unpacker (core/unpack) names the chain that a layer ends, from 2.3 on its diffID and the chain below it.
//! It copies the annotations `containerd.io/snapshot/*` of a layer into the labels, so some of them come
//! from the author of the image.
//!
//! With the capability `rebase` it prepares every layer without a parent, applies them side by side, and gives the parent
//! with the commit. A layer then finds those below by the chain, wherever they are in their own Apply.

use std::borrow::Cow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Snapshotter;
use crate::api_mounts::Mount;
use crate::layerdir::{self, IMAGE};
use crate::lowers::IdMaps;
use crate::mounts::plan::MAX_LAYERS;
use crate::store::{FoundSnapshot, Kind, Labels};
use crate::{Error, MountError, Result};

use super::labels::{DIFF_ID_LABEL, PARENT_CHAIN_LABEL, REF_LABEL, SIZE_LABEL, is_unpack};

/// What decides whether a snapshot may have its layer from the beginning ("staged"), so that containerd neither fetches
/// nor applies it.
pub trait Staging {
    /// Whether the caller takes a snapshot with read-only mounts for one that has its layer: containerd 2.4 and later.
    fn is_known(&self) -> bool;

    /// Whether the caller's namespace has the blob with the digest `blob` and knows it as the layer `diff_id`.
    fn has_blob(&self, blob: &str, diff_id: &str) -> bool;
}

/// The layers below a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParentChain {
    /// All are there: their images, the nearest first.
    Complete(Vec<PathBuf>),
    /// The layer that ends this chain has no image yet.
    Missing {
        /// The chain.
        chain: String,
        /// The active snapshots that it is unpacked into, the newest first.
        active: Vec<FoundSnapshot>,
    },
}

/// The namespace in a key: containerd calls snapshots `<namespace>/<number>/<name>` (`createKey` in
/// core/metadata/snapshot.go). Empty for the key of a caller that is not containerd.
#[must_use]
pub fn namespace_of(key: &str) -> &str {
    let mut parts = key.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(namespace), Some(number), Some(_)) if number.parse::<u64>().is_ok() => namespace,
        _ => "",
    }
}

/// The labels that count. Of a snapshot that a layer is unpacked into, annotations of the image must neither choose owners
/// nor cost a filesystem for each layer.
pub(super) fn obeyed(labels: &Labels) -> Cow<'_, Labels> {
    let is_wish = |label: &str| label == SIZE_LABEL || IdMaps::LABELS.contains(&label);
    if !is_unpack(labels) || !labels.keys().any(|label| is_wish(label)) {
        return Cow::Borrowed(labels);
    }
    let mut obeyed = labels.clone();
    obeyed.retain(|label, _| !is_wish(label));
    Cow::Owned(obeyed)
}

/// The chain below a snapshot without a parent that a layer is unpacked into. The lowest layer of an image ends a chain
/// that is its diffID: there the label can only be an annotation.
pub(super) fn chain_below(labels: &Labels) -> Option<&str> {
    let chain = labels.get(REF_LABEL)?;
    let below = labels.get(PARENT_CHAIN_LABEL)?;
    let is_lowest = labels.get(DIFF_ID_LABEL) == Some(chain) || below == chain;
    (!is_lowest).then_some(below.as_str())
}

impl Snapshotter {
    /// The snapshot that a differ shall write the layer of these mounts to, if it is one of ours.
    #[must_use]
    pub fn unpacked_into(&self, mounts: &[Mount]) -> Option<u64> {
        let dir = layerdir::of_mounts(mounts)?;
        layerdir::snapshot_id(dir.strip_prefix(&self.snapshots).ok()?.to_str()?)
    }

    /// The active snapshot that these mounts are of, if a layer is unpacked into it beside those below it.
    ///
    /// # Errors
    /// What the database gives.
    pub fn unpacked_beside(&self, mounts: &[Mount]) -> Result<Option<u64>> {
        let Some(id) = self.unpacked_into(mounts) else { return Ok(None) };
        let Some(entry) = self.store.entry(id)? else { return Ok(None) };
        let is_beside = entry.kind == Kind::Active
            && entry.parent.is_none()
            && chain_below(&entry.labels).is_some();
        Ok(is_beside.then_some(id))
    }

    /// The layers below the active snapshot `id`, as far as they are there now.
    ///
    /// # Errors
    /// [`crate::IntegrityError::Damaged`] for a layer that cannot be used, [`MountError::TooManyLayers`], and what the
    /// database gives.
    pub fn layers_below(&self, id: u64) -> Result<ParentChain> {
        let Some(entry) = self.store.entry(id)? else {
            return Ok(ParentChain::Complete(Vec::new()));
        };
        let namespace = namespace_of(&entry.key);
        let mut next = chain_below(&entry.labels).map(str::to_owned);
        let mut ids = Vec::new();
        while let Some(chain) = next {
            if ids.len() > MAX_LAYERS {
                return Err(Error::Mount(MountError::TooManyLayers {
                    count: ids.len(),
                    limit: MAX_LAYERS,
                }));
            }
            let found = self.ends_of(&chain, namespace)?;
            let (key, nearest) = match self.whole(&found)? {
                Some(whole) => (whole.key.clone(), whole.id),
                None => return Ok(ParentChain::Missing { chain, active: found }),
            };
            let snapshot = self.store.snapshot(&key)?;
            ids.push(nearest);
            let is_beside = snapshot.kind == Kind::Active && snapshot.parents.is_empty();
            next = chain_below(&snapshot.labels).filter(|_| is_beside).map(str::to_owned);
            ids.extend(snapshot.parents);
        }
        self.require_undamaged(&ids)?;
        Ok(ParentChain::Complete(ids.into_iter().map(|id| self.dir(id).join(IMAGE)).collect()))
    }

    /// The snapshots of the namespace that end this chain, the newest first, and views never. A committed one whose caller
    /// gave no label is known by its name.
    fn ends_of(&self, chain: &str, namespace: &str) -> Result<Vec<FoundSnapshot>> {
        let mut found = self.store.with_ref(chain)?;
        found.retain(|end| end.kind != Kind::View && namespace_of(&end.key) == namespace);
        if found.is_empty()
            && let Ok(snapshot) = self.store.snapshot(chain)
            && snapshot.kind == Kind::Committed
        {
            found.push(FoundSnapshot {
                id: snapshot.id,
                key: chain.to_owned(),
                kind: snapshot.kind,
            });
        }
        Ok(found)
    }

    /// One of them that is a layer, or has the image of one.
    fn whole<'f>(&self, found: &'f [FoundSnapshot]) -> Result<Option<&'f FoundSnapshot>> {
        if let Some(layer) = found.iter().find(|end| end.kind == Kind::Committed) {
            return Ok(Some(layer));
        }
        for end in found {
            if layerdir::is_applied(&self.dir(end.id))? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Whether the namespace of `key` may have the layer `diff_id`, whose image is `kept`, without bringing its blob.
    ///
    /// It has committed that very file as a layer, or its content store has the blob that the image was made from and
    /// knows it as that layer. The diffID alone proves nothing: it is in the configuration of every image that has the
    /// layer, and a worker's word (see `docs/isolation.md`).
    pub(super) fn may_have(
        &self,
        key: &str,
        diff_id: &str,
        kept: &Path,
        staging: &dyn Staging,
    ) -> Result<bool> {
        let namespace = namespace_of(key);
        for layer in self.store.with_diff_id(diff_id)? {
            let is_theirs = layer.kind == Kind::Committed && namespace_of(&layer.key) == namespace;
            if is_theirs && is_same_file(&self.dir(layer.id).join(IMAGE), kept) {
                return Ok(true);
            }
        }
        Ok(layerdir::blob_of(kept).is_some_and(|blob| staging.has_blob(&blob, diff_id)))
    }
}

/// Whether both names are of one inode. A link into a cache is a file of its own.
fn is_same_file(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    identity(a).is_some_and(|a| identity(b) == Some(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn namespaces_are_those_of_containerds_keys() {
        for (key, want) in [
            ("k8s.io/12/sha256:ab", "k8s.io"),
            ("k8s.io/12/extract-1 sha256:ab/c", "k8s.io"),
            ("default/x/sha256:ab", ""),
            ("default/12", ""),
            ("sha256:ab", ""),
            ("", ""),
        ] {
            assert_eq!(namespace_of(key), want, "{key}");
        }
    }

    #[test]
    fn annotations_neither_map_owners_nor_limit_layers() {
        let wishes = [
            (SIZE_LABEL, "16777216"),
            (IdMaps::LABELS[0], "0:100000:65536"),
            (IdMaps::LABELS[1], "junk"),
            ("containerd.io/snapshot/other", "stays"),
        ];
        let container = labels(&wishes);
        assert_eq!(*obeyed(&container), container);
        let unpacked = labels(&[&wishes[..], &[(REF_LABEL, "c")]].concat());
        let want = labels(&[("containerd.io/snapshot/other", "stays"), (REF_LABEL, "c")]);
        assert_eq!(*obeyed(&unpacked), want);
    }

    #[test]
    fn the_lowest_layer_has_no_chain_below() {
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
        let table: [Row<'_>; 6] = [
            (&[(REF_LABEL, "c2"), (PARENT_CHAIN_LABEL, "c1"), (DIFF_ID_LABEL, "d2")], Some("c1")),
            (&[(REF_LABEL, "c2"), (PARENT_CHAIN_LABEL, "c1")], Some("c1")),
            (&[(REF_LABEL, "d1"), (PARENT_CHAIN_LABEL, "c1"), (DIFF_ID_LABEL, "d1")], None),
            (&[(REF_LABEL, "c2"), (PARENT_CHAIN_LABEL, "c2")], None),
            (&[(PARENT_CHAIN_LABEL, "c1"), (DIFF_ID_LABEL, "d2")], None),
            (&[(REF_LABEL, "c2"), (DIFF_ID_LABEL, "d2")], None),
        ];
        for (pairs, want) in table {
            assert_eq!(chain_below(&labels(pairs)), want, "{pairs:?}");
        }
    }
}
