//! What makes a changed byte of a file detectable: the hash tree of dm-verity behind it, and the digest that fs-verity
//! measures of it. Both are computed of bytes, whatever is in them: this crate knows no filesystem and no kernel.
//!
//! [`background_hash`] hashes what is written to a file behind the writer's back. Trees and digests take what it
//! knows then, instead of reading it once more.

pub mod background_hash;
mod blockhash;
pub mod dmverity;
pub mod fsverity;
mod read_at;

pub use blockhash::Known;
pub use read_at::ReadAt;
