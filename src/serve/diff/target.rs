//! Where a layer goes.

use std::path::PathBuf;

use erolith_differ::publish::Durability;

/// Where a layer goes.
pub(super) struct Target {
    pub(super) dir: PathBuf,
    /// Images of the layers below, the nearest first.
    pub(super) lowers: Vec<PathBuf>,
    pub(super) durability: Durability,
    /// Whether it is the directory of a snapshot of ours. An image of another snapshotter is in no other place.
    pub(super) is_ours: bool,
}
