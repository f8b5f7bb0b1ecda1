//! EROFS images as mounts, and snapshots made of them. This crate knows the kernel; it knows no registry, no layer
//! format but EROFS and no protocol.
//!
//! - [`kernel`]: what this kernel and the filesystem of a directory can do, found by trying.
//! - [`mounts`]: a pure plan from images and capabilities to steps, and the thin code that performs it.
//! - [`api_mounts`]: mounts as containerd has them, written and read.
//! - [`service`]: snapshots as containerd wants them, over [`store`], their database, and [`layerdir`], their
//!   directories.
//! - [`protect`]: what keeps the image of a layer from being changed, and finds out when it was.
//! - [`repair`]: the database made again of what is in the directories.
//! - [`scrub`]: every layer, read to its last byte.
//! - `lowers`: layers mounted once for all containers.
//! - `uppers`: writable layers that cannot grow beyond a limit.
//! - `verity`: layers whose every block the kernel compares with a hash tree when it is read.
//! - `sys`: ioctls and system calls that no safe crate offers; the only `unsafe`.

pub mod api_mounts;
mod errno;
mod error;
mod fault;
mod files;
pub mod kernel;
pub mod layerdir;
mod lowers;
pub mod mounts;
pub mod protect;
pub mod repair;
pub mod scrub;
pub mod service;
pub mod store;
mod sys;
mod uppers;
mod verity;

pub use error::{Error, IntegrityError, KernelError, LimitError, MountError, Result, ServiceError};
