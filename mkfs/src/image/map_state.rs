//! What an open image remembers of a compressed inode.

use super::zmap::{Hint, Map};

/// What is remembered of a compressed inode between reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct MapState {
    pub(super) map: Map,
    pub(super) hint: Hint,
}
