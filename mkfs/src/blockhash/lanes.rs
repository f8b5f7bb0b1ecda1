//! SHA-256 of eight messages of one length, beside each other: FIPS 180-4 with a vector wherever it has a word.
#![expect(clippy::big_endian_bytes, reason = "SHA-256 is defined on big-endian words")]

use multiversion::multiversion;

use super::DIGEST;

/// Messages that are hashed at the same time: as many words as a vector of AVX2 has.
pub(super) const WIDTH: usize = 8;

/// Bytes that the compression function takes.
const PART: usize = 64;

/// The same word of every message.
type Words = [u32; WIDTH];

/// Section 4.2.2.
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// Section 5.3.3.
#[rustfmt::skip]
const START: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/// Room for the messages: salt, block and padding, one behind the other.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    messages: Vec<u8>,
    /// Bytes of a message.
    stride: usize,
    /// Where the block begins in its message.
    salt: usize,
}

impl Lanes {
    /// For blocks of `block` bytes behind `salt`.
    pub(super) fn new(salt: &[u8], block: usize) -> Self {
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
        Self { messages: message.repeat(WIDTH), stride, salt: salt.len() }
    }

    /// Appends the digests of [`WIDTH`] blocks of `block` bytes to `out`.
    pub(super) fn digest(&mut self, blocks: &[u8], block: usize, out: &mut Vec<u8>) {
        let messages = self.messages.chunks_exact_mut(self.stride);
        for (message, block) in messages.zip(blocks.chunks_exact(block)) {
            if let Some(content) = message.get_mut(self.salt..self.salt + block.len()) {
                content.copy_from_slice(block);
            }
        }
        let state = hash(&self.messages, self.stride);
        for lane in 0..WIDTH {
            for words in &state {
                out.extend_from_slice(&words[lane].to_be_bytes());
            }
        }
        debug_assert_eq!(out.len() % DIGEST, 0);
    }
}

/// Section 6.2: the state of every message at its end.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw", "x86_64+avx2"))]
fn hash(messages: &[u8], stride: usize) -> [Words; 8] {
    let mut state = START.map(|word| [word; WIDTH]);
    for at in (0..stride).step_by(PART) {
        let mut schedule = load(messages, stride, at);
        compress(&mut state, &mut schedule);
    }
    state
}

/// The part at `at` of every message, as words.
#[inline(always)]
fn load(messages: &[u8], stride: usize, at: usize) -> [Words; 16] {
    let mut rows = [[0; 16]; WIDTH];
    for (row, message) in rows.iter_mut().zip(messages.chunks_exact(stride)) {
        let part = message.get(at..).unwrap_or_default();
        let (words, _) = part.as_chunks::<4>();
        for (to, from) in row.iter_mut().zip(words) {
            *to = u32::from_be_bytes(*from);
        }
    }
    std::array::from_fn(|word| std::array::from_fn(|lane| rows[lane][word]))
}

/// Sections 6.2.2 and 4.1.2. `schedule` is the message, of which the words that are needed no more are replaced.
#[inline(always)]
fn compress(state: &mut [Words; 8], schedule: &mut [Words; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for t in 0..64 {
        if t >= 16 {
            let (w15, w2) = (schedule[(t + 1) % 16], schedule[(t + 14) % 16]);
            let s0 = xor(xor(rotate(w15, 7), rotate(w15, 18)), shift(w15, 3));
            let s1 = xor(xor(rotate(w2, 17), rotate(w2, 19)), shift(w2, 10));
            let sum = add(schedule[t % 16], schedule[(t + 9) % 16]);
            schedule[t % 16] = add(sum, add(s0, s1));
        }
        let s1 = xor(xor(rotate(e, 6), rotate(e, 11)), rotate(e, 25));
        let choice = xor(g, and(e, xor(f, g)));
        let t1 = add(add(add(h, s1), add(choice, [K[t]; WIDTH])), schedule[t % 16]);
        let s0 = xor(xor(rotate(a, 2), rotate(a, 13)), rotate(a, 22));
        let majority = xor(and(a, b), and(c, xor(a, b)));
        (h, g, f, e) = (g, f, e, add(d, t1));
        (d, c, b, a) = (c, b, a, add(t1, add(s0, majority)));
    }
    for (old, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *old = add(*old, new);
    }
}

#[inline(always)]
fn each(a: Words, b: Words, op: impl Fn(u32, u32) -> u32) -> Words {
    std::array::from_fn(|lane| op(a[lane], b[lane]))
}

#[inline(always)]
fn add(a: Words, b: Words) -> Words {
    each(a, b, u32::wrapping_add)
}

#[inline(always)]
fn xor(a: Words, b: Words) -> Words {
    each(a, b, |a, b| a ^ b)
}

#[inline(always)]
fn and(a: Words, b: Words) -> Words {
    each(a, b, |a, b| a & b)
}

#[inline(always)]
fn rotate(a: Words, bits: u32) -> Words {
    a.map(|word| word.rotate_right(bits))
}

#[inline(always)]
fn shift(a: Words, bits: u32) -> Words {
    a.map(|word| word >> bits)
}
