//! What `docker save` writes: `manifest.json` names the config and the layers of every image in the archive, by member.
//!
//! Layers have no digest of their own there; the config's diffIDs say what they must expand to.

use serde_json::Value;

use super::archive::Archive;
use super::document::{CONFIG_LIMIT, Config, Descriptor, MANIFEST_LIMIT, Manifest};
use super::image::{ImageLayer, LayerPosition, OciImage};
use super::{CONFIG, Transport};
use crate::error::{ContentError, MismatchError, OciImageError};
use crate::{Compression, Digest, Error, LayerType, Result};

/// Takes the image `reference` out of an archive; the only one when there is none.
pub(super) fn image(archive: &Archive, reference: Option<&str>) -> Result<OciImage> {
    let bad = |reason: String| {
        Error::Image(OciImageError::BadDocument { what: "manifest.json".to_owned(), reason })
    };
    let Some(bytes) = archive.read("manifest.json", MANIFEST_LIMIT)? else {
        let reason = "it has no manifest.json; archives of Docker before 1.10 are not supported";
        return Err(Error::Content(ContentError::BadArchive { reason: reason.to_owned() }));
    };
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let images = value.as_array().ok_or_else(|| bad("it is no list".to_owned()))?;
    let chosen = choose(images, reference)?;
    let name = |value: &Value| value.as_str().map(str::to_owned);
    let config_name = chosen.get("Config").and_then(name);
    let config_name = config_name.ok_or_else(|| bad("an image has no Config".to_owned()))?;
    let layer_names = match chosen.get("Layers") {
        Some(Value::Array(list)) => list.iter().map(name).collect::<Option<Vec<_>>>(),
        Some(Value::Null) | None => Some(Vec::new()),
        _ => None,
    };
    let layer_names = layer_names.ok_or_else(|| bad("Layers is no list of names".to_owned()))?;
    let missing = |name: &str| {
        Error::Content(ContentError::BadArchive { reason: format!("it has no member {name:?}") })
    };
    let bytes = archive.read(&config_name, CONFIG_LIMIT)?.ok_or_else(|| missing(&config_name))?;
    let digest = Digest::of(&bytes);
    check_name(&config_name, &digest)?;
    let config = Config::parse(&format!("config {digest}"), &bytes, layer_names.len())?;
    let mut layers = Vec::with_capacity(layer_names.len());
    for (index, (name, diff_id)) in layer_names.iter().zip(&config.diff_ids).enumerate() {
        layers.push(ImageLayer {
            place: LayerPosition::Member(
                archive.member(name)?.ok_or_else(|| partial(index, name))?,
            ),
            layer_type: LayerType::Tar { compression: Compression::None, nondistributable: false },
            diff_id: diff_id.clone(),
        });
    }
    let descriptor = Descriptor::new(CONFIG, &digest, bytes.len() as u64);
    Ok(OciImage {
        source_digest: digest,
        entry: None,
        manifest: Manifest::assemble(descriptor, Vec::new()),
        manifest_bytes: None,
        config,
        config_bytes: bytes,
        layers,
    })
}

/// Docker loads such archives where it has the missing layers already.
fn partial(index: usize, name: &str) -> Error {
    let reason = format!(
        "layer {index} is listed as {name:?} and not there: the archive is partial; save the whole image again, or \
         load it where the other layers are and save it there"
    );
    Error::Content(ContentError::BadArchive { reason })
}

/// A config is called by its digest; one that is not what it is called has been tampered with.
fn check_name(name: &str, actual: &Digest) -> Result<()> {
    let stem = name.rsplit('/').next().unwrap_or_default();
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    match format!("sha256:{stem}").parse::<Digest>() {
        Ok(expected) if expected != *actual => {
            Err(Error::Mismatch(MismatchError::BlobDigest { expected, actual: actual.clone() }))
        }
        _ => Ok(()),
    }
}

fn tags(image: &Value) -> impl Iterator<Item = &str> {
    let tags = image.get("RepoTags").and_then(Value::as_array);
    tags.into_iter().flatten().filter_map(Value::as_str)
}

fn choose<'a>(images: &'a [Value], reference: Option<&str>) -> Result<&'a Value> {
    let mut found = images.iter().filter(|image| match reference {
        Some(wanted) => tags(image).any(|tag| familiar(tag) == familiar(wanted)),
        None => true,
    });
    match (found.next(), found.next()) {
        (Some(image), None) => Ok(image),
        (first, _) => Err(Error::Image(OciImageError::WhichImage {
            transport: Transport::DockerArchive.name(),
            reference: reference.map(str::to_owned),
            found: first.is_some(),
            names: images.iter().flat_map(tags).map(str::to_owned).collect(),
        })),
    }
}

/// A name as people write it: without the registry that is assumed, with the tag that is assumed.
fn familiar(name: &str) -> String {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let tagged = short.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if tagged { short.to_owned() } else { format!("{short}:latest") }
}
