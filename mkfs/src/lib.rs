//! What an EROFS image is: bytes in, bytes out. This crate knows no kernel, no container, no network and
//! no path of the host.

pub mod build;
pub mod check;
mod codec;
pub mod data;
mod emit;
mod error;
mod exact;
pub mod format;
pub mod image;
pub mod interpreted;
pub mod io;
pub mod marks;
pub mod meta;
pub mod names;
mod plan;
pub mod protect;
mod source;
pub mod tar;
pub mod tree;

pub use error::Error;
