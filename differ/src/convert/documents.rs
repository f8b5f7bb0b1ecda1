//! The documents of a converted image.

use std::collections::BTreeSet;

use erolith_durable::fault;
use erolith_verity::dmverity::{DmVerityTree, Signature};

use super::layers::{Converted, ConvertedLayer};
use super::{
    ImageReport, LayerReport, Options, Report, SOURCE_DIFF_ID, SOURCE_DIGEST, SOURCE_LAYER,
    UNCOMPRESSED,
};
use crate::apply::{Output, copy_blob, dm_verity, fsverity};
use crate::content::OciLayout;
use crate::decode::{Cancel, LayerStream, Request};
use crate::error::{ContentError, ProcessError};
use crate::oci::{
    CONFIG, Descriptor, EROFS_FEATURE, INDEX, ImageLayer, ImageSource, Index, LayerPosition,
    MANIFEST, MANIFEST_LIMIT, MAX_DEPTH, OciImage,
};
use crate::{Compression, Digest, Error, LayerType, Result};

/// On a layer that is an image: how it is used beside the others (the same draft). Not a matter of its bytes.
const ROLE: &str = "org.erofs.role";

/// Annotations that describe the bytes of a tar blob, and are wrong for any other.
const ABOUT_BYTES: &[&str] = &[
    "containerd.io/snapshot/stargz/",
    "containerd.io/snapshot/nydus-",
    "containerd.io/uncompressed",
    "io.containers.estargz.",
    "io.github.containers.zstd-chunked.",
    "org.erofs.",
];

/// Whether the annotation `key` of a layer holds for the layer that was made of it.
fn is_kept(key: &str, layer: &ImageLayer, has_same_bytes: bool) -> bool {
    match layer.layer_type {
        // What was found to be so is said anew.
        _ if key.starts_with(dm_verity::ANNOTATIONS) || key == fsverity::ANNOTATION => false,
        LayerType::Erofs { .. } if has_same_bytes || key == ROLE => true,
        _ => !ABOUT_BYTES.iter().any(|about| key.starts_with(about)),
    }
}

/// What was written.
pub(super) struct WrittenManifest {
    /// The entry for the destination's index.
    pub(super) entry: Descriptor,
    pub(super) report: Report,
}

/// Writes configs, manifests and the index of the images whose layers are converted.
pub(super) fn write(
    source: &ImageSource,
    layout: &OciLayout,
    options: &Options,
    converted: &Converted,
) -> Result<WrittenManifest> {
    let step = |point| fault::point(point).map_err(Error::io("writing documents"));
    step("convert.before_documents")?;
    let writer = DocumentWriter { source, layout, options };
    let mut entries = Vec::new();
    let mut images = Vec::new();
    for (image, layers) in source.images.iter().zip(converted) {
        let (entry, report) = writer.image(image, layers)?;
        entries.push(entry);
        images.push(report);
    }
    let mut left_out: BTreeSet<Digest> = BTreeSet::new();
    let listed = source.index.as_ref();
    left_out.extend(listed.iter().flat_map(|i| &i.others).map(|d| d.digest.clone()));
    if options.keep_original {
        let mut originals =
            source.images.iter().map(|image| writer.original(image)).collect::<Result<Vec<_>>>()?;
        for other in listed.iter().filter(|index| index.all).flat_map(|index| &index.others) {
            if writer.copy(other, 0)? {
                originals.push(other.clone());
                left_out.remove(&other.digest);
            }
        }
        // Readers that do not know OS features take the first one that fits.
        originals.append(&mut entries);
        entries = originals;
    }
    let entry = match (entries.as_slice(), listed) {
        ([entry], None) => entry.clone(),
        _ => writer.index(entries)?,
    };
    step("convert.after_documents")?;
    let (digest, media_type) = (entry.digest.clone(), entry.media_type.clone());
    let left_out = left_out.into_iter().collect();
    Ok(WrittenManifest { entry, report: Report { digest, media_type, images, left_out } })
}

