//! One layer becomes one EROFS image.
//!
//! 1. [`Isolation`] does the `job`: it decodes the layer, with the attributes of its `parents` where it needs them, and
//!    writes the image to a file that has no name yet. A stored blob that is an image already may `share` its blocks.
//! 2. `protect` verifies or adds hash tree and digest.
//! 3. `finish` gives the image a name in a directory; `store` puts it into a content store, under a digest that is
//!    computed then.
//!
//! [`layer`] is that sequence for the directory of a snapshot.

pub mod dm_verity;
mod finish;
pub mod fsverity;
mod isolation;
mod job;
pub mod layer;
mod open_layer;
mod parents;
mod protect;
mod share;
pub mod sidecar;
mod store;
#[cfg(test)]
mod tests;
mod verify;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Digest;

pub use finish::link;
pub(crate) use finish::{CompleteImage, ImageName};
pub use isolation::Isolation;
pub(crate) use isolation::StagedImage;
pub use job::LayerInput;
pub(crate) use job::{LayerJob, LayerJobResult, Task, check_image, convert};
pub use open_layer::LayerOpener;
pub use parents::ParentImages;
pub use protect::Protect;
pub use store::{Output, StoredImage};
pub(crate) use store::{copy_blob, verify};
pub use verify::{explain, verify_blob};

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
