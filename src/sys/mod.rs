//! Calls that no safe crate has.

pub(crate) mod memory;
