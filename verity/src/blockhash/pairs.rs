//! The compression function of SHA-256 on two messages at a time, with the processor's instructions for it.
//!
//! Each of those needs what the one before gave, and takes longer than the processor needs to begin the next: with one
//! message it waits half of the time. Linux does the same for its fs-verity and dm-verity (`sha256_finup_2x`).

use std::arch::x86_64::{
    __m128i, _mm_add_epi32 as add, _mm_alignr_epi8 as behind, _mm_extract_epi32 as word,
    _mm_set_epi32, _mm_setr_epi8, _mm_setr_epi32, _mm_setzero_si128, _mm_sha256msg1_epu32 as begin,
    _mm_sha256msg2_epu32 as end, _mm_sha256rnds2_epu32 as rounds, _mm_shuffle_epi8,
    _mm_shuffle_epi32,
};
use std::array::from_fn;

use super::constants::{K, START};
use super::messages::{PART, WIDTH, Words};

/// Messages that are hashed at the same time.
const PAIR: usize = 2;

/// The words of a message's state, as the instructions want them: a, b, e, f and c, d, g, h, the last one lowest.
type State = [__m128i; 2];

/// A [`Hash`](super::messages::Hash).
#[target_feature(enable = "sha,sse4.1")]
pub(super) fn hash(messages: &[u8], stride: usize) -> [Words; 8] {
    let mut all = [[0; WIDTH]; 8];
    for (pair, messages) in messages.chunks_exact(PAIR * stride).enumerate() {
        let (first, second) = messages.split_at(stride);
        for (lane, words) in two([first, second]).into_iter().enumerate() {
            for (of_all, word) in all.iter_mut().zip(words) {
                of_all[(pair * PAIR + lane) % WIDTH] = word;
            }
        }
    }
    all
}

/// The states of two messages at their end.
#[target_feature(enable = "sha,sse4.1")]
fn two([first, second]: [&[u8]; PAIR]) -> [[u32; 8]; PAIR] {
    let [a, b, c, d, e, f, g, h] = START.map(u32::cast_signed);
    let start = [_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h)];
    let mut states: [State; PAIR] = [start; PAIR];
    for parts in first.as_chunks::<PART>().0.iter().zip(second.as_chunks::<PART>().0) {
        let mut schedules = [load(parts.0), load(parts.1)];
        let mut next = states;
        for (i, k) in K.as_chunks::<16>().0.iter().enumerate() {
            four_rounds::<0>(i, k, &mut schedules, &mut next);
            four_rounds::<1>(i, k, &mut schedules, &mut next);
            four_rounds::<2>(i, k, &mut schedules, &mut next);
            four_rounds::<3>(i, k, &mut schedules, &mut next);
        }
        states = from_fn(|lane| from_fn(|half| add(states[lane][half], next[lane][half])));
    }
    states.map(|state| words(state))
}

/// Rounds `4 * I` and the three behind it of the `turn`th sixteen, of both messages (section 6.2.2, steps 1 and 3).
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn four_rounds<const I: usize>(
    turn: usize,
    k: &[u32; 16],
    schedules: &mut [[__m128i; 4]; PAIR],
    states: &mut [State; PAIR],
) {
    let k: [i32; 4] = from_fn(|i| k[4 * I + i].cast_signed());
    let k = _mm_setr_epi32(k[0], k[1], k[2], k[3]);
    for (schedule, [abef, cdgh]) in schedules.iter_mut().zip(states) {
        if turn > 0 {
            let [one, two, three] = from_fn(|n| schedule[(I + 1 + n) % 4]);
            let sum = add(begin(schedule[I], one), behind::<4>(three, two));
            schedule[I] = end(sum, three);
        }
        let input = add(schedule[I], k);
        // Two rounds turn one half of the state into the other.
        *cdgh = rounds(*cdgh, *abef, input);
        *abef = rounds(*abef, *cdgh, _mm_shuffle_epi32::<0x0e>(input));
    }
}

/// The words of a part, which are big-endian.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn load(part: &[u8; PART]) -> [__m128i; 4] {
    let swapped = _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
    let mut schedule = [_mm_setzero_si128(); 4];
    for (to, bytes) in schedule.iter_mut().zip(part.as_chunks::<16>().0) {
        let w: [i32; 4] = from_fn(|i| bytes.as_chunks::<4>().0[i]).map(i32::from_ne_bytes);
        *to = _mm_shuffle_epi8(_mm_setr_epi32(w[0], w[1], w[2], w[3]), swapped);
    }
    schedule
}

/// The state, a first.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn words([abef, cdgh]: State) -> [u32; 8] {
    let words = [
        word::<3>(abef),
        word::<2>(abef),
        word::<3>(cdgh),
        word::<2>(cdgh),
        word::<1>(abef),
        word::<0>(abef),
        word::<1>(cdgh),
        word::<0>(cdgh),
    ];
    words.map(i32::cast_unsigned)
}
