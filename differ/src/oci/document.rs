//! Manifests, indexes and configs: read strictly where a second reader might see something else, changed as little as
//! possible.
//!
//! Values are held as parsed JSON with their members in order, so that what is not understood survives a change. A
//! member that occurs twice counts as Go counts it: the last one wins.

use std::collections::BTreeSet;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::{
    CONFIG, DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, EROFS_FEATURE, INDEX, MANIFEST, Platform,
};
use crate::error::{MismatchError, OciImageError};
use crate::{Digest, Error, Hasher, Result};

/// Largest manifest or index: what registries accept.
pub(crate) const MANIFEST_LIMIT: u64 = 4 << 20;
/// Largest config.
pub(crate) const CONFIG_LIMIT: u64 = 8 << 20;

/// Whose fault a bad document is.
fn bad(what: &str, reason: impl Into<String>) -> Error {
    Error::Image(OciImageError::BadDocument { what: what.to_owned(), reason: reason.into() })
}

/// Parses an object and refuses members that Go, which ignores case, would take for one of `known`.
fn object(what: &str, bytes: &[u8], known: &[&str]) -> Result<Map<String, Value>> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| bad(what, e.to_string()))?;
    let Value::Object(map) = value else { return Err(bad(what, "it is no JSON object")) };
    for key in map.keys() {
        if let Some(twin) = known.iter().find(|k| key.eq_ignore_ascii_case(k) && key != *k) {
            return Err(bad(what, format!("{key:?} could be taken for {twin:?}")));
        }
    }
    Ok(map)
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Value::as_str)
}

/// A reference to content: media type, digest, size.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it runs on, if it says so.
    pub platform: Option<Platform>,
    json: Map<String, Value>,
}

impl Descriptor {
    /// Of content that was made here.
    #[must_use]
    pub fn new(media_type: &str, digest: &Digest, size: u64) -> Self {
        let mut json = Map::new();
        json.insert("mediaType".to_owned(), json!(media_type));
        json.insert("digest".to_owned(), json!(digest.to_string()));
        json.insert("size".to_owned(), json!(size));
        let (media_type, digest) = (media_type.to_owned(), digest.clone());
        Self { media_type, digest, size, platform: None, json }
    }

    /// `default` is the media type of a descriptor that has none.
    fn parse(what: &str, value: &Value, default: Option<&str>) -> Result<Self> {
        let Value::Object(json) = value else { return Err(bad(what, "it is no JSON object")) };
        let media_type =
            text(json, "mediaType").or(default).ok_or_else(|| bad(what, "no mediaType"))?;
        let digest: Digest = text(json, "digest").ok_or_else(|| bad(what, "no digest"))?.parse()?;
        let size = json.get("size").and_then(Value::as_u64);
        let size = size.filter(|s| i64::try_from(*s).is_ok());
        let size = size.ok_or_else(|| bad(what, "its size is no number from 0 to 2^63-1"))?;
        let platform = json.get("platform").and_then(Value::as_object).map(Platform::from_json);
        let descriptor =
            Self { media_type: media_type.to_owned(), digest, size, platform, json: json.clone() };
        descriptor.check_data(what)?;
        Ok(descriptor)
    }

    /// What a document refers to, by the members that manifests, indexes and artifact manifests have for that. Nothing
    /// for other content. A `subject` is what it is about, and no part of it.
    pub(crate) fn all_in(bytes: &[u8]) -> Vec<Self> {
        let Ok(Value::Object(json)) = serde_json::from_slice(bytes) else { return Vec::new() };
        let list = |key| json.get(key).and_then(Value::as_array).into_iter().flatten();
        let values = json
            .get("config")
            .into_iter()
            .chain(["layers", "manifests", "blobs"].map(list).into_iter().flatten());
        values.filter_map(|value| Self::parse("a reference", value, Some("")).ok()).collect()
    }

    /// Content that is embedded in the descriptor must be the content it describes.
    fn check_data(&self, what: &str) -> Result<()> {
        let Some(data) = self.json.get("data") else { return Ok(()) };
        let decode = |text| base64::engine::general_purpose::STANDARD.decode(text).ok();
        let bytes = data.as_str().and_then(decode).ok_or_else(|| bad(what, "data is no base64"))?;
        let mut hasher = Hasher::new(self.digest.algorithm());
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual != self.digest || bytes.len() as u64 != self.size {
            return Err(Error::Mismatch(MismatchError::BlobDigest {
                expected: self.digest.clone(),
                actual,
            }));
        }
        Ok(())
    }

