//! Descriptors of containerd as the layers that they describe.

use std::collections::BTreeMap;

use erolith_differ::LayerType;
use erolith_differ::apply::layer::LayerSpec;
use erolith_differ::apply::{dm_verity, fsverity};
use erolith_snapshotter::store::OriginBlob;
use prost::Message as _;
use prost_types::Any;

use crate::proto::types::Descriptor;
use crate::serve::error::{Error, Result};

/// A layer as its descriptor describes it, with numbers that can be, and what there is for its processors.
pub(super) fn layer_of(
    descriptor: Descriptor,
    payloads: BTreeMap<String, Any>,
) -> Result<LayerSpec> {
    let Descriptor { media_type, digest, size, annotations } = descriptor;
    let bad_size = |_| Error::Request(format!("blob {digest}: a size of {size} bytes"));
    let size = u64::try_from(size).map_err(bad_size)?;
    let payloads = payloads.into_iter().map(|(id, any)| (id, any.encode_to_vec())).collect();
    // On an archive these annotations describe another blob.
    let get = |key: &str| annotations.get(key).map(String::as_str);
    let (verity, signature, fsverity) = match LayerType::parse(&media_type) {
        Ok(LayerType::Erofs { .. }) => (
            dm_verity::from_annotations(get)?,
            dm_verity::signature_from_annotations(get)?,
            fsverity::from_annotations(get)?,
        ),
        _ => (None, None, None),
    };
    let (digest, diff_id) = (digest.parse()?, None);
    Ok(LayerSpec { media_type, digest, size, diff_id, payloads, verity, signature, fsverity })
}

/// What is recorded of a blob that is applied. Annotations say something of images only.
pub(super) fn origin_blob(descriptor: &Descriptor) -> OriginBlob {
    let Descriptor { media_type, digest, size, annotations } = descriptor;
    let decides =
        |key: &str| key.starts_with(dm_verity::ANNOTATIONS) || key == fsverity::ANNOTATION;
    let annotations = annotations.iter().filter(|(key, _)| decides(key));
    OriginBlob {
        digest: digest.clone(),
        media_type: media_type.clone(),
        size: u64::try_from(*size).unwrap_or_default(),
        annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}
