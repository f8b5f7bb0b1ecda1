//! The cases Z01 to Z14. The gzip table runs over every inflater there is and over inputs cut at every size.

use std::io::{Read, Write};
use std::time::Duration;

use super::gzip::Gzip;
use super::inflate::{RawInflate, ZlibRs};
use super::zstd::Zstd;
use super::{Budget, Cancel, Decoder, Digests, LayerStream, Request};
use crate::error::LayerError;
use crate::testing::gzip;
use crate::{Compression, Digest, Error, LayerType, Result};

type MakeInflate = fn() -> Box<dyn RawInflate>;

fn inflaters() -> Vec<(&'static str, MakeInflate)> {
    vec![
        ("zlib-rs", || Box::new(ZlibRs::new())),
        #[cfg(all(feature = "isal", target_arch = "x86_64"))]
        ("isal", || Box::new(crate::sys::isal::Inflater::new())),
    ]
}

fn zst(data: &[u8]) -> Vec<u8> {
    zstd_frame(data, true)
}

fn zstd_frame(data: &[u8], checksum: bool) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(checksum).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn skippable(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [&0x184d_2a53_u32.to_le_bytes()[..], &len.to_le_bytes(), payload].concat()
}

/// Compressible, but not trivially.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes()[..usize::try_from(state % 8).unwrap()]);
        out.extend_from_slice(b"usr/share/doc/");
    }
    out.truncate(len);
    out
}

/// Feeds `input` in pieces of `cut` bytes and takes output in pieces of `room`.
fn run(mut decoder: impl Decoder, input: &[u8], cut: usize, room: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut buf = vec![0; room];
    for piece in input.chunks(cut) {
        let mut rest = piece;
        loop {
            let step = decoder.step(rest, &mut buf)?;
            rest = &rest[step.used..];
            out.extend_from_slice(&buf[..step.made]);
            if step.made < room {
                assert!(rest.is_empty(), "input left with room for output");
                break;
            }
        }
    }
    decoder.end()?;
    Ok(out)
}

