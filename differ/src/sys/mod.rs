//! The only place of this crate with `unsafe`: a C decoder behind a safe type, a descriptor with a fixed number for a
//! program, and system calls that rustix does not have or cannot make safe.

pub(crate) mod handle;
#[cfg(all(feature = "isal", target_arch = "x86_64"))]
pub(crate) mod isal;
pub(crate) mod process;
pub(crate) mod sandbox;
pub(crate) mod writeback;
