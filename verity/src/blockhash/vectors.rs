//! The compression function of SHA-256 on eight messages at a time: FIPS 180-4 with a vector wherever it has a word.
//!
//! Written with the processor's own vectors, because the compiler makes less than half as much of arrays of words. The
//! intrinsics that are used have no requirements but the processor's features, so they are safe where those are
//! enabled; with AVX-512VL the compiler turns pairs of shifts into rotations, and pairs of logical operations into one.

/// Calls a function with each number below 16 known when it is compiled: a vector whose place in an array is found out
/// at run time cannot be in a register.
macro_rules! sixteen_times {
    ($f:ident, $args:tt) => {
        sixteen_times!($f, $args, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($f:ident, $args:tt, $($i:literal)*) => { $( $f::<$i> $args; )* };
}

/// The same code for processors with these features: functions that are inlined must have those of their caller.
macro_rules! for_processors_with {
    ($name:ident, $features:literal) => {
        pub(super) mod $name {
            use std::arch::x86_64::{
                __m256i, _mm256_add_epi32 as add, _mm256_and_si256 as and,
                _mm256_extract_epi32 as word, _mm256_or_si256 as or,
                _mm256_permute2x128_si256 as halves, _mm256_set1_epi32, _mm256_setr_epi8,
                _mm256_setr_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32,
                _mm256_srli_epi32, _mm256_unpackhi_epi32 as high,
                _mm256_unpackhi_epi64 as high_pairs, _mm256_unpacklo_epi32 as low,
                _mm256_unpacklo_epi64 as low_pairs, _mm256_xor_si256 as xor,
            };
            use std::array::from_fn;

            use crate::blockhash::constants::{K, START};
            use crate::blockhash::messages::{PART, WIDTH, Words};

            /// A [`Hash`](crate::blockhash::messages::Hash).
            #[target_feature(enable = $features)]
            pub(in crate::blockhash) fn hash(messages: &[u8], stride: usize) -> [Words; 8] {
                let mut state = START.map(|word| all(word));
                for at in (0..stride).step_by(PART) {
                    let mut schedule = load(messages, stride, at);
                    let mut next = state;
                    for (i, k) in K.as_chunks::<16>().0.iter().enumerate() {
                        if i > 0 {
                            sixteen_times!(extend, (&mut schedule));
                        }
                        sixteen_times!(round, (&mut next, &schedule, k));
                    }
                    state = from_fn(|i| add(state[i], next[i]));
                }
                state.map(|v| words(v))
            }

            /// Round `I`, and those that are a multiple of 16 later (section 6.2.2, step 3). Nothing moves from a to b:
            /// in the next round another place is a.
            #[inline]
            #[target_feature(enable = $features)]
            fn round<const I: usize>(
                state: &mut [__m256i; 8],
                schedule: &[__m256i; 16],
                k: &[u32; 16],
            ) {
                let place = |role: usize| (role + 16 - I) % 8;
                let [a, b, c, d, e, f, g, h] = from_fn(|role| state[place(role)]);
                let big_1 = xor(xor(rotate::<6, 26>(e), rotate::<11, 21>(e)), rotate::<25, 7>(e));
                let choice = xor(g, and(e, xor(f, g)));
                // What depends on the round before comes last.
                let t1 = add(add(add(h, add(schedule[I], all(k[I]))), choice), big_1);
                let big_0 = xor(xor(rotate::<2, 30>(a), rotate::<13, 19>(a)), rotate::<22, 10>(a));
                let majority = xor(and(a, b), and(c, xor(a, b)));
                state[place(3)] = add(d, t1);
                state[place(7)] = add(t1, add(big_0, majority));
            }

            /// Word `I` of the schedule becomes the one 16 later (section 6.2.2, step 1).
            #[inline]
            #[target_feature(enable = $features)]
            fn extend<const I: usize>(schedule: &mut [__m256i; 16]) {
                let (old, recent) = (schedule[(I + 1) % 16], schedule[(I + 14) % 16]);
                let small_0 = xor(
                    xor(rotate::<7, 25>(old), rotate::<18, 14>(old)),
                    _mm256_srli_epi32::<3>(old),
                );
                let small_1 = xor(
                    xor(rotate::<17, 15>(recent), rotate::<19, 13>(recent)),
                    _mm256_srli_epi32::<10>(recent),
                );
                let sum = add(schedule[I], schedule[(I + 9) % 16]);
                schedule[I] = add(sum, add(small_0, small_1));
            }

            /// To the right by the first number; the second is what is missing to 32.
            #[inline]
            #[target_feature(enable = $features)]
            fn rotate<const RIGHT: i32, const LEFT: i32>(a: __m256i) -> __m256i {
                or(_mm256_srli_epi32::<RIGHT>(a), _mm256_slli_epi32::<LEFT>(a))
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn all(word: u32) -> __m256i {
                _mm256_set1_epi32(word.cast_signed())
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn words(v: __m256i) -> Words {
                let words = [
                    word::<0>(v),
                    word::<1>(v),
                    word::<2>(v),
                    word::<3>(v),
                    word::<4>(v),
                    word::<5>(v),
                    word::<6>(v),
                    word::<7>(v),
                ];
                words.map(i32::cast_unsigned)
            }

            /// The part at `at` of every message, as words.
            #[inline]
            #[target_feature(enable = $features)]
            fn load(messages: &[u8], stride: usize, at: usize) -> [__m256i; 16] {
                let mut schedule = [_mm256_setzero_si256(); 16];
                for (half, to) in schedule.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
                    *to = columns(from_fn(|lane| {
                        let from = lane * stride + at + half * PART / 2;
                        row(messages.get(from..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; 32]))
                    }));
                }
                schedule
            }

            /// Eight words of one message.
            #[inline]
            #[target_feature(enable = $features)]
            fn row(bytes: &[u8; 32]) -> __m256i {
                let w: [i32; 8] = from_fn(|i| bytes.as_chunks::<4>().0[i]).map(i32::from_ne_bytes);
                let row = _mm256_setr_epi32(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]);
                // The words of SHA-256 are big-endian.
                let swapped = _mm256_setr_epi8(
                    3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 3, 2, 1, 0, 7, 6, 5, 4,
                    11, 10, 9, 8, 15, 14, 13, 12,
                );
                _mm256_shuffle_epi8(row, swapped)
            }

            /// The first words of all rows, the second ones, and so on.
            #[inline]
            #[target_feature(enable = $features)]
            fn columns(rows: [__m256i; 8]) -> [__m256i; 8] {
                // Columns 0 to 3 of four rows, with columns 4 to 7 in the upper halves.
                let quarter = |[p, q, r, s]: [__m256i; 4]| {
                    let [low_0, high_0, low_1, high_1] =
                        [low(p, q), high(p, q), low(r, s), high(r, s)];
                    [
                        low_pairs(low_0, low_1),
                        high_pairs(low_0, low_1),
                        low_pairs(high_0, high_1),
                        high_pairs(high_0, high_1),
                    ]
                };
                let [p, q, r, s, t, u, v, w] = rows;
                let (first, last) = (quarter([p, q, r, s]), quarter([t, u, v, w]));
                from_fn(|i| match i {
                    0..4 => halves::<0x20>(first[i], last[i]),
                    _ => halves::<0x31>(first[i - 4], last[i - 4]),
                })
            }
        }
    };
}

for_processors_with!(avx2, "avx2");
for_processors_with!(avx512, "avx512f,avx512vl");
