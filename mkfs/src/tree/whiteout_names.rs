//! Names with which layers remove what lies below them (image-spec, layer.md, "Whiteouts").

/// What the name of a whiteout begins with.
pub const WHITEOUT: &[u8] = b".wh.";
/// What AUFS' own names begin with.
pub(super) const WHITEOUT_META: &[u8] = b".wh..wh.";
/// The name that makes its directory opaque.
pub const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
