//! The image whose layers are the parents of a snapshot, found among those that a name leads to.
//!
//! A name may lead to another image today than when the container was made, and to images for several platforms. The
//! snapshot knows: its parent is called by what all layers of its image are.

use std::collections::BTreeSet;

use crate::content::ContentStore;
use crate::error::{BudgetError, MismatchError, OciImageError};
use crate::oci::{CONFIG_LIMIT, MAX_DEPTH};
use crate::oci::{
    Config, Descriptor, Document, Index, MANIFEST_LIMIT, Manifest, Platform, is_runnable,
};
use crate::{Digest, Error, Hasher, Result};

/// Most manifests of one name that are read.
const MAX_MANIFESTS: usize = 1000;

/// An image to add a layer to.
#[derive(Debug, Clone)]
pub struct Base {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its config.
    pub config: Config,
}

impl Base {
    /// The image without layers, for this machine.
    #[must_use]
    pub fn scratch() -> (Manifest, Config) {
        let config = Config::scratch(Platform::host());
        let described = Descriptor::new(crate::oci::CONFIG, &Digest::of(b""), 0);
        (Manifest::assemble(described, Vec::new()), config)
    }
}

/// The image among those that `target` leads to whose layers together are called `chain`. Those for this machine are
/// looked at first.
///
/// # Errors
/// What is wrong with a document, and what the storage reports.
pub fn find<S: ContentStore>(
    store: &S,
    target: &Descriptor,
    chain: &Digest,
) -> Result<Option<Base>, S::Error> {
    BaseSearch { store, chain, seen: BTreeSet::new() }.document(target, 0)
}

struct BaseSearch<'a, S> {
    store: &'a S,
    chain: &'a Digest,
    seen: BTreeSet<Digest>,
}

impl<S: ContentStore> BaseSearch<'_, S> {
    fn document(&mut self, target: &Descriptor, depth: usize) -> Result<Option<Base>, S::Error> {
        if !self.seen.insert(target.digest.clone()) || self.seen.len() > MAX_MANIFESTS {
            return Ok(None);
        }
        let Some(bytes) = self.read(target, MANIFEST_LIMIT)? else { return Ok(None) };
        let what = format!("manifest {}", target.digest);
        match Document::parse(&what, Some(&target.media_type), &bytes)? {
            Document::Manifest(manifest) => self.image(target, *manifest),
            Document::Index(index) => self.index(&index, depth + 1),
        }
    }

    fn index(&mut self, index: &Index, depth: usize) -> Result<Option<Base>, S::Error> {
        if depth > MAX_DEPTH {
            let reason = format!("indexes are nested more than {MAX_DEPTH} deep");
            return Err(Error::Image(OciImageError::BadDocument {
                what: "index".to_owned(),
                reason,
            })
            .into());
        }
        let host = Platform::host();
        let is_ours =
            |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|p| p.answers(&host));
        let mut entries: Vec<_> =
            index.manifests.iter().filter(|entry| is_runnable(entry)).collect();
        entries.sort_by_key(|entry| !is_ours(entry));
        for entry in entries {
            if let Some(found) = self.document(entry, depth)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn image(&self, target: &Descriptor, manifest: Manifest) -> Result<Option<Base>, S::Error> {
        if !manifest.is_image() {
            return Ok(None);
        }
        let Some(bytes) = self.read(&manifest.config, CONFIG_LIMIT)? else { return Ok(None) };
        let what = format!("config {}", manifest.config.digest);
        let config = Config::parse(&what, &bytes, manifest.layers.len())?;
        if config.chain_id().as_ref() != Some(self.chain) {
            return Ok(None);
        }
        Ok(Some(Base { digest: target.digest.clone(), manifest, config }))
    }

    /// The bytes of a document, verified.
    fn read(&self, described: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>, S::Error> {
        let (digest, size) = (&described.digest, described.size);
        if size > limit {
            let digest = digest.clone();
            return Err(Error::Budget(BudgetError::Document { digest, size, limit }).into());
        }
        let Some(bytes) = self.store.document(described, limit)? else { return Ok(None) };
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual != *digest {
            let expected = digest.clone();
            return Err(Error::Mismatch(MismatchError::BlobDigest { expected, actual }).into());
        }
        Ok(Some(bytes))
    }
}
