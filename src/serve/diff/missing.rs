//! Why the layer below another did not come.

use std::time::Duration;

/// Why the layers below do not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// Its Apply failed.
    #[error("its own unpacking failed: {0}")]
    Failed(String),
    /// Its snapshot was removed.
    #[error("its snapshot was removed; pull the image again")]
    Removed,
    /// There is no snapshot for it, or its Apply does not come.
    #[error("nothing was heard of it for {} s; pull the image again", .0.as_secs())]
    Silent(Duration),
    /// Another differ unpacks it, and containerd commits it later.
    #[error(
        "another differ unpacks it, and it is not committed yet; pull the image again, or unpack one layer at a time"
    )]
    Foreign,
}