type Expect = std::result::Result<Vec<u8>, (&'static str, u64)>;

fn check_gzip(what: &str, input: &[u8], expect: &Expect) {
    for (name, make) in inflaters() {
        for (cut, room) in [(1, 1), (1, 4096), (7, 3), (64, 65536), (9000, 100), (1 << 20, 1 << 20)]
        {
            let got = run(Gzip::new(make()), input, cut, room);
            check(&format!("{what}, {name}, cut {cut}, room {room}"), got, expect);
        }
    }
}

fn check_zstd(what: &str, input: &[u8], expect: &Expect) {
    for (cut, room) in [(1, 1), (1, 4096), (7, 3), (64, 65536), (9000, 100), (1 << 20, 1 << 20)] {
        let got = run(Zstd::new(27).unwrap(), input, cut, room);
        check(&format!("{what}, cut {cut}, room {room}"), got, expect);
    }
}

fn check(what: &str, got: Result<Vec<u8>>, expect: &Expect) {
    match (got, expect) {
        (Ok(got), Ok(expect)) => assert!(got == *expect, "{what}: other bytes"),
        (Err(error), Err((code, at))) => {
            assert_eq!(error.code(), *code, "{what}");
            let Error::Layer(LayerError::Corrupt { offset, .. }) = error else {
                panic!("{what}: no offset")
            };
            // Where a decoder notices bad data depends on the decoder.
            assert!(offset == *at || *code == "decode-bad-data", "{what}: at {offset}, not {at}");
        }
        (Ok(_), Err((code, _))) => panic!("{what}: accepted, expected {code}"),
        (Err(error), Ok(_)) => panic!("{what}: {error}"),
    }
}

#[test]
fn z01_all_members_are_read_empty_ones_too() {
    let (a, b) = (sample(70_000), sample(3));
    let (empty, none): (_, &[u8]) = (gzip(b""), b"");
    check_gzip("one", &gzip(&a), &Ok(a.clone()));
    check_gzip("empty", &empty, &Ok(none.to_vec()));
    let members = [gzip(&a), empty.clone(), gzip(&b), empty].concat();
    check_gzip("four", &members, &Ok([a, b].concat()));
    let many: Vec<u8> = (0..=255).cycle().take(300).flat_map(|i| gzip(&[i])).collect();
    check_gzip("many", &many, &Ok((0..=255).cycle().take(300).collect()));
}

#[test]
fn z01_optional_header_fields_are_passed_over() {
    let body = &gzip(b"content")[10..];
    let mut header = vec![0x1f, 0x8b, 8, 0b1_1111, 0, 0, 0, 0, 0, 3];
    header.extend_from_slice(&[5, 0, 1, 2, 3, 4, 5]);
    header.extend_from_slice(b"layer.tar\0a comment\0");
    let mut crc = flate2::Crc::new();
    crc.update(&header);
    let sum = u16::try_from(crc.sum() & 0xffff).unwrap();
    let good = [&header[..], &sum.to_le_bytes(), body].concat();
    check_gzip("all fields", &good, &Ok(b"content".to_vec()));
    let bad = [&header[..], &(!sum).to_le_bytes(), body].concat();
    check_gzip("header checksum", &bad, &Err(("decode-bad-header", 0)));
    for (at, value) in [(2, 7), (3, 0x20), (3, 0x80)] {
        let mut bad = gzip(b"content");
        bad[at] = value;
        check_gzip("method or reserved flag", &bad, &Err(("decode-bad-header", 0)));
    }
}

#[test]
fn z02_bytes_behind_the_last_member_are_refused_with_their_offset() {
    let data = sample(50_000);
    let good = gzip(&data);
    let end = good.len() as u64;
    for tail in [&[0u8; 512][..], &[0], b"garbage", &[0x1f, 0x8c], &[0x1f, 0x1f, 0x8b, 8]] {
        let bad = [&good, tail].concat();
        check_gzip("tail", &bad, &Err(("decode-trailing-garbage", end)));
        let two = [&good, &good, tail].concat();
        check_gzip("tail of two", &two, &Err(("decode-trailing-garbage", 2 * end)));
    }
    check_gzip("no member at all", b"garbage", &Err(("decode-bad-magic", 0)));
}

#[test]
fn z03_checksum_length_and_truncation_are_noticed() {
    let data = sample(200_000);
    let good = gzip(&data);
    let trailer = good.len() - 8;
    let flip = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        bad
    };
    for at in trailer..trailer + 4 {
        check_gzip("crc", &flip(at), &Err(("decode-bad-checksum", trailer as u64)));
    }
    for at in trailer + 4..trailer + 8 {
        check_gzip("isize", &flip(at), &Err(("decode-bad-length", trailer as u64)));
    }
    for len in [1, 2, 9, 10, 11, good.len() / 2, trailer, trailer + 1, trailer + 7] {
        let expect = Err(("decode-truncated", len as u64));
        check_gzip(&format!("first {len}"), &good[..len], &expect);
    }
    check_gzip("nothing", b"", &Err(("decode-truncated", 0)));
}

#[test]
fn z03_a_damaged_body_never_passes() {
    let data = sample(20_000);
    let good = gzip(&data);
    for (name, make) in inflaters() {
        for at in 10..good.len() - 8 {
            let mut bad = good.clone();
            bad[at] ^= 0x04;
            let got = run(Gzip::new(make()), &bad, 1000, 5000);
            assert!(got.is_err(), "{name}: flipped bit in byte {at} passed");
        }
    }
}

#[test]
fn z04_frames_and_skippable_frames_in_any_order() {
    let (a, b) = (sample(300_000), sample(10));
    let skip = skippable(b"table of contents");
    let both = [a.clone(), b.clone()].concat();
    check_zstd("one", &zst(&a), &Ok(a.clone()));
    check_zstd("two", &[zst(&a), zst(&b)].concat(), &Ok(both.clone()));
    check_zstd("empty between", &[zst(&a), zst(b""), zst(&b)].concat(), &Ok(both.clone()));
    let all = [&skip[..], &zst(&a), &skip, &skippable(b""), &zst(&b), &skip].concat();
    check_zstd("skippable first, mid, last", &all, &Ok(both));
}

