//! SHA-256 of eight messages of one length, beside each other.
#![expect(clippy::big_endian_bytes, reason = "SHA-256 is defined on big-endian words")]

use super::messages::{DIGEST, Hash, PART, WIDTH};
use super::sys;

/// Room for the messages: salt, block and padding, one behind the other.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    hash: Hash,
    messages: Vec<u8>,
    /// Bytes of a message.
    stride: usize,
    /// Where the block begins in its message.
    salt: usize,
}

impl Lanes {
    /// For blocks of `block` bytes behind `salt`; nothing on a processor that has no vectors for it.
    pub(super) fn new(salt: &[u8], block: usize) -> Option<Self> {
        sys::hashes().next().map(|hash| Self::with(hash, salt, block))
    }

    fn with(hash: Hash, salt: &[u8], block: usize) -> Self {
        let len = salt.len() + block;
        // Section 5.1.1: a bit, zeroes, and the length in bits.
        let stride = (len + 1 + 8).next_multiple_of(PART);
        let mut message = vec![0; stride];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = message.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(0, salt);
        put(len, &[0x80]);
        put(stride - 8, &(len as u64 * 8).to_be_bytes());
        Self { hash, messages: message.repeat(WIDTH), stride, salt: salt.len() }
    }

    /// Appends the digests of [`WIDTH`] blocks of `block` bytes to `out`.
    pub(super) fn digest(&mut self, blocks: &[u8], block: usize, out: &mut Vec<u8>) {
        let messages = self.messages.chunks_exact_mut(self.stride);
        for (message, block) in messages.zip(blocks.chunks_exact(block)) {
            if let Some(content) = message.get_mut(self.salt..self.salt + block.len()) {
                content.copy_from_slice(block);
            }
        }
        let state = (self.hash)(&self.messages, self.stride);
        for lane in 0..WIDTH {
            for words in &state {
                out.extend_from_slice(&words[lane].to_be_bytes());
            }
        }
        debug_assert_eq!(out.len() % DIGEST, 0);
    }
}

/// For every kind of vectors that this processor has.
#[cfg(test)]
pub(super) fn every(salt: &[u8], block: usize) -> Vec<Lanes> {
    sys::hashes().map(|hash| Lanes::with(hash, salt, block)).collect()
}
