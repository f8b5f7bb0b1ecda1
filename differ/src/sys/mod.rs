//! The only place of this crate with `unsafe`: a C decoder behind a safe type, and a descriptor with a fixed number for a
//! program.

#[cfg(all(feature = "isal", target_arch = "x86_64"))]
pub(crate) mod isal;
pub(crate) mod process;
