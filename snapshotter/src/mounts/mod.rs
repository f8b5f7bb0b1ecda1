//! Images as mounts: a pure [`plan`] from layers to steps, and the thin code that performs it.

mod fscontext;
mod image;
mod options;
mod perform;
pub mod plan;
pub mod table;
mod umount;

pub use image::{ImageFacts, inspect};
pub use options::MountOptions;
pub use perform::{Check, MountLayer, Mounted, MountedLayer, MountedLoop, Request, mount};
pub use plan::{Backing, MountPlan, OverlayRoute};
pub use umount::{UmountOptions, mounted_at, umount};

pub(crate) use fscontext::{FsContext, attach};
pub(crate) use perform::mount_overlay;
