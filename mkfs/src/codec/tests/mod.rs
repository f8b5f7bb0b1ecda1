//! Every codec beside its judge, on what the encoders of the same crates write, and on what is left of that when bytes of it
//! change.
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod judge;

use proptest::prelude::*;

use super::*;

const DICT: u32 = 1 << 16;
const CODECS: [Codec; 5] = [
    Codec::Lz4 { is_padded: true },
    Codec::Lz4 { is_padded: false },
    Codec::Lzma { dict_size: DICT },
    Codec::Deflate,
    Codec::Zstd { window_size: 1 << 17 },
];

/// Compressed bytes as an image has them, without padding.
fn encode(codec: Codec, content: &[u8]) -> Vec<u8> {
    match codec {
        Codec::Lz4 { .. } => lz4_flex::block::compress(content),
        Codec::Lzma { .. } => micro_lzma(content),
        Codec::Deflate => miniz_oxide::deflate::compress_to_vec(content, 6),
        Codec::Zstd { .. } => {
            ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
        }
    }
}

/// The raw stream in a file of LZMA, with the complement of the properties for its first byte.
fn micro_lzma(content: &[u8]) -> Vec<u8> {
    let options = lzma_rs::compress::Options {
        unpacked_size: lzma_rs::compress::UnpackedSize::SkipWritingToHeader,
    };
    let mut file = Vec::new();
    let mut content = content;
    lzma_rs::lzma_compress_with_options(&mut content, &mut file, &options).unwrap();
    // Properties and the size of the dictionary; then the stream, which begins with zero.
    let (header, stream) = file.split_at(5);
    let mut micro = stream.to_vec();
    assert_eq!(micro[0], 0);
    micro[0] = !header[0];
    micro
}

/// What a codec and its judge both say.
fn both(codec: Codec, cluster: &[u8], share: Share, len: u64) -> Result<Vec<u8>, String> {
    let ours = codec.decode(cluster, share, len).map_err(|error| error.to_string());
    assert_eq!(ours, judge::decode(codec, cluster, share, len), "{codec:?} {share:?} {len}");
    ours
}

/// A cluster with zeros before the compressed bytes, or behind them where the codec allows only that.
fn padded(codec: Codec, encoded: &[u8], zeros: usize) -> Vec<u8> {
    let zeros = vec![0; zeros];
    match codec {
        Codec::Lz4 { is_padded: false } => [encoded, &zeros].concat(),
        _ => [&zeros, encoded].concat(),
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * i / 7 + i / 300) % 251).unwrap()).collect()
}

#[test]
fn extents_are_decoded_whole_and_in_part() {
    for codec in CODECS {
        for len in [1, 2, 100, 4096, 70_000] {
            let content = content(len);
            let encoded = encode(codec, &content);
            for zeros in [0, 1, 700] {
                let cluster = padded(codec, &encoded, zeros);
                let wanted = [len, len / 2, 1];
                for (share, wanted) in
                    [Share::Prefix; 3].into_iter().zip(wanted).chain([(Share::Whole, len)])
                {
                    let got = both(codec, &cluster, share, wanted as u64);
                    let at = format!("{codec:?} {share:?} {wanted} of {len}, {zeros} zeros");
                    assert_eq!(got.as_deref(), Ok(&content[..wanted]), "{at}");
                }
            }
        }
    }
}

#[test]
fn sizes_have_bounds() {
    for codec in CODECS {
        let large = usize::try_from(PCLUSTER_MAX).unwrap() + 1;
        for (cluster, len) in [(0, 1), (1, DECODED_MAX + 1), (1, u64::MAX), (large, 1)] {
            let error = codec.decode(&vec![1; cluster], Share::Whole, len).unwrap_err();
            assert!(matches!(error, CodecError::Size { .. }), "{codec:?}: {error}");
        }
        let nothing = codec.decode(&[0; 512], Share::Whole, 1);
        assert!(nothing.is_err(), "{codec:?}");
    }
}

#[test]
fn what_is_left_over_is_an_error_of_a_whole_extent_alone() {
    for codec in CODECS {
        let content = content(5000);
        let cluster = encode(codec, &content);
        assert_eq!(both(codec, &cluster, Share::Prefix, 4999).as_deref(), Ok(&content[..4999]));
        let is_open = codec == Codec::Lz4 { is_padded: false };
        assert_eq!(both(codec, &cluster, Share::Whole, 4999).is_ok(), is_open, "{codec:?}");
        for share in [Share::Whole, Share::Prefix] {
            assert!(both(codec, &cluster, share, 5001).is_err(), "{codec:?} {share:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever the bytes are: the same bytes come out, or the same error.
    #[test]
    fn a_codec_and_its_judge_agree(
        codec in proptest::sample::select(CODECS.to_vec()),
        is_prefix in any::<bool>(),
        runs in proptest::collection::vec((0_u8..6, 1_usize..40), 1..200),
        zeros in 0_usize..20,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in 0_usize..4,
        wanted in any::<prop::sample::Index>(),
    ) {
        let share = if is_prefix { Share::Prefix } else { Share::Whole };
        let content: Vec<u8> = runs.into_iter().flat_map(|(byte, len)| vec![byte; len]).collect();
        let mut cluster = padded(codec, &encode(codec, &content), zeros);
        for (at, byte) in changes {
            let at = at.index(cluster.len());
            cluster[at] ^= byte;
        }
        cluster.truncate(cluster.len().saturating_sub(cut).max(1));
        let len = if is_prefix { wanted.index(content.len()) + 1 } else { content.len() };
        let _ = both(codec, &cluster, share, len as u64);
    }
}
