//! The labels of a snapshot that the service obeys, besides those of its id maps.

use crate::store::Labels;

/// The chain that a layer will end.
pub const REF_LABEL: &str = "containerd.io/snapshot.ref";
/// The diffID of the layer.
pub const DIFF_ID_LABEL: &str = "containerd.io/snapshot/diff-id";
/// The chain below the layer.
pub const PARENT_CHAIN_LABEL: &str = "containerd.io/snapshot/parent-chain-id";
/// Bytes that the writable layer may have: decimal digits. containerd's EROFS snapshotter has the same label.
pub(super) const SIZE_LABEL: &str = "containerd.io/snapshot/max-size";

/// Whether a layer is unpacked into the snapshot with these labels.
pub(super) fn is_unpack(labels: &Labels) -> bool {
    labels.contains_key(REF_LABEL)
}
