//! Media types of layers (image-spec media-types.md and layer.md; Docker image manifest v2 schema 2; containerd's
//! EROFS differ; the EROFS image specification draft).

use serde::{Deserialize, Serialize};

use crate::error::LayerError;
use crate::{Error, Result};

/// How a blob is compressed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// zstd, RFC 8878.
    Zstd,
}

impl Compression {
    /// Its usual name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// What a layer's media type says its blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerType {
    /// A tar changeset.
    Tar {
        /// As declared. The bytes decide: images from before media types had suffixes lie about it.
        compression: Compression,
        /// The type of a layer that must not be pushed to other registries ("foreign" in Docker's words).
        nondistributable: bool,
    },
    /// An EROFS image, mounted as it is.
    Erofs {
        /// [`Compression::None`] or [`Compression::Zstd`].
        compression: Compression,
    },
}

/// The media type of a raw native layer that containerd 2.3 knows.
pub const EROFS_LAYER: &str = "application/vnd.erofs.layer.v1";
/// The media type of a zstd-compressed native layer that containerd 2.3 knows.
pub const EROFS_LAYER_ZSTD: &str = "application/vnd.erofs.layer.v1+zstd";

/// The media type of a tar changeset that is not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

impl LayerType {
    /// Understands `media_type`; parameters behind a `;` do not change what the bytes are.
    ///
    /// # Errors
    /// [`crate::error::LayerError::UnsupportedMediaType`] naming the type, for other compressions (xz, bzip2, lz4), encrypted layers
    /// and whatever is no layer.
    pub fn parse(media_type: &str) -> Result<Self> {
        let unsupported =
            || Error::Layer(LayerError::UnsupportedMediaType { media_type: media_type.to_owned() });
        let essence = essence(media_type);
        match essence {
            EROFS_LAYER | "application/vnd.erofs" => {
                return Ok(Self::Erofs { compression: Compression::None });
            }
            EROFS_LAYER_ZSTD | "application/vnd.erofs+zstd" => {
                return Ok(Self::Erofs { compression: Compression::Zstd });
            }
            _ => {}
        }
        // containerd 2.1 and 2.2 looked at nothing but this suffix.
        if essence.starts_with("application/vnd.") && essence.ends_with(".erofs") {
            return Ok(Self::Erofs { compression: Compression::None });
        }
        for (base, nondistributable) in [
            (OCI_LAYER, false),
            (DOCKER_LAYER, false),
            (OCI_NONDISTRIBUTABLE, true),
            (DOCKER_FOREIGN, true),
        ] {
            let Some(suffix) = essence.strip_prefix(base) else { continue };
            let compression = match suffix {
                "" => Compression::None,
                "+gzip" | ".gzip" => Compression::Gzip,
                "+zstd" | ".zstd" => Compression::Zstd,
                _ => return Err(unsupported()),
            };
            return Ok(Self::Tar { compression, nondistributable });
        }
        Err(unsupported())
    }

    /// The media type of the decoded bytes of a layer of the media type `of`, which this is: OCI's tar for every tar
    /// layer, the one without suffix for images.
    #[must_use]
    pub fn decoded_media_type(self, of: &str) -> String {
        match self {
            Self::Tar { .. } => OCI_LAYER.to_owned(),
            Self::Erofs { .. } => {
                let essence = essence(of);
                essence.strip_suffix("+zstd").unwrap_or(essence).to_owned()
            }
        }
    }
}

/// OCI's name of the type of a layer that Docker has another name for; any other type as it is.
pub(crate) fn oci_layer_type(media_type: &str) -> String {
    for (docker, oci) in [(DOCKER_LAYER, OCI_LAYER), (DOCKER_FOREIGN, OCI_NONDISTRIBUTABLE)] {
        match media_type.strip_prefix(docker) {
            Some("") => return oci.to_owned(),
            Some(".gzip") => return format!("{oci}+gzip"),
            Some(".zstd") => return format!("{oci}+zstd"),
            _ => {}
        }
    }
    media_type.to_owned()
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_media_types_are_understood() {
        let tar = |compression| LayerType::Tar { compression, nondistributable: false };
        let foreign = |compression| LayerType::Tar { compression, nondistributable: true };
        let erofs = |compression| LayerType::Erofs { compression };
        for (text, expect) in [
            ("application/vnd.oci.image.layer.v1.tar", tar(Compression::None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", tar(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", tar(Compression::Zstd)),
            ("application/vnd.docker.image.rootfs.diff.tar", tar(Compression::None)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", tar(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", tar(Compression::Zstd)),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                foreign(Compression::Gzip),
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                foreign(Compression::Zstd),
            ),
            ("application/vnd.erofs.layer.v1", erofs(Compression::None)),
            ("application/vnd.erofs.layer.v1+zstd", erofs(Compression::Zstd)),
            ("application/vnd.oci.image.layer.v1.erofs", erofs(Compression::None)),
            ("application/vnd.erofs", erofs(Compression::None)),
            ("application/vnd.erofs+zstd", erofs(Compression::Zstd)),
        ] {
            assert_eq!(LayerType::parse(text).expect(text), expect, "{text}");
        }
    }

    #[test]
    fn decoded_layers_have_the_type_without_compression() {
        for (of, decoded) in [
            ("application/vnd.oci.image.layer.v1.tar+gzip", OCI_LAYER),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", OCI_LAYER),
            (EROFS_LAYER, EROFS_LAYER),
            (EROFS_LAYER_ZSTD, EROFS_LAYER),
            ("application/vnd.erofs+zstd; a=b", "application/vnd.erofs"),
            (
                "application/vnd.oci.image.layer.v1.erofs",
                "application/vnd.oci.image.layer.v1.erofs",
            ),
        ] {
            let layer = LayerType::parse(of).expect(of);
            assert_eq!(layer.decoded_media_type(of), decoded, "{of}");
        }
    }

    #[test]
    fn docker_names_of_layers_have_names_of_oci() {
        for (docker, oci) in [
            ("application/vnd.docker.image.rootfs.diff.tar", OCI_LAYER),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            ),
            (EROFS_LAYER, EROFS_LAYER),
            ("application/x-other", "application/x-other"),
        ] {
            assert_eq!(oci_layer_type(docker), oci);
        }
    }

    #[test]
    fn z15_other_compressions_and_encryption_are_named() {
        for text in [
            "application/vnd.oci.image.layer.v1.tar+xz",
            "application/vnd.oci.image.layer.v1.tar.bzip2",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.layer.v1.tar+encrypted",
            "application/vnd.erofs.chunk-index.v1",
            "application/vnd.erofs.layer.v1+gzip",
            "application/vnd.in-toto+json",
            "",
        ] {
            let error = LayerType::parse(text).expect_err(text);
            assert_eq!(error.code(), "media-type-unsupported");
            assert!(error.to_string().contains(text));
        }
    }
}
