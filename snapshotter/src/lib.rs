//! EROFS images as mounts. This crate knows the kernel; it knows no registry, no layer format but EROFS
//! and no configuration.
//!
//! - [`kernel`]: what this kernel and the filesystem of a directory can do, found by trying.
//! - [`mounts`]: a pure plan from images and capabilities to steps, and the thin code that performs it.
//! - [`store`]: what snapshots there are, in SQLite, with the semantics of containerd's metadata store.
//! - `sys`: ioctls and system calls that no safe crate offers; the only `unsafe`.

mod errno;
mod error;
pub mod kernel;
pub mod mounts;
pub mod store;
mod sys;

pub use error::{Class, Error, Result, Status};
