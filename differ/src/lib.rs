//! Layers in and out of EROFS: media types, digests, compression, the content store.
//!
//! The way of a layer: a blob of a [`content`] store is [`decode`]d (bounded, hashed, verified) into a tar stream,
//! [`apply`] turns it into an EROFS image in the destination store, and [`convert`] does that for all layers of
//! an image and writes its new manifest, config and index ([`oci`]). The other way, [`compare`] makes a layer of what a
//! container changed, and [`commit`] an image of that layer and the image below.

pub mod apply;
mod blob_kind;
pub mod cache;
pub mod commit;
pub mod compare;
pub mod content;
pub mod convert;
pub mod decode;
mod digest;
mod digest_text;
mod encode;
pub mod error;
pub mod extract;
mod flusher;
pub mod keyed_semaphore;
mod media;
pub mod oci;
pub mod path_index;
pub mod processors;
pub mod publish;
pub mod sandbox;
mod sys;
#[cfg(test)]
mod testing;

pub use blob_kind::BlobKind;
pub use decode::inflater;
pub use digest::{Algorithm, Digest, Hasher};
pub use error::{Error, Result};
pub use media::{Compression, EROFS_LAYER, EROFS_LAYER_ZSTD, LayerType, OCI_LAYER};