struct DocumentWriter<'a> {
    source: &'a ImageSource,
    layout: &'a OciLayout,
    options: &'a Options,
}

impl DocumentWriter<'_> {
    fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let digest = self.layout.put(bytes)?;
        Ok(Descriptor::new(media_type, &digest, bytes.len() as u64))
    }

    /// Writes config and manifest of a converted image.
    fn image(
        &self,
        image: &OciImage,
        made: &[ConvertedLayer],
    ) -> Result<(Descriptor, ImageReport)> {
        let config =
            image.config.rewritten(made.iter().map(|m| m.sealed.diff_id.clone()).collect());
        let described = self.put(CONFIG, &config.to_bytes())?;
        let described = described.with_annotations_of(&image.manifest.config, |_| true);
        let layers = image.layers.iter().zip(made);
        let descriptors = layers.clone().map(|(layer, made)| self.layer(layer, made));
        let descriptors = descriptors.collect::<Result<_>>()?;
        let source = image.source_digest.to_string();
        let manifest = image.manifest.rewritten(described, descriptors);
        let manifest = manifest.with_annotation(SOURCE_DIGEST, &source);
        let entry = self.put(MANIFEST, &manifest.to_bytes())?;
        let listed = image.entry.as_ref();
        let platform = image.platform().clone().with_feature(EROFS_FEATURE);
        let report = ImageReport {
            source: image.source_digest.clone(),
            manifest: entry.digest.clone(),
            platform: platform.to_string(),
            layers: layers.map(|(layer, made)| report(layer, made)).collect(),
        };
        let mut entry = entry.with_platform(platform);
        if let Some(listed) = listed {
            entry = entry.with_annotations_of(listed, |_| true);
        }
        Ok((entry.with_annotation(SOURCE_DIGEST, &source), report))
    }

    fn layer(&self, layer: &ImageLayer, made: &ConvertedLayer) -> Result<Descriptor> {
        let sealed = &made.sealed;
        let media_type = self.options.output.media_type();
        let mut to = Descriptor::new(media_type, &sealed.digest, sealed.size);
        if let LayerPosition::Listed(from) = &layer.place {
            let keep = |key: &str| is_kept(key, layer, from.digest == sealed.digest);
            to = to.with_annotations_of(from, keep);
            to = to.with_annotation(SOURCE_LAYER, &from.digest.to_string());
        }
        if let Output::Zstd { .. } = self.options.output {
            to = to.with_annotation(UNCOMPRESSED, &sealed.diff_id.to_string());
        }
        let tree = sealed.verity.as_ref().map(dm_verity::to_annotations).into_iter().flatten();
        to = tree.fold(to, |to, (key, value)| to.with_annotation(key, &value));
        if let Some(signature) = self.signature(layer, sealed.verity.as_ref())? {
            to = to.with_annotation(dm_verity::SIGNATURE, &signature.to_string());
        }
        if let Some(digest) = sealed.fsverity {
            to = to.with_annotation(fsverity::ANNOTATION, &digest.to_string());
        }
        Ok(to.with_annotation(SOURCE_DIFF_ID, &layer.diff_id.to_string()))
    }

    /// The signature of a layer's tree: a new one, or the one that it had, when the tree is the same.
    fn signature(
        &self,
        layer: &ImageLayer,
        tree: Option<&DmVerityTree>,
    ) -> Result<Option<Signature>> {
        let Some(tree) = tree else { return Ok(None) };
        if let Some(signer) = &self.options.signer {
            let signed = signer.sign(tree.root).map(Some);
            return signed.map_err(Error::io("signing a root hash"));
        }
        match (&layer.place, layer.layer_type) {
            (LayerPosition::Listed(from), LayerType::Erofs { .. }) => {
                let get = |key: &str| from.annotation(key);
                let is_same = dm_verity::from_annotations(get)? == Some(*tree);
                let signature = dm_verity::signature_from_annotations(get)?;
                Ok(signature.filter(|_| is_same))
            }
            _ => Ok(None),
        }
    }

    /// Writes the index of these manifests.
    fn index(&self, entries: Vec<Descriptor>) -> Result<Descriptor> {
        let (index, digest) = match &self.source.index {
            Some(listed) => (listed.index.rewritten(entries), listed.digest.as_ref()),
            None => (Index::new(entries), None),
        };
        let index = match digest {
            Some(digest) => index.with_annotation(SOURCE_DIGEST, &digest.to_string()),
            None => index,
        };
        self.put(INDEX, &index.to_bytes())
    }

    /// Copies the original of an image, byte by byte.
    fn original(&self, image: &OciImage) -> Result<Descriptor> {
        self.layout.put(&image.config_bytes)?;
        let mut layers = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let descriptor = self.original_layer(layer)?;
            let blob = self.source.blob(layer)?;
            let (digest, size) = (&descriptor.digest, descriptor.size);
            copy_blob(self.layout, &blob, digest, size, self.cancel())?;
            layers.push(descriptor);
        }
        let entry = match &image.manifest_bytes {
            Some(bytes) => {
                self.layout.put(bytes)?;
                image.entry.clone()
            }
            None => None,
        };
        let entry = match entry {
            Some(entry) => entry,
            // `docker save` stores no manifest: this is the one that a registry would have.
            None => {
                let manifest = image.manifest.rewritten(image.manifest.config.clone(), layers);
                self.put(MANIFEST, &manifest.to_bytes())?
            }
        };
        Ok(match entry.platform {
            Some(_) => entry,
            None => entry.with_platform(image.config.platform.clone()),
        })
    }

    /// How a manifest lists a layer as it is stored.
    fn original_layer(&self, layer: &ImageLayer) -> Result<Descriptor> {
        let blob = match &layer.place {
            LayerPosition::Listed(descriptor) => return Ok((**descriptor).clone()),
            LayerPosition::Member(blob) => blob,
        };
        let request = Request { cancel: self.cancel().clone(), ..Request::default() };
        let found = LayerStream::open(blob.reader(), request)?.finish()?;
        let media_type = match found.compression {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        let digest =
            found.blob.ok_or(Error::Process(ProcessError::ThreadDied { stage: "reader" }))?;
        Ok(Descriptor::new(media_type, &digest, found.blob_size))
    }

    /// Copies what is no image, byte by byte, with all it refers to. False when some of that is not there: then it is
    /// left out.
    fn copy(&self, entry: &Descriptor, depth: usize) -> Result<bool> {
        let (digest, size) = (&entry.digest, entry.size);
        let blob = match self.source.provider.open(digest) {
            Err(Error::Content(ContentError::BlobMissing { .. })) => return Ok(false),
            blob => blob?,
        };
        let is_document = depth == 0 || entry.is_document();
        if is_document && depth < MAX_DEPTH && size <= MANIFEST_LIMIT {
            let bytes = blob.document(digest, size, MANIFEST_LIMIT)?;
            for part in Descriptor::all_in(&bytes) {
                if !self.copy(&part, depth + 1)? {
                    return Ok(false);
                }
            }
        }
        copy_blob(self.layout, &blob, digest, size, self.cancel())?;
        Ok(true)
    }

    fn cancel(&self) -> &Cancel {
        &self.options.cancel
    }
}

fn report(layer: &ImageLayer, made: &ConvertedLayer) -> LayerReport {
    LayerReport {
        source_diff_id: layer.diff_id.clone(),
        source_size: layer.size(),
        digest: made.sealed.digest.clone(),
        size: made.sealed.size,
        diff_id: made.sealed.diff_id.clone(),
        verity: made.sealed.verity,
        fsverity: made.sealed.fsverity,
        reused: made.reused,
        dropped_xattrs: made.dropped_xattrs.clone(),
    }
}
