//! Which blobs of containerd's content store may be a damaged layer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use erolith_differ::apply::layer::LayerSpec;
use erolith_differ::{BlobKind, Digest, EROFS_LAYER};
use erolith_snapshotter::service::Broken;
use erolith_snapshotter::store::{Origin, OriginBlob};

use super::unhealed::Unhealed;
use crate::containerd::{Containerd, Scope};
use crate::proto::types::Descriptor;
use crate::serve::diff::layer_spec::layer_of;
use crate::serve::error::{Error, Result};

/// A name of containerd's metadata store (core/metadata/snapshot.go, `createKey`): namespace and chain.
pub(super) fn parts(name: &str) -> Option<(&str, &str)> {
    let (namespace, rest) = name.split_once('/')?;
    let (_number, chain) = rest.split_once('/')?;
    (!namespace.is_empty() && !chain.is_empty()).then_some((namespace, chain))
}

/// The chain of the layer `diff_id` on `parent` (image-spec, config.md, "Layer ChainID").
pub(super) fn chain(parent: Option<&str>, diff_id: &str) -> String {
    match parent {
        None => diff_id.to_owned(),
        Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()).to_string(),
    }
}

/// The diffID that the path of an image in a cache says: `<algorithm>/<xx>/<hex>.erofs`.
pub(super) fn diff_id_of_path(path: &Path) -> Option<Digest> {
    let hex = path.file_name()?.to_str()?.strip_suffix(".erofs")?;
    let algorithm = path.parent()?.parent()?.file_name()?.to_str()?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// The media types that a blob may have which begins with `head`, the likeliest first.
pub(super) fn media_types(head: &[u8]) -> &'static [&'static str] {
    const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    const EROFS_ZSTD: &str = "application/vnd.erofs.layer.v1+zstd";
    match BlobKind::of(head) {
        BlobKind::Gzip => &[GZIP],
        BlobKind::Zstd => &[ZSTD, EROFS_ZSTD],
        BlobKind::Erofs => &[EROFS_LAYER],
        _ => &[TAR],
    }
}

/// A blob that may be the layer, with its diffID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) blob: OriginBlob,
    diff_id: Digest,
}

impl Candidate {
    pub(super) fn layer(&self) -> Result<LayerSpec> {
        let OriginBlob { digest, media_type, size, annotations } = self.blob.clone();
        let bad_size = |_| Error::Request(format!("blob {digest}: a size of {size} bytes"));
        let size = i64::try_from(size).map_err(bad_size)?;
        let descriptor = Descriptor { media_type, digest, size, annotations };
        let layer = layer_of(descriptor, BTreeMap::new())?;
        Ok(LayerSpec { diff_id: Some(self.diff_id.clone()), ..layer })
    }
}

/// Where blobs are looked for.
pub(super) struct Search<'a> {
    pub(super) containerd: &'a Containerd,
    pub(super) scope: &'a Scope,
    pub(super) broken: &'a Broken,
}

impl Search<'_> {
    /// The blobs that may be the layer: the recorded one before those that a label names.
    pub(super) fn candidates(&self) -> Result<Vec<Candidate>, Unhealed> {
        let mut found = Vec::new();
        if let Some(Origin { diff_id, blob: Some(blob), .. }) = &self.broken.origin {
            let digest = blob.digest.parse::<Digest>().map_err(Error::from)?;
            if self.containerd.info(self.scope, &digest)?.is_some() {
                let diff_id = diff_id.parse::<Digest>().map_err(Error::from)?;
                found.push(Candidate { blob: blob.clone(), diff_id });
            }
        }
        if found.is_empty() {
            for (digest, diff_id) in self.labelled()? {
                found.extend(self.described(&digest, &diff_id)?);
            }
        }
        Ok(found)
    }

    /// Blobs whose labels say that they are the layer, and the diffID itself, by which a blob that is not compressed is
    /// called.
    fn labelled(&self) -> Result<BTreeSet<(Digest, Digest)>, Unhealed> {
        let recorded = self.broken.origin.as_ref().and_then(|origin| origin.diff_id.parse().ok());
        let cached = || self.broken.cached.as_deref().and_then(diff_id_of_path);
        let known: Option<Digest> = recorded.or_else(cached);
        let is_layer = |diff_id: &Digest| match (&known, parts(&self.broken.name)) {
            (Some(known), _) => known == diff_id,
            (None, Some((_, name))) => {
                let parent = self.broken.parent.as_deref().map(|name| parts(name).map(|at| at.1));
                match parent {
                    Some(None) => false,
                    parent => chain(parent.flatten(), &diff_id.to_string()) == name,
                }
            }
            (None, None) => false,
        };
        let blobs = self.containerd.uncompressed(self.scope, known.as_ref())?;
        let mut found: BTreeSet<_> =
            blobs.into_iter().filter(|(_, diff_id)| is_layer(diff_id)).collect();
        // Without a label: the lowest layer is called by its diffID.
        let lowest = || match (&self.broken.parent, parts(&self.broken.name)) {
            (None, Some((_, name))) => name.parse().ok(),
            _ => None,
        };
        found.extend(
            known.clone().or_else(lowest).map(|diff_id: Digest| (diff_id.clone(), diff_id)),
        );
        Ok(found)
    }

    /// The blob, if it is there, once for each media type that it may have.
    fn described(&self, digest: &Digest, diff_id: &Digest) -> Result<Vec<Candidate>, Unhealed> {
        let Some(info) = self.containerd.info(self.scope, digest)? else { return Ok(Vec::new()) };
        let head = self.containerd.head(self.scope, digest, BlobKind::PREFIX as u64)?;
        let size = u64::try_from(info.size).unwrap_or_default();
        let candidate = |media_type: &&str| Candidate {
            blob: OriginBlob {
                digest: digest.to_string(),
                media_type: (*media_type).to_owned(),
                size,
                annotations: BTreeMap::new(),
            },
            diff_id: diff_id.clone(),
        };
        Ok(media_types(&head).iter().map(candidate).collect())
    }
}
