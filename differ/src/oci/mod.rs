//! Images as the OCI specifications describe them: documents, where they come from and where they go.
//!
//! Untrusted documents are verified once, when they are parsed (`document`); what is not changed is passed on
//! byte by byte, and what is changed keeps every member that is not understood.

mod archive;
mod destination;
mod docker;
mod document;
mod image;
mod platform;
mod reference;
mod source;

pub use destination::Destination;
pub(crate) use document::{CONFIG_LIMIT, MANIFEST_LIMIT};
pub use document::{Config, Descriptor, Document, Index, Manifest};
pub use image::{ImageLayer, LayerPosition, OciImage};
pub use platform::Platform;
pub use reference::{Location, Transport, is_reference};
pub use source::{ImageSource, Select, SourceIndex};
pub(crate) use source::{MAX_DEPTH, is_runnable};

/// `mediaType` of an image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// `mediaType` of an image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// `mediaType` of an image config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The annotation that names an image in a layout's `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation in which containerd keeps the full name of an image it exported.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The OS feature that tells an image of EROFS layers from one of tar layers.
pub const EROFS_FEATURE: &str = "erofs";