#[test]
fn z05_only_skippable_frames_are_an_empty_layer_and_nothing_is_not() {
    check_zstd("only skippable", &skippable(b"x"), &Ok(Vec::new()));
    check_zstd("empty frame", &zst(b""), &Ok(Vec::new()));
    check_zstd("nothing", b"", &Err(("decode-truncated", 0)));
}

/// A frame with the given window, as a power of two, and no content.
fn window(log: u8) -> Vec<u8> {
    vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3, 0x01, 0x00, 0x00]
}

#[test]
fn z06_windows_above_the_limit_are_refused() {
    check_zstd("2^27", &window(27), &Ok(Vec::new()));
    for log in 28..=31 {
        check_zstd("above", &window(log), &Err(("decode-window-too-large", 0)));
    }
    let got = run(Zstd::new(31).unwrap(), &window(31), 100, 100);
    assert!(got.is_ok(), "an option lifts the limit");
}

#[test]
fn z07_dictionaries_checksums_and_trailing_bytes_are_refused() {
    let dictionary = [0x28, 0xb5, 0x2f, 0xfd, 0x21, 0x07, 0x00, 0x01, 0x00, 0x00];
    check_zstd("dictionary id", &dictionary, &Err(("decode-needs-dictionary", 0)));
    let good = zst(&sample(100_000));
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    check_zstd("checksum", &bad, &Err(("decode-bad-checksum", 0)));
    let second = [&good[..], &bad].concat();
    check_zstd("second", &second, &Err(("decode-bad-checksum", good.len() as u64)));
    for tail in [&[0u8; 512][..], b"garbage!"] {
        let bad = [&good[..], tail].concat();
        check_zstd("tail", &bad, &Err(("decode-trailing-garbage", good.len() as u64)));
    }
    for len in [1, 4, 5, 100, good.len() - 1] {
        check_zstd("truncated", &good[..len], &Err(("decode-truncated", len as u64)));
    }
    check_zstd("garbage", b"garbage!", &Err(("decode-bad-magic", 0)));
}

fn tar_type(compression: Compression) -> Option<LayerType> {
    Some(LayerType::Tar { compression, nondistributable: false })
}

fn decode(blob: Vec<u8>, request: Request) -> Result<(Vec<u8>, super::DecodedBlob)> {
    let mut stream = LayerStream::open(std::io::Cursor::new(blob), request)?;
    let mut out = Vec::new();
    if let Err(told) = stream.read_to_end(&mut out) {
        return Err(stream.take_error().unwrap_or_else(|| panic!("{told}")));
    }
    Ok((out, stream.finish()?))
}

/// A tar archive is anything that begins with a zero block as far as decoding is concerned.
fn archive(len: usize) -> Vec<u8> {
    [vec![0; 1024], sample(len)].concat()
}

fn expecting(blob: &[u8], content: &[u8]) -> Request {
    Request {
        blob: Some((Digest::of(blob), blob.len() as u64)),
        diff_id: Some(Digest::of(content)),
        ..Request::default()
    }
}

#[test]
fn the_pipeline_hashes_both_sides() {
    let content = archive(3_000_000);
    for (blob, compression) in [
        (content.clone(), Compression::None),
        (gzip(&content), Compression::Gzip),
        (zst(&content), Compression::Zstd),
    ] {
        let request = expecting(&blob, &content);
        let (out, decoded) = decode(blob.clone(), request).unwrap();
        assert!(out == content);
        assert_eq!(decoded.compression, compression);
        assert_eq!(decoded.blob, Some(Digest::of(&blob)));
        assert_eq!(decoded.blob_size, blob.len() as u64);
        assert_eq!(decoded.diff_id, Some(Digest::of(&content)));
        assert_eq!(decoded.size, content.len() as u64);
    }
}