    /// The annotation `key`.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.json.get("annotations").and_then(|a| a.get(key)).and_then(Value::as_str)
    }

    /// The kind of artifact that it leads to, if it says so.
    pub(crate) fn artifact_type(&self) -> Option<&str> {
        text(&self.json, "artifactType").filter(|kind| !kind.is_empty())
    }

    /// Whether it is called a manifest or an index. Also of the first schema, which is refused by name.
    pub(crate) fn is_document(&self) -> bool {
        let media_type = self.media_type.as_str();
        [INDEX, DOCKER_INDEX, MANIFEST, DOCKER_MANIFEST].contains(&media_type)
            || media_type.starts_with(SCHEMA_ONE)
    }

    /// With the annotation `key`.
    #[must_use]
    pub fn with_annotation(mut self, key: &str, value: &str) -> Self {
        annotate(&mut self.json, key, value);
        self
    }

    /// With the media type that `change` makes of the one it has.
    #[must_use]
    pub(crate) fn with_media_type(mut self, change: impl Fn(&str) -> String) -> Self {
        self.media_type = change(&self.media_type);
        self.json.insert("mediaType".to_owned(), json!(self.media_type));
        self
    }

    /// With all annotations of `other` that `keep` keeps.
    #[must_use]
    pub(crate) fn with_annotations_of(self, other: &Self, keep: impl Fn(&str) -> bool) -> Self {
        let theirs = other.json.get("annotations").and_then(Value::as_object);
        let theirs = theirs.into_iter().flatten().filter(|(key, _)| keep(key));
        theirs.fold(self, |this, (key, value)| {
            this.with_annotation(key, value.as_str().unwrap_or_default())
        })
    }

    /// Without the annotation `key`.
    #[must_use]
    pub(crate) fn without_annotation(mut self, key: &str) -> Self {
        remove_annotation(&mut self.json, key);
        self
    }

    /// With a platform.
    #[must_use]
    pub(crate) fn with_platform(mut self, platform: Platform) -> Self {
        self.json.insert("platform".to_owned(), platform.to_json());
        self.platform = Some(platform);
        self
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        Value::Object(self.json.clone())
    }
}

fn annotate(json: &mut Map<String, Value>, key: &str, value: &str) {
    let annotations = json.entry("annotations").or_insert_with(|| json!({}));
    if !annotations.is_object() {
        *annotations = json!({});
    }
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(key.to_owned(), json!(value));
    }
}

fn remove_annotation(json: &mut Map<String, Value>, key: &str) {
    let annotations = json.get_mut("annotations").and_then(Value::as_object_mut);
    if annotations.is_some_and(|a| a.shift_remove(key).is_some() && a.is_empty()) {
        json.shift_remove("annotations");
    }
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several images.
    Index(Index),
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    json: Map<String, Value>,
}

/// An image index.
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    /// What it lists.
    pub manifests: Vec<Descriptor>,
    json: Map<String, Value>,
}

/// What media types of Docker's first manifests begin with.
const SCHEMA_ONE: &str = "application/vnd.docker.distribution.manifest.v1";

/// What configs of images are called, and what registries made of that: Docker takes all of these
/// (`distribution/registry.go`, `imageTypes`).
pub(super) fn is_config_type(media_type: &str) -> bool {
    const FORGOTTEN: [&str; 4] = ["application/octet-stream", "application/json", "text/html", ""];
    [CONFIG, DOCKER_CONFIG].contains(&media_type) || FORGOTTEN.contains(&media_type)
}

const KNOWN: &[&str] = &[
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
];

impl Document {
    /// Parses a document that a descriptor calls `media_type`; without one (`index.json`) its members decide.
    ///
    /// # Errors
    /// [`crate::error::OciImageError::BadDocument`], naming `what`, for what is no manifest or index, or what two readers could read in two
    /// ways; [`crate::error::OciImageError::SchemaOne`].
    pub fn parse(what: &str, media_type: Option<&str>, bytes: &[u8]) -> Result<Self> {
        let json = object(what, bytes, KNOWN)?;
        let stated = match json.get("mediaType") {
            None => None,
            Some(Value::String(stated)) => Some(stated.as_str()),
            Some(_) => return Err(bad(what, "its mediaType is no text")),
        };
        if let (Some(stated), Some(described)) = (stated, media_type)
            && stated != described
        {
            return Err(bad(what, format!("it is described as {described} but says {stated}")));
        }
        let schema = json.get("schemaVersion").and_then(Value::as_u64);
        let media_type = media_type.or(stated).unwrap_or_default();
        if schema == Some(1) || media_type.starts_with(SCHEMA_ONE) {
            return Err(Error::Image(OciImageError::SchemaOne { what: what.to_owned() }));
        }
        if schema != Some(2) {
            return Err(bad(what, "its schemaVersion is not 2"));
        }
        let (layers, manifests) = (json.contains_key("layers"), json.contains_key("manifests"));
        if (layers || json.contains_key("config")) && manifests {
            return Err(bad(what, "it is a manifest and an index at once"));
        }
        match media_type {
            INDEX | DOCKER_INDEX => Index::from_json(what, json).map(Self::Index),
            MANIFEST | DOCKER_MANIFEST => {
                Manifest::from_json(what, json).map(|m| Self::Manifest(Box::new(m)))
            }
            "" if manifests => Index::from_json(what, json).map(Self::Index),
            "" => Manifest::from_json(what, json).map(|m| Self::Manifest(Box::new(m))),
            other => Err(bad(what, format!("{other} is no manifest or index"))),
        }
    }
}

