//! dm-verity hash trees of layers, in annotations (EROFS image specification draft) and in sidecars.

use erolith_mkfs::io::ReadAt;
use erolith_mkfs::protect;
use erolith_verity::dmverity::sidecar::Sidecar;
use erolith_verity::dmverity::{self, DmVerityTree, RootHash, Signature};

use crate::decode::Cancel;
use crate::error::LayerError;
use crate::{Error, Result};

/// What the annotations of a layer about its tree begin with. The tree is part of the uncompressed layer.
pub const ANNOTATIONS: &str = "org.erofs.dmverity.";
/// The root hash, `sha256:<hex>`.
const ROOT_DIGEST: &str = "org.erofs.dmverity.root_digest";
/// Where the tree begins, in bytes.
const HASH_OFFSET: &str = "org.erofs.dmverity.hash_offset";
/// Bytes of a block.
const BLOCK_SIZE: &str = "org.erofs.dmverity.block_size";
/// The signature of the root hash: a [`Signature`] in base64.
pub const SIGNATURE: &str = "org.erofs.dmverity.signature";
/// What it is where the annotation is missing.
const DEFAULT_BLOCK_SIZE: u32 = 4096;

/// The annotations of a layer with this tree.
#[must_use]
pub fn to_annotations(verity: &DmVerityTree) -> [(&'static str, String); 3] {
    let DmVerityTree { root, hash_offset, block_size } = verity;
    [
        (ROOT_DIGEST, format!("sha256:{root}")),
        (HASH_OFFSET, hash_offset.to_string()),
        (BLOCK_SIZE, block_size.to_string()),
    ]
}

/// What the annotations of a layer say about its tree; `None`: nothing.
///
/// # Errors
/// [`crate::error::LayerError::BadAnnotation`]: a promise that cannot be understood is not passed over.
pub fn from_annotations<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Option<DmVerityTree>> {
    let bad = |key: &str, reason: &'static str| {
        Error::Layer(LayerError::BadAnnotation { key: key.to_owned(), reason })
    };
    let (root, hash_offset, block_size) = (get(ROOT_DIGEST), get(HASH_OFFSET), get(BLOCK_SIZE));
    let (root, hash_offset) = match (root, hash_offset) {
        (None, None) => return Ok(None),
        (Some(root), Some(hash_offset)) => (root, hash_offset),
        (None, _) => return Err(bad(ROOT_DIGEST, "it is missing")),
        (_, None) => return Err(bad(HASH_OFFSET, "it is missing")),
    };
    let root = root.parse::<RootHash>().map_err(|_| bad(ROOT_DIGEST, "it is no sha256 digest"))?;
    let hash_offset =
        hash_offset.parse().map_err(|_| bad(HASH_OFFSET, "it is no number of bytes"))?;
    let block_size = block_size.map_or(Ok(DEFAULT_BLOCK_SIZE), str::parse);
    let block_size = block_size.map_err(|_| bad(BLOCK_SIZE, "it is no number of bytes"))?;
    Ok(Some(DmVerityTree { root, hash_offset, block_size }))
}

/// The signature of the root hash that the annotations of a layer have. It says something only beside a root hash.
///
/// # Errors
/// [`crate::error::LayerError::BadAnnotation`].
pub fn signature_from_annotations<'a>(
    get: impl Fn(&str) -> Option<&'a str>,
) -> Result<Option<Signature>> {
    let bad =
        |reason| Error::Layer(LayerError::BadAnnotation { key: SIGNATURE.to_owned(), reason });
    let Some(text) = get(SIGNATURE) else { return Ok(None) };
    if get(ROOT_DIGEST).is_none() {
        return Err(bad("there is no root hash that it could be of"));
    }
    Signature::parse(text).map(Some).ok_or(bad("it is no PKCS #7 signature in base64"))
}

/// The tree of an image that a sidecar tells of, compared with the image.
///
/// # Errors
/// [`Error::Verity`], [`Error::Cancelled`], and what the storage reports.
pub(crate) fn of_sidecar(
    image: &dyn ReadAt,
    sidecar: Sidecar,
    cancel: &Cancel,
) -> Result<DmVerityTree> {
    let stop = || cancel.check().is_err();
    let header = dmverity::verify(image, sidecar.hash_offset, sidecar.root, &stop);
    header.map(|header| header.verity(sidecar.root)).map_err(|error| failed(error.into()))
}

/// What keeps an image from being protected.
pub(super) fn failed(error: protect::Error) -> Error {
    match error {
        protect::Error::Image(error) => Error::Build(error.into()),
        protect::Error::Tree(dmverity::Error::Stopped) => Error::Cancelled,
        protect::Error::Tree(error) => Error::Verity(error),
        protect::Error::Read(error) => Error::io("reading an image")(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn annotations_are_understood_or_refused() {
        let root = RootHash([0x1F; 32]);
        let verity = DmVerityTree { root, hash_offset: 8192, block_size: 512 };
        let all: BTreeMap<&str, String> = to_annotations(&verity).into_iter().collect();
        let read = |map: &BTreeMap<&str, String>| {
            from_annotations(|key| map.get(key).map(String::as_str)).map_err(|e| e.to_string())
        };
        assert_eq!(read(&all), Ok(Some(verity)));
        assert_eq!(read(&BTreeMap::new()), Ok(None));
        let without = |key: &str| {
            let mut map = all.clone();
            map.remove(key);
            read(&map)
        };
        let default = DmVerityTree { block_size: 4096, ..verity };
        assert_eq!(without(BLOCK_SIZE), Ok(Some(default)));
        for key in [ROOT_DIGEST, HASH_OFFSET] {
            assert!(without(key).unwrap_err().contains(key));
        }
        let signed = |map: &BTreeMap<&str, String>| {
            signature_from_annotations(|key| map.get(key).map(String::as_str))
        };
        assert_eq!(signed(&all).unwrap(), None);
        let signature = Signature::from_der(vec![0x30, 1, 2]).unwrap();
        let mut map = all.clone();
        map.insert(SIGNATURE, signature.to_string());
        assert_eq!(signed(&map).unwrap(), Some(signature));
        map.remove(ROOT_DIGEST);
        assert!(signed(&map).is_err());
        for (key, value) in [(ROOT_DIGEST, "sha512:00"), (HASH_OFFSET, "-1"), (BLOCK_SIZE, "4k")] {
            let mut map = all.clone();
            map.insert(key, value.to_owned());
            assert!(read(&map).unwrap_err().contains(key), "{key}");
        }
    }
}
