//! What fills a [`Builder`](erolith_mkfs::build::Builder) besides an archive and an image: a directory of the host, and what
//! changed between two stacks of layers.

mod changes;
mod dir;

pub use changes::fill_from_changes;
pub use dir::fill_from_dir;
