//! The last steps of an image that gets a name in a directory, the same for every kind of layer: what protects it is
//! verified or added, the work is cancelled for the last time, the sidecar is written, the image is named.

use std::fs::File;
use std::path::Path;

use erolith_mkfs::protect::Protected;
use erolith_verity::dmverity::{DmVerityTree, Signature};

use super::protect::Protect;
use super::sidecar;
use crate::content::Staging as _;
use crate::decode::Cancel;
use crate::publish::{Durability, FileProtector, OutputFile, PublishTarget};
use crate::{Error, Result};

/// A complete image that has no name in its directory yet.
pub(crate) enum CompleteImage<'a> {
    /// A file of its own.
    Staged(OutputFile),
    /// The file of a blob or of another layer, which gets one more name. It is sealed by the store that owns it, if at all.
    Shared(&'a File, PublishTarget),
}

impl CompleteImage<'_> {
    fn file(&self) -> &File {
        match self {
            Self::Staged(staging) => staging.file(),
            Self::Shared(file, _) => file,
        }
    }
}

/// Where an image gets its name, and how.
#[derive(Debug)]
pub(crate) struct ImageName<'a> {
    pub(crate) path: &'a Path,
    /// The signature of the root hash, for the sidecar.
    pub(crate) signature: Option<&'a Signature>,
    pub(crate) durability: Durability,
    /// Seals an image with a file of its own before it gets its name.
    pub(crate) seal: Option<&'a dyn FileProtector>,
}

/// An image that has its name.
#[derive(Debug)]
pub(crate) struct NamedImage {
    /// Its hash tree.
    pub(crate) verity: Option<DmVerityTree>,
    /// Its bytes, hash tree included.
    pub(crate) size: u64,
}

impl ImageName<'_> {
    /// Protects `image` and gives it the name. `known` is what was computed while it was written.
    ///
    /// # Errors
    /// [`crate::error::LayerError::FsVerity`] and [`Error::Verity`] for an image that is not what was promised, [`Error::Cancelled`],
    /// [`Error::Seal`], and what the storage reports. The image does not have the name then.
    pub(crate) fn finish(
        &self,
        image: CompleteImage<'_>,
        protect: &Protect,
        known: Protected,
        cancel: &Cancel,
    ) -> Result<NamedImage> {
        let Protected { digest, verity } = protect.complete(image.file(), known, cancel)?;
        let size = image.file().metadata().map_err(Error::io("examining an image"))?.len();
        cancel.check()?;
        self.publish(image, verity.as_ref(), digest)?;
        Ok(NamedImage { verity, size })
    }

    fn publish(
        &self,
        image: CompleteImage<'_>,
        verity: Option<&DmVerityTree>,
        digest: Option<erolith_verity::fsverity::Digest>,
    ) -> Result<()> {
        sidecar::publish(self.path, verity, self.signature, self.durability)?;
        match image {
            CompleteImage::Staged(staging) => {
                staging.publish_protected(self.durability, self.seal, digest)
            }
            CompleteImage::Shared(file, place) => {
                let file = file.try_clone().map_err(Error::io("duplicating a descriptor"))?;
                place.link(file, self.durability)
            }
        }
    }
}

/// Gives the image in `file`, which was verified and protected before, the name `path` too, with the sidecar that tells of
/// its hash tree.
///
/// # Errors
/// What the storage reports. The image does not have the name then.
pub fn link(
    file: &File,
    path: &Path,
    verity: Option<&DmVerityTree>,
    signature: Option<&Signature>,
    durability: Durability,
) -> Result<()> {
    let place = PublishTarget::new(path)?;
    let name = ImageName { path, signature, durability, seal: None };
    name.publish(CompleteImage::Shared(file, place), verity, None)
}
