//! Support for the tests that cross crates: crafted archives, the description of trees, and the judges of images.

pub mod cases;
pub mod listing;
pub mod mount;
mod sys;
pub mod tarball;
pub mod tools;
