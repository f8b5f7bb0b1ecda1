//! An image of a layout, and one layer on top of it, in a layout.
//!
//! As in a conversion, what is named is durable before what names it: layers, the config, the manifest, and `index.json`
//! last, which makes the image visible.

use super::{Addition, BaseImage, CommitOrigin, CommittedImage, CommittedLayer, add_layer};
use crate::apply::copy_blob;
use crate::content::{Mode, OciLayout, Staging};
use crate::decode::Cancel;
use crate::error::OciImageError;
use crate::oci::{
    CONTAINERD_NAME, Descriptor, Destination, ImageSource, LayerPosition, OciImage, REF_NAME,
};
use crate::{Digest, Error, Result};

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

/// Makes an image at `destination` of the one of `base`, which is a single one, and of the layer of the type `media_type` that
/// `write` writes to a file. Returns it, and the digest of the manifest of the image below.
///
/// # Errors
/// [`crate::error::OciImageError::BadChange`]; what `write` reports; what is wrong with the base; what the storage reports. The destination then
/// shows what it showed before.
pub fn commit(
    base: &ImageSource,
    destination: Destination,
    addition: &Addition<'_>,
    media_type: &str,
    write: impl FnOnce(&dyn Staging) -> Result<WrittenBlob>,
) -> Result<(CommittedImage, Digest)> {
    let [image] = base.images.as_slice() else {
        let reason = "it is not a single image".to_owned();
        return Err(Error::Image(OciImageError::BadDocument {
            what: "the image below".to_owned(),
            reason,
        }));
    };
    let layout = destination.layout();
    let origin = origin(image);
    let below =
        BaseImage { manifest: &image.manifest, config: &image.config, origin: Some(&origin) };
    let made = add_layer(layout, below, addition, || {
        layout.sweep()?;
        copy_layers(base, image, layout, addition.cancel)?;
        let ingest = layout.ingest(Mode::Fresh)?;
        let WrittenBlob { digest, size, diff_id } = write(&ingest)?;
        addition.cancel.check()?;
        ingest.commit(&digest, size)?;
        CommittedLayer::new(Descriptor::new(media_type, &digest, size), diff_id)
    })?;
    destination.publish(made.manifest.clone(), addition.cancel)?;
    Ok((made, image.source_digest.clone()))
}

/// Copies the layers of the image below, unless it is in the same layout.
fn copy_layers(
    base: &ImageSource,
    image: &OciImage,
    layout: &OciLayout,
    cancel: &Cancel,
) -> Result<()> {
    for layer in &image.layers {
        let LayerPosition::Listed(descriptor) = &layer.place else {
            let reason =
                "an archive of docker save lists no blobs; erolith convert makes an image of it";
            let (what, reason) = ("the image below".to_owned(), reason.to_owned());
            return Err(Error::Image(OciImageError::BadDocument { what, reason }));
        };
        let blob = base.blob(layer)?;
        copy_blob(layout, &blob, &descriptor.digest, descriptor.size, cancel)?;
    }
    Ok(())
}

/// The full name of an image is in the annotation in which containerd keeps it, or in the one that OCI has for names.
fn origin(image: &OciImage) -> CommitOrigin {
    let entry = image.entry.as_ref();
    let named = |key| entry.and_then(|entry| entry.annotation(key));
    let name = named(CONTAINERD_NAME).or_else(|| named(REF_NAME));
    CommitOrigin::new(name, &image.source_digest, &image.source_digest)
}
