//! Files that are durable once they have their names.
//!
//! A file goes through three states, each a type: [`Tmpfile`] is being written, the bytes of [`Synced`] are on the
//! disk, and [`Named`] has its name, which its directory is yet to be synced for. [`fault`] holds the points at which tests make
//! the process fail or die.

pub mod fault;
mod publish;

pub use publish::{Durability, Named, Synced, Tmpfile, scratch, second_name};
