//! Support for the tests that cross crates: crafted archives, the description of trees, and the oracle of images.

pub mod build;
pub mod busybox;
pub mod cases;
pub mod containerd;
pub mod convert;
pub mod golden;
pub mod injector;
pub mod layout;
pub mod listing;
pub mod mount;
pub mod node;
pub mod oracle;
pub mod program;
pub mod scratch;
pub mod sources;
pub mod spec;
mod sys;
pub mod tarball;
pub mod tools;