#[test]
fn digests_are_computed_as_wanted() {
    let content = archive(1000);
    for blob in [content.clone(), gzip(&content), zst(&content)] {
        let digests = |digests| {
            let request = Request { digests, ..Request::default() };
            let (out, decoded) = decode(blob.clone(), request).unwrap();
            assert!(out == content);
            (decoded.blob, decoded.diff_id)
        };
        let (of_blob, of_content) = (Some(Digest::of(&blob)), Some(Digest::of(&content)));
        assert_eq!(digests(Digests::Both), (of_blob, of_content.clone()));
        assert_eq!(digests(Digests::DiffId), (None, of_content));
        assert_eq!(digests(Digests::Expected), (None, None));
    }
}

#[test]
fn d09_digests_of_either_algorithm_are_verified() {
    let content = archive(1000);
    let mut hasher = crate::Hasher::new(crate::Algorithm::Sha512);
    hasher.update(&content);
    let sha512 = hasher.finish();
    for blob in [content.clone(), gzip(&content)] {
        let mut request = expecting(&blob, &content);
        request.diff_id = Some(sha512.clone());
        let (_, decoded) = decode(blob, request).unwrap();
        assert_eq!(decoded.diff_id, Some(sha512.clone()));
    }
}

#[test]
fn z08_bombs_stop_at_the_budget() {
    let same = vec![b'A'; 16 << 20];
    let blobs = |content: &[u8]| [gzip(content), zst(content)];
    for blob in blobs(&same) {
        for (budget, code) in [
            (Budget { max_output: 1 << 20, ..Budget::default() }, "budget-output"),
            (Budget { ratio_floor: 1 << 20, ..Budget::default() }, "budget-ratio"),
            (Budget { max_time: Some(Duration::ZERO), ..Budget::default() }, "budget-time"),
        ] {
            let request = Request { budget, ..Request::default() };
            assert_eq!(decode(blob.clone(), request).unwrap_err().code(), code);
        }
        let any = Budget { max_ratio: None, ratio_floor: 0, ..Budget::default() };
        for budget in [Budget::default(), any] {
            let request = Request { budget, ..Request::default() };
            let (out, _) =
                decode(blob.clone(), request).expect("below the floor any ratio is fine");
            assert!(out == same);
        }
    }
    let budget = Budget { max_output: 1 << 20, ..Budget::default() };
    let plain = decode(vec![0; 16 << 20], Request { budget, ..Request::default() });
    assert_eq!(plain.unwrap_err().code(), "budget-output");
}

#[test]
fn z08_long_runs_of_zeros_are_no_bombs() {
    let zeros = vec![0; 16 << 20];
    for blob in [gzip(&zeros), zst(&zeros)] {
        let with = |budget| decode(blob.clone(), Request { budget, ..Request::default() });
        let (out, _) = with(Budget { ratio_floor: 1 << 20, ..Budget::default() }).unwrap();
        assert!(out == zeros);
        let error = with(Budget { max_output: 1 << 20, ..Budget::default() }).unwrap_err();
        assert_eq!(error.code(), "budget-output");
    }
}

#[test]
fn z09_gzip_inside_gzip_is_not_unpacked_twice() {
    let inner = gzip(&archive(100));
    let (out, _) = decode(gzip(&inner), Request::default()).unwrap();
    assert_eq!(out, inner);
}

#[test]
fn z10_a_lying_media_type_is_corrected_or_refused() {
    let content = archive(100);
    for declared in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let request = || Request { layer_type: tar_type(declared), ..Request::default() };
        for blob in [content.clone(), gzip(&content), zst(&content)] {
            assert_eq!(decode(blob, request()).unwrap().0, content);
        }
        let garbage = b"neither tar nor gzip nor zstd".repeat(50);
        assert_eq!(decode(garbage, request()).unwrap_err().code(), "layer-wrong-magic");
    }
}

#[test]
fn z12_a_wrong_diffid_is_an_error_before_the_end_is_seen() {
    let content = archive(600_000);
    for blob in [content.clone(), gzip(&content), zst(&content)] {
        let mut request = expecting(&blob, &content);
        request.diff_id = Some(Digest::of(b"something else"));
        assert_eq!(decode(blob, request).unwrap_err().code(), "diffid-mismatch");
    }
}

