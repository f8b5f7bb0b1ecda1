//! What an EROFS image is: bytes in, bytes out. This crate knows no kernel, no container, no network and
//! no path of the host.

pub mod format;
pub mod image;
pub mod io;
pub mod meta;
pub mod tar;
