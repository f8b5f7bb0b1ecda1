//! One layer becomes one EROFS image.
//!
//! [`Isolation`] decodes the layer and writes the image to a file that has no name yet. What becomes of that file is
//! another step: [`Built::seal`] puts it into a content store, under a digest that is computed then; [`layer`] puts it
//! into the directory of a snapshot, where that digest is not needed.

pub mod dm_verity;
pub mod fsverity;
pub mod layer;
mod look;
mod lower;
mod native;
mod output;
pub mod sidecar;
#[cfg(test)]
mod tests;
mod work;

use std::time::Duration;

use erolith_mkfs::build::Summary;
use erolith_mkfs::protect::Protected;
use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::decode::Decoded;

pub use look::Look;
pub use lower::ParentImages;
pub use output::{Output, Protect, Sealed, explain, verify_blob};
pub(crate) use output::{copy_blob, verify};
pub use work::{Isolation, LayerInput};
pub(crate) use work::{Order, Outcome, Task, check_image, convert};

/// UUID of the image of the layer with this diffID, the one that containerd's differ gives: version 5 in the
/// namespace of URLs, of `erofs:blobs/` and the digest.
#[must_use]
pub fn image_uuid(diff_id: &Digest) -> [u8; 16] {
    let name = format!("erofs:blobs/{diff_id}");
    *uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes()).as_bytes()
}

/// How long the parts of a conversion took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Times {
    /// The blob was read, decoded and verified, and content was written on the way.
    pub read: Duration,
    /// The metadata of the image were planned and written; or an image that came as a stream was checked. What protects it
    /// was computed.
    pub build: Duration,
    /// The image was synced and named, and its directory synced.
    pub publish: Duration,
}

/// An image that is written and not yet published.
#[derive(Debug)]
pub struct Built<S> {
    /// The file it is in.
    pub(crate) staging: S,
    /// What the layer's blob was.
    pub source: Decoded,
    /// What was built; `None` for a layer that was an image already.
    pub summary: Option<Summary>,
    /// Does the image depend on the layers below? It takes attributes of directories from them that it does not
    /// describe itself.
    pub inherits: bool,
    /// What protects the image, as far as that was seen to while it was written.
    pub(crate) protected: Protected,
    /// How long it took.
    pub times: Times,
}
