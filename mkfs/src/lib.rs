//! What an EROFS image is: bytes in, bytes out. This crate knows no kernel, no container, no network and
//! no path of the host.

mod blockhash;
pub mod build;
pub mod changeset;
pub mod check;
pub mod data;
pub mod directory;
pub mod dmverity;
mod emit;
mod error;
mod exact;
pub mod format;
pub mod fsverity;
pub mod image;
pub mod interpreted;
pub mod io;
pub mod meta;
mod names;
pub mod overlay;
mod plan;
pub mod protect;
mod source;
pub mod tar;
pub mod tree;

pub use error::Error;
