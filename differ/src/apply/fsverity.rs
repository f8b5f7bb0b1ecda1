//! fs-verity digests of layers, in annotations: what a kernel measures of the uncompressed image, with SHA-256 over
//! blocks of 4096 bytes and no salt.

use erolith_mkfs::io::ReadAt;
use erolith_verity::fsverity::Digest;

use crate::decode::Cancel;
use crate::error::LayerError;
use crate::{Error, Result};

/// The annotation of a layer that promises the digest of its image, `sha256:<hex>`.
pub const ANNOTATION: &str = "org.erofs.fsverity.digest";

/// What the annotations of a layer promise; `None`: nothing.
///
/// # Errors
/// [`crate::error::LayerError::BadAnnotation`]: a promise that cannot be understood is not passed over.
pub fn from_annotations<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Digest>> {
    let bad = || {
        Error::Layer(LayerError::BadAnnotation {
            key: ANNOTATION.to_owned(),
            reason: "it is no sha256 digest",
        })
    };
    get(ANNOTATION).map(|text| Digest::parse(text).ok_or_else(bad)).transpose()
}

/// The digest of an image.
pub(super) fn of(image: &dyn ReadAt, cancel: &Cancel) -> Result<Digest> {
    cancel.check()?;
    let digest = Digest::of(image, &mut |_| {}).map_err(Error::io("reading an image"))?;
    cancel.check()?;
    Ok(digest)
}

/// Refuses an image that has another digest than was promised.
///
/// # Errors
/// [`crate::error::LayerError::FsVerity`], [`Error::Cancelled`], and what the storage reports.
pub(super) fn require(image: &dyn ReadAt, promised: Option<Digest>, cancel: &Cancel) -> Result<()> {
    let Some(expected) = promised else { return Ok(()) };
    let actual = of(image, cancel)?;
    if actual == expected {
        Ok(())
    } else {
        Err(Error::Layer(LayerError::FsVerity { expected, actual }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_understood_or_refused() {
        let text = format!("sha256:{}", "1f".repeat(32));
        let read =
            |value: Option<&str>| from_annotations(|key| value.filter(|_| key == ANNOTATION));
        assert_eq!(read(None).unwrap(), None);
        assert_eq!(read(Some(&text)).unwrap().unwrap().to_string(), text);
        for bad in ["", "sha256:", "sha512:00", text.trim_start_matches("sha256:")] {
            assert_eq!(read(Some(bad)).unwrap_err().code(), "annotation-invalid", "{bad}");
        }
    }
}
