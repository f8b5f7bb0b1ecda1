//! How overlayfs takes its layers here.

use std::os::fd::{AsFd, OwnedFd};

use rustix::mount::MountAttrFlags;

use crate::Result;
use crate::mounts::{FsContext, OverlayRoute};

/// Tries an overlay over two empty detached filesystems; where that fails, layers need names.
///
/// # Errors
/// [`crate::KernelError::Call`] when there is no overlayfs, or no right to mount.
pub(crate) fn overlay_route() -> Result<OverlayRoute> {
    let context = FsContext::open("overlay")?;
    let layers = [empty_layer()?, empty_layer()?];
    let taken = layers.iter().try_for_each(|layer| context.fd("lowerdir+", layer.as_fd()));
    let mounted = taken.and_then(|()| context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY));
    Ok(if mounted.is_ok() { OverlayRoute::Detached } else { OverlayRoute::Scratch })
}

/// A detached tmpfs, which every kernel can make from nothing.
fn empty_layer() -> Result<OwnedFd> {
    FsContext::open("tmpfs")?.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}
