//! The shape of what is hashed: eight messages of one length, beside each other.

/// Bytes of a digest.
pub(crate) const DIGEST: usize = 32;

/// Bytes that the compression function takes.
pub(super) const PART: usize = 64;

/// Messages that are hashed at the same time: as many words as a vector of AVX2 has.
pub(super) const WIDTH: usize = 8;

/// The same word of every message.
pub(super) type Words = [u32; WIDTH];

/// The state of every message at its end, given the messages one behind the other and the bytes of one, which are a
/// multiple of [`PART`].
pub(super) type Hash = fn(&[u8], usize) -> [Words; 8];
