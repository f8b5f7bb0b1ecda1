//! The only `unsafe` of this crate: functions for processors with some feature, once this one is known to have it.
#![allow(unsafe_code)]

use super::messages::Hash;
#[cfg(target_arch = "x86_64")]
use super::pairs;
#[cfg(target_arch = "x86_64")]
use super::vectors::{avx2, avx512};

/// What this processor can do, the fastest first.
#[cfg(target_arch = "x86_64")]
pub(super) fn hashes() -> impl Iterator<Item = Hash> {
    let has_sha = std::is_x86_feature_detected!("sha") && std::is_x86_feature_detected!("sse4.1");
    // The vectors are the same 32 bytes, which slow no processor down as those of 64 bytes do.
    let has_512 =
        std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512vl");
    let has_2 = std::is_x86_feature_detected!("avx2");
    // SAFETY: only called on a processor that has the features of the function.
    let by_sha: Hash = |messages, stride| unsafe { pairs::hash(messages, stride) };
    // SAFETY: only called on a processor that has the features of the function.
    let by_512: Hash = |messages, stride| unsafe { avx512::hash(messages, stride) };
    // SAFETY: only called on a processor that has the feature of the function.
    let by_2: Hash = |messages, stride| unsafe { avx2::hash(messages, stride) };
    [has_sha.then_some(by_sha), has_512.then_some(by_512), has_2.then_some(by_2)]
        .into_iter()
        .flatten()
}

/// What this processor can do: nothing that the crate `sha2` does not do as well.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn hashes() -> impl Iterator<Item = Hash> {
    std::iter::empty()
}
