//! An image of a layout, and one layer on top of it, in a layout.
//!
//! As in a conversion, what is named is durable before what names it: layers, the config, the manifest, and `index.json`
//! last, which makes the image visible.

use super::{Change, CommittedLayer, Note, Origin, config, manifest};
use crate::apply::copy_blob;
use crate::content::{ContentStore, Mode, OciLayout, Staging};
use crate::decode::Cancel;
use crate::oci::{
    CONFIG, CONTAINERD_NAME, Descriptor, Destination, Image, ImageSource, LayerPosition, MANIFEST,
    REF_NAME,
};
use crate::{Digest, Error, Result};

/// What is added to an image.
#[derive(Debug)]
pub struct Addition<'a> {
    /// What the layer is.
    pub media_type: &'a str,
    /// What else changes.
    pub changes: &'a [Change],
    /// What the history says.
    pub note: &'a Note,
    /// Calls it off.
    pub cancel: &'a Cancel,
}

/// The blob of a layer that was written.
#[derive(Debug, Clone)]
pub struct WrittenBlob {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Digest of what it decompresses to.
    pub diff_id: Digest,
}

/// An image that was made.
#[derive(Debug, Clone)]
pub struct Added {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of its config.
    pub config: Digest,
    /// The layer that was added.
    pub layer: CommittedLayer,
    /// Digest of the manifest of the image below.
    pub base: Digest,
}

/// Makes an image of the one of `base`, which is a single one, and of the layer that `write` writes to a file.
///
/// # Errors
/// [`Error::BadChange`]; what `write` reports; what is wrong with the base; what the storage reports. The destination then
/// shows what it showed before.
pub fn add(
    base: &ImageSource,
    destination: Destination,
    addition: &Addition<'_>,
    write: impl FnOnce(&dyn Staging) -> Result<WrittenBlob>,
) -> Result<Added> {
    let [image] = base.images.as_slice() else {
        let reason = "it is not a single image".to_owned();
        return Err(Error::BadDocument { what: "the image below".to_owned(), reason });
    };
    let below = Change::apply_all(addition.changes, &image.config)?;
    let layout = destination.layout();
    layout.sweep()?;
    copy_layers(base, image, layout, addition.cancel)?;
    let ingest = layout.ingest(Mode::Fresh)?;
    let WrittenBlob { digest, size, diff_id } = write(&ingest)?;
    addition.cancel.check()?;
    ingest.commit(&digest, size)?;
    let layer = CommittedLayer::new(Descriptor::new(addition.media_type, &digest, size), diff_id)?;
    let made = config(&below, &layer, addition.note)?;
    let described = put(layout, CONFIG, &made.to_bytes())?;
    let config = described.digest.clone();
    let origin = origin(image);
    let manifest = manifest(&image.manifest, described, &layer, addition.note, Some(&origin));
    let entry = put(layout, MANIFEST, &manifest.to_bytes())?.with_platform(made.platform.clone());
    let manifest = entry.digest.clone();
    destination.publish(entry, addition.cancel)?;
    Ok(Added { manifest, config, layer, base: image.source_digest.clone() })
}

fn put(layout: &OciLayout, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
    let digest = layout.put(bytes)?;
    Ok(Descriptor::new(media_type, &digest, bytes.len() as u64))
}

/// Copies the layers of the image below, unless it is in the same layout.
fn copy_layers(
    base: &ImageSource,
    image: &Image,
    layout: &OciLayout,
    cancel: &Cancel,
) -> Result<()> {
    for layer in &image.layers {
        let LayerPosition::Listed(descriptor) = &layer.place else {
            let reason =
                "an archive of docker save lists no blobs; erolith convert makes an image of it";
            let (what, reason) = ("the image below".to_owned(), reason.to_owned());
            return Err(Error::BadDocument { what, reason });
        };
        let blob = base.blob(layer)?;
        copy_blob(layout, &blob, &descriptor.digest, descriptor.size, cancel)?;
    }
    Ok(())
}

/// The full name of an image is in the annotation in which containerd keeps it, or in the one that OCI has for names.
fn origin(image: &Image) -> Origin {
    let entry = image.entry.as_ref();
    let named = |key| entry.and_then(|entry| entry.annotation(key));
    let name = named(CONTAINERD_NAME).or_else(|| named(REF_NAME));
    Origin::new(name, &image.source_digest, &image.source_digest)
}
