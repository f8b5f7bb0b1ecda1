//! The only place of this crate with `unsafe`: a C decoder behind a safe type.

#[cfg(all(feature = "isal", target_arch = "x86_64"))]
pub(crate) mod isal;