/// A member that is a list of descriptors; Go writes an empty one as null.
fn descriptors(what: &str, json: &Map<String, Value>, key: &str) -> Result<Vec<Descriptor>> {
    match json.get(key) {
        Some(Value::Array(items)) => {
            let item = |(i, value)| Descriptor::parse(&format!("{what}, {key}[{i}]"), value, None);
            items.iter().enumerate().map(item).collect()
        }
        Some(Value::Null) => Ok(Vec::new()),
        _ => Err(bad(what, format!("{key} is missing or no list"))),
    }
}

impl Manifest {
    fn from_json(what: &str, json: Map<String, Value>) -> Result<Self> {
        let config = json.get("config").ok_or_else(|| bad(what, "no config"))?;
        // Some registries forgot the type of a config, which there is only one of.
        let config = Descriptor::parse(&format!("{what}, config"), config, Some(""))?;
        let layers = descriptors(what, &json, "layers")?;
        Ok(Self { config, layers, json })
    }

    /// A manifest of an image that had none: an archive of `docker save`.
    pub(crate) fn assemble(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        let mut json = Map::new();
        json.insert("schemaVersion".to_owned(), json!(2));
        Self { config: config.clone(), layers: Vec::new(), json }.rewritten(config, layers)
    }

    /// Whether it is an image that runs, and not a signature, an attestation or some other artifact.
    #[must_use]
    pub fn is_image(&self) -> bool {
        is_config_type(&self.config.media_type)
    }

    /// With another config and other layers, as an OCI manifest. All other members stay.
    #[must_use]
    pub fn rewritten(&self, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        let mut json = self.json.clone();
        json.insert("mediaType".to_owned(), json!(MANIFEST));
        json.insert("config".to_owned(), config.to_json());
        let list = layers.iter().map(Descriptor::to_json).collect();
        json.insert("layers".to_owned(), Value::Array(list));
        Self { config, layers, json }
    }

    /// With the annotation `key`.
    #[must_use]
    pub fn with_annotation(mut self, key: &str, value: &str) -> Self {
        annotate(&mut self.json, key, value);
        self
    }

    /// The annotation `key`.
    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.json.get("annotations").and_then(|a| a.get(key)).and_then(Value::as_str)
    }

    /// Without the annotation `key`.
    #[must_use]
    pub(crate) fn without_annotation(mut self, key: &str) -> Self {
        remove_annotation(&mut self.json, key);
        self
    }

    /// Without the document that it says something about (`subject`).
    #[must_use]
    pub(crate) fn without_subject(mut self) -> Self {
        self.json.shift_remove("subject");
        self
    }

    /// The bytes to store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Value::Object(self.json.clone()).to_string().into_bytes()
    }
}

impl Index {
    /// An index of these.
    #[must_use]
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        let mut json = Map::new();
        json.insert("schemaVersion".to_owned(), json!(2));
        Self { manifests: Vec::new(), json }.rewritten(manifests)
    }

    fn from_json(what: &str, json: Map<String, Value>) -> Result<Self> {
        let manifests = descriptors(what, &json, "manifests")?;
        Ok(Self { manifests, json })
    }

    /// With another list, as an OCI index. All other members stay.
    #[must_use]
    pub fn rewritten(&self, manifests: Vec<Descriptor>) -> Self {
        let mut json = self.json.clone();
        json.insert("mediaType".to_owned(), json!(INDEX));
        let list = manifests.iter().map(Descriptor::to_json).collect();
        json.insert("manifests".to_owned(), Value::Array(list));
        Self { manifests, json }
    }

    /// With the annotation `key`.
    #[must_use]
    pub fn with_annotation(mut self, key: &str, value: &str) -> Self {
        annotate(&mut self.json, key, value);
        self
    }

    /// The bytes to store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Value::Object(self.json.clone()).to_string().into_bytes()
    }
}

