//! What this kernel and the filesystem of a directory can do, found by trying.

mod overlay;

pub(crate) use overlay::overlay_route;
