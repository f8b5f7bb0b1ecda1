//! One image as it was found: its verified documents, and where its layers are.

use super::Platform;
use super::document::{Config, Descriptor, Manifest};
use crate::content::Blob;
use crate::{Digest, LayerType};

/// One image.
#[derive(Debug)]
pub struct OciImage {
    /// Digest of the manifest; of the config when there is no manifest.
    pub source_digest: Digest,
    /// How the index lists it.
    pub entry: Option<Descriptor>,
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest as it was stored; `docker save` stores none.
    pub manifest_bytes: Option<Vec<u8>>,
    /// The config.
    pub config: Config,
    /// The config as it was stored.
    pub config_bytes: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
}

/// One layer.
#[derive(Debug)]
pub struct ImageLayer {
    /// Where it is.
    pub place: LayerPosition,
    /// What the media type says it is.
    pub layer_type: LayerType,
    /// What it must expand to.
    pub diff_id: Digest,
}

/// Where the bytes of a layer are.
#[derive(Debug)]
pub enum LayerPosition {
    /// Stored under its digest, as the manifest lists it.
    Listed(Box<Descriptor>),
    /// Stored under some other name, by `docker save`.
    Member(Blob),
}

impl OciImage {
    /// What it runs on: what the index says of it, or else its config.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        let listed = self.entry.as_ref().and_then(|entry| entry.platform.as_ref());
        listed.unwrap_or(&self.config.platform)
    }
}

impl ImageLayer {
    /// How the manifest lists it, if it does.
    #[must_use]
    pub fn descriptor(&self) -> Option<&Descriptor> {
        match &self.place {
            LayerPosition::Listed(descriptor) => Some(descriptor),
            LayerPosition::Member(_) => None,
        }
    }

    /// Bytes of its blob.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.place {
            LayerPosition::Listed(descriptor) => descriptor.size,
            LayerPosition::Member(blob) => blob.len(),
        }
    }
}
