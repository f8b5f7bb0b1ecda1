//! An image and one layer on top of it become another image: its config, its manifest, and nothing else.
//!
//! Everything here is a function of documents. The same documents, layer and [`CommitNote`] give the same bytes.

mod base;
mod change;
pub mod layout;
#[cfg(test)]
mod tests;
mod words;

use serde_json::{Map, Value, json};

pub use self::base::{Base, find};
pub use self::change::Change;

use crate::content::{ContentStore, Reference};
use crate::convert::{SOURCE_DIGEST, UNCOMPRESSED};
use crate::decode::Cancel;
use crate::error::OciImageError;
use crate::media::oci_layer_type;
use crate::oci::{CONFIG, Config, Descriptor, MANIFEST, Manifest};
use crate::{Compression, Digest, Error, LayerType, Result};

/// The annotation with the name of the image below (image-spec, annotations.md).
pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// The annotation with the digest of the image below.
pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
/// The annotation that says when an image was made.
const CREATED: &str = "org.opencontainers.image.created";

/// A layer for the top of an image.
#[derive(Debug, Clone)]
pub struct CommittedLayer {
    /// How the manifest lists it.
    pub descriptor: Descriptor,
    /// Digest of what its blob decompresses to.
    pub diff_id: Digest,
}

impl CommittedLayer {
    /// A layer of the type that its descriptor says. A compressed EROFS image is listed with the digest of the image.
    ///
    /// # Errors
    /// [`crate::error::LayerError::UnsupportedMediaType`].
    pub fn new(descriptor: Descriptor, diff_id: Digest) -> Result<Self> {
        let layer_type = LayerType::parse(&descriptor.media_type)?;
        let descriptor = match layer_type {
            LayerType::Erofs { compression: Compression::Zstd } => {
                descriptor.with_annotation(UNCOMPRESSED, &diff_id.to_string())
            }
            _ => descriptor,
        };
        Ok(Self { descriptor, diff_id })
    }

    fn is_erofs(&self) -> bool {
        matches!(LayerType::parse(&self.descriptor.media_type), Ok(LayerType::Erofs { .. }))
    }
}

/// What the history of an image says of its topmost layer.
#[derive(Debug, Clone, Default)]
pub struct CommitNote {
    /// When it was made, in the form of RFC 3339.
    pub created: String,
    /// The command that made it; empty when it is not known.
    pub created_by: String,
    /// The author of the layer and of the image; without one, the author of the image below stays.
    pub author: Option<String>,
    /// What else is to be said of it.
    pub comment: String,
}

/// The image below, as the new one names it.
#[derive(Debug, Clone)]
pub struct CommitOrigin {
    /// Its full name, with the registry.
    pub name: Option<String>,
    /// The digest of what that name leads to; without a name, that of the manifest.
    pub digest: Digest,
}

impl CommitOrigin {
    /// The image whose manifest is `manifest`, found under `name`, which leads to `target`. The specification wants names
    /// that need no assumed registry, so others are not kept.
    #[must_use]
    pub fn new(name: Option<&str>, target: &Digest, manifest: &Digest) -> Self {
        match name.filter(|name| is_full(name)) {
            Some(name) => Self { name: Some(name.to_owned()), digest: target.clone() },
            None => Self { name: None, digest: manifest.clone() },
        }
    }
}

/// Whether the name of an image begins with a registry (github.com/distribution/reference).
fn is_full(name: &str) -> bool {
    let host = name.split_once('/').map(|(host, _)| host);
    host.is_some_and(|host| host == "localhost" || host.contains(['.', ':']))
}

/// An image that a layer is added to.
#[derive(Debug, Clone, Copy)]
pub struct BaseImage<'a> {
    /// Its manifest.
    pub manifest: &'a Manifest,
    /// Its config.
    pub config: &'a Config,
    /// How the new image names it; `None` when the layer is the first one.
    pub origin: Option<&'a CommitOrigin>,
}

/// What is added to an image besides the layer.
#[derive(Debug)]
pub struct Addition<'a> {
    /// What else changes.
    pub changes: &'a [Change],
    /// What the history says.
    pub note: &'a CommitNote,
    /// Cancels the work.
    pub cancel: &'a Cancel,
}

/// The documents of an image that was made, which has no name yet.
#[derive(Debug, Clone)]
pub struct CommittedImage {
    /// The manifest, as an index lists it.
    pub manifest: Descriptor,
    /// Digest of the config.
    pub config: Digest,
    /// The layer that was added.
    pub layer: CommittedLayer,
}