/// An image config.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What the image runs on.
    pub platform: Platform,
    /// Digests of the layers as they are when decompressed, lowest first.
    pub diff_ids: Vec<Digest>,
    json: Map<String, Value>,
}

const CONFIG_KNOWN: &[&str] = &["rootfs", "os", "architecture", "variant", "os.features"];

impl Config {
    /// Parses the config of an image with `layers` layers.
    ///
    /// # Errors
    /// [`crate::error::OciImageError::BadDocument`], [`crate::error::ContentError::BadDigest`], [`crate::error::OciImageError::LayerCount`].
    pub fn parse(what: &str, bytes: &[u8], layers: usize) -> Result<Self> {
        let json = object(what, bytes, CONFIG_KNOWN)?;
        let list = json.get("rootfs").and_then(Value::as_object).map(|r| r.get("diff_ids"));
        let diff_ids = match list {
            Some(Some(Value::Array(list))) => list
                .iter()
                .map(|v| v.as_str().ok_or_else(|| bad(what, "a diff_id is no text"))?.parse())
                .collect::<Result<Vec<Digest>>>()?,
            // An image from scratch without a layer.
            None | Some(None | Some(Value::Null)) => Vec::new(),
            Some(Some(_)) => return Err(bad(what, "rootfs.diff_ids is no list")),
        };
        if diff_ids.len() != layers {
            return Err(Error::Image(OciImageError::LayerCount {
                layers,
                diff_ids: diff_ids.len(),
            }));
        }
        Ok(Self { platform: Platform::from_json(&json), diff_ids, json })
    }

    /// What the image of a config runs on. Nothing else of the config is looked at.
    ///
    /// # Errors
    /// [`crate::error::OciImageError::BadDocument`].
    pub(crate) fn platform(what: &str, bytes: &[u8]) -> Result<Platform> {
        Ok(Platform::from_json(&object(what, bytes, CONFIG_KNOWN)?))
    }

    /// For the same image with EROFS layers that have these diffIDs. All other members stay.
    #[must_use]
    pub fn rewritten(&self, diff_ids: Vec<Digest>) -> Self {
        self.clone().with_diff_ids(diff_ids).with_erofs()
    }

    /// Of an image without layers.
    pub(crate) fn scratch(platform: Platform) -> Self {
        let json = platform.to_json().as_object().cloned().unwrap_or_default();
        Self { platform, diff_ids: Vec::new(), json }
    }

    /// All its members.
    pub(crate) fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// With these members in place of all others; layers and platform stay.
    pub(crate) fn with_json(&self, json: Map<String, Value>) -> Self {
        Self { json, ..self.clone() }
    }

    /// With these diffIDs.
    pub(crate) fn with_diff_ids(mut self, diff_ids: Vec<Digest>) -> Self {
        let list: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
        let rootfs = self.json.entry("rootfs").or_insert_with(|| json!({ "type": "layers" }));
        if !rootfs.is_object() {
            *rootfs = json!({ "type": "layers" });
        }
        if let Some(rootfs) = rootfs.as_object_mut() {
            rootfs.insert("diff_ids".to_owned(), json!(list));
        }
        self.diff_ids = diff_ids;
        self
    }

    /// For an image that has EROFS layers.
    pub(crate) fn with_erofs(mut self) -> Self {
        self.platform = self.platform.with_feature(EROFS_FEATURE);
        self.json.insert("os.features".to_owned(), json!(self.platform.os_features));
        self
    }

    /// What a snapshot of all its layers is called in containerd (image-spec, config.md, "Layer ChainID"). `None`
    /// without layers.
    #[must_use]
    pub fn chain_id(&self) -> Option<Digest> {
        let mut diff_ids = self.diff_ids.iter();
        let lowest = diff_ids.next()?.clone();
        Some(
            diff_ids
                .fold(lowest, |chain, diff_id| Digest::of(format!("{chain} {diff_id}").as_bytes())),
        )
    }

    /// The bytes to store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Value::Object(self.json.clone()).to_string().into_bytes()
    }
}

/// The names of the images in a layout's index, for a message.
pub(crate) fn names(index: &Index) -> Vec<String> {
    let name = |d: &Descriptor| d.annotation(super::REF_NAME).map(str::to_owned);
    let names: BTreeSet<String> = index.manifests.iter().filter_map(name).collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests;