#[test]
fn z13_size_and_digest_of_the_blob_are_verified() {
    let content = archive(600_000);
    for blob in [content.clone(), gzip(&content), zst(&content)] {
        let len = blob.len() as u64;
        for size in [0, 1, len - 1, len + 1, u64::MAX] {
            let mut request = expecting(&blob, &content);
            request.blob = Some((Digest::of(&blob), size));
            let error = decode(blob.clone(), request).unwrap_err();
            assert_eq!(error.code(), "blob-size-mismatch", "{size} for {len}");
        }
        let mut request = expecting(&blob, &content);
        request.blob = Some((Digest::of(b"something else"), len));
        assert_eq!(decode(blob, request).unwrap_err().code(), "blob-digest-mismatch");
    }
}

/// A blob that the caller trusts is not hashed, but its size counts, and so does a digest that is known anyway.
#[test]
fn a_blob_that_is_vouched_for_is_not_hashed_again() {
    let content = archive(600_000);
    for blob in [content.clone(), gzip(&content), zst(&content)] {
        let len = blob.len() as u64;
        let vouched = |blob: &[u8], digest: &[u8], size| Request {
            blob: Some((Digest::of(digest), size)),
            is_vouched_for: true,
            ..Request { digests: Digests::DiffId, ..expecting(blob, &content) }
        };
        let (_, decoded) = decode(blob.clone(), vouched(&blob, &blob, len)).unwrap();
        assert_eq!(decoded.blob, None);
        assert_eq!(decoded.diff_id, Some(Digest::of(&content)));
        let error = decode(blob.clone(), vouched(&blob, &blob, len + 1)).unwrap_err();
        assert_eq!(error.code(), "blob-size-mismatch");
        let other = decode(blob.clone(), vouched(&blob, b"something else", len));
        match blob == content {
            true => assert_eq!(other.unwrap_err().code(), "blob-digest-mismatch"),
            false => assert_eq!(other.unwrap().1.diff_id, Some(Digest::of(&content))),
        }
        let mut damaged = blob.clone();
        damaged[blob.len() / 2] ^= 1;
        assert!(decode(damaged, vouched(&blob, &blob, len)).is_err());
    }
}

#[test]
fn z14_finish_drains_and_hashes_what_the_consumer_left() {
    let content = archive(2_000_000);
    for blob in [content.clone(), gzip(&content), zst(&content)] {
        let request = expecting(&blob, &content);
        let mut stream = LayerStream::open(std::io::Cursor::new(blob), request).unwrap();
        let mut head = [0; 1024];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(stream.finish().unwrap().size, content.len() as u64);
    }
}

#[test]
fn an_abandoned_or_cancelled_stream_ends() {
    let content = archive(20_000_000);
    let blob = gzip(&content);
    let mut stream =
        LayerStream::open(std::io::Cursor::new(blob.clone()), Request::default()).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    drop(stream);
    let cancel = Cancel::default();
    let request = Request { cancel: cancel.clone(), ..Request::default() };
    let mut stream = LayerStream::open(std::io::Cursor::new(blob), request).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    cancel.cancel();
    assert!(std::io::copy(&mut stream, &mut std::io::sink()).is_err());
    assert_eq!(stream.finish().unwrap_err().code(), "cancelled");
}

#[test]
fn a_failing_source_is_an_error_and_not_an_end() {
    struct Broken(Vec<u8>);
    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Err(std::io::Error::other("cable pulled"));
            }
            let n = buf.len().min(self.0.len());
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0.drain(..n);
            Ok(n)
        }
    }
    let content = archive(1_000_000);
    for blob in [content.clone(), gzip(&content)] {
        let mut stream = LayerStream::open(Broken(blob), Request::default()).unwrap();
        assert!(std::io::copy(&mut stream, &mut std::io::sink()).is_err());
        assert!(stream.finish().unwrap_err().to_string().contains("reading the blob"));
    }
}