/// Stores config and manifest of an image made of `base` and of the layer that `layer` stores. Each is durable when it is named:
/// the layer, then the config, then the manifest.
///
/// # Errors
/// [`Error::BadChange`], before the layer is made; what `layer` reports; what is wrong with the base; what the storage reports.
pub fn add_layer<S: ContentStore>(
    store: &S,
    base: BaseImage<'_>,
    addition: &Addition<'_>,
    layer: impl FnOnce() -> Result<CommittedLayer, S::Error>,
) -> Result<CommittedImage, S::Error> {
    let Addition { changes, note, cancel } = addition;
    let below = Change::apply_all(changes, base.config)?;
    let layer = layer()?;
    cancel.check()?;
    let config = config(&below, &layer, note)?;
    let chain = config.chain_id();
    let unpacked: Vec<_> = chain.iter().map(Reference::Snapshot).collect();
    let described = put(store, CONFIG, &config.to_bytes(), &unpacked)?;
    let manifest = manifest(base.manifest, described, &layer, note, base.origin);
    let layers = manifest.layers.iter().map(|layer| Reference::Layer(&layer.digest));
    let names: Vec<_> = layers.chain([Reference::Config(&manifest.config.digest)]).collect();
    let entry = put(store, MANIFEST, &manifest.to_bytes(), &names)?;
    let config_digest = manifest.config.digest.clone();
    let entry = entry.with_platform(config.platform.clone());
    cancel.check()?;
    Ok(CommittedImage { manifest: entry, config: config_digest, layer })
}

fn put<S: ContentStore>(
    store: &S,
    media_type: &str,
    bytes: &[u8],
    names: &[Reference<'_>],
) -> Result<Descriptor, S::Error> {
    let digest = store.put_document(bytes, names)?;
    Ok(Descriptor::new(media_type, &digest, bytes.len() as u64))
}

/// The config of an image that was made of the one with the config `base` by adding `layer`.
///
/// # Errors
/// [`crate::error::OciImageError::BadDocument`] for a base whose history is no list.
pub fn config(base: &Config, layer: &CommittedLayer, note: &CommitNote) -> Result<Config> {
    let mut json = base.json().clone();
    json.insert("created".to_owned(), json!(note.created));
    if let Some(author) = &note.author {
        json.insert("author".to_owned(), json!(author));
    }
    let history = history(&json, base.diff_ids.len(), note)?;
    json.insert("history".to_owned(), Value::Array(history));
    let diff_ids = base.diff_ids.iter().chain([&layer.diff_id]).cloned().collect();
    let config = base.with_json(json).with_diff_ids(diff_ids);
    Ok(if layer.is_erofs() { config.with_erofs() } else { config })
}

/// The history with one entry more. Readers count the entries of layers and compare (image-spec, config.md, "history"), so
/// layers without a description get an empty entry.
fn history(json: &Map<String, Value>, layers: usize, note: &CommitNote) -> Result<Vec<Value>> {
    let mut history = match json.get("history") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(history)) => history.clone(),
        Some(_) => {
            let (what, reason) = ("config".to_owned(), "its history is no list".to_owned());
            return Err(Error::Image(OciImageError::BadDocument { what, reason }));
        }
    };
    let is_layer = |entry: &&Value| entry.get("empty_layer") != Some(&Value::Bool(true));
    let described = history.iter().filter(is_layer).count();
    history.extend((described..layers).map(|_| json!({})));
    let mut entry = Map::new();
    entry.insert("created".to_owned(), json!(note.created));
    let author = note.author.as_deref().unwrap_or_default();
    let texts =
        [("created_by", note.created_by.as_str()), ("author", author), ("comment", &note.comment)];
    for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        entry.insert(key.to_owned(), json!(text));
    }
    history.push(Value::Object(entry));
    Ok(history)
}

/// The manifest of an image that was made of the one with the manifest `base` by adding `layer`; `config` describes its
/// config. It is an OCI manifest, so Docker's layers are listed under OCI's names of their types.
#[must_use]
pub fn manifest(
    base: &Manifest,
    config: Descriptor,
    layer: &CommittedLayer,
    note: &CommitNote,
    origin: Option<&CommitOrigin>,
) -> Manifest {
    let layers = base.layers.iter().map(|layer| layer.clone().with_media_type(oci_layer_type));
    let layers = layers.chain([layer.descriptor.clone()]).collect();
    // What the base says of itself, and is not true of this one.
    let mut manifest = base.rewritten(config, layers).without_subject();
    for key in [SOURCE_DIGEST, BASE_NAME, BASE_DIGEST] {
        manifest = manifest.without_annotation(key);
    }
    if manifest.annotation(CREATED).is_some() {
        manifest = manifest.with_annotation(CREATED, &note.created);
    }
    let Some(origin) = origin else { return manifest };
    if let Some(name) = &origin.name {
        manifest = manifest.with_annotation(BASE_NAME, name);
    }
    manifest.with_annotation(BASE_DIGEST, &origin.digest.to_string())
}
