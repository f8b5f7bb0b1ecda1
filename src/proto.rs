//! Messages and services, generated from `proto/` by the build script.

// The generators follow neither our rules nor know which half of a service we need: tests play containerd.
#![allow(dead_code, unreachable_pub, missing_docs, missing_debug_implementations)]
#![allow(clippy::too_many_lines, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

include!(concat!(env!("OUT_DIR"), "/containerd.rs"));

pub(crate) use self::containerd::services::containers::v1 as containers;
pub(crate) use self::containerd::services::content::v1 as content;
pub(crate) use self::containerd::services::diff::v1 as diff;
pub(crate) use self::containerd::services::images::v1 as images;
pub(crate) use self::containerd::services::introspection::v1 as introspection;
pub(crate) use self::containerd::services::leases::v1 as leases;
pub(crate) use self::containerd::services::snapshots::v1 as snapshots;
pub(crate) use self::containerd::services::tasks::v1 as tasks;
pub(crate) use self::containerd::services::version::v1 as version;
pub(crate) use self::containerd::types;
pub(crate) use self::containerd::v1::types as task;
