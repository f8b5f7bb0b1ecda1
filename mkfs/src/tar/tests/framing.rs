//! Where members begin and end, and which headers are headers.

use super::archive::{archive, end, gnu, octal, padded, pax, put, ustar, v7};
use super::{code, one, paths, read, read_input};
use crate::io::{Input, Stream};
use crate::meta::{Meta, Time};
use crate::tar::{BLOCK, Entry, Kind, Limits, Problem, Reader};

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    ustar(b'0', name).data(data)
}

#[test]
fn plain_members_carry_every_field_and_their_place() {
    let dir = ustar(b'5', "d/").mode(b"0000755\0").with(|h| {
        octal(&mut h.uid, 1000);
        octal(&mut h.gid, 100);
        octal(&mut h.mtime, 1_700_000_000);
    });
    let device = ustar(b'3', "d/null").with(|h| {
        octal(&mut h.major, 1);
        octal(&mut h.minor, 0xf_ffff);
    });
    let bytes = archive(&[
        dir.header(),
        file("d/f", b"hello"),
        ustar(b'2', "d/s").link("target").header(),
        ustar(b'1', "d/h").link("d/f").header(),
        device.header(),
        ustar(b'4', "d/b").header(),
        ustar(b'6', "d/p").header(),
    ]);
    let members = read(&bytes).unwrap();
    let kinds: Vec<Kind> = members.iter().map(|(e, _)| e.kind).collect();
    let expected = [
        Kind::Directory,
        Kind::Regular,
        Kind::Symlink,
        Kind::Hardlink,
        Kind::Char,
        Kind::Block,
        Kind::Fifo,
    ];
    assert_eq!(kinds, expected);
    let mtime = Time { sec: 1_700_000_000, nsec: 0 };
    assert_eq!(members[0].0.meta, Meta { mode: 0o755, uid: 1000, gid: 100, mtime });
    let (f, data) = &members[1];
    assert_eq!((f.offset, f.data_offset, f.size, f.stored), (512, 1024, 5, 5));
    assert_eq!(data, b"hello");
    assert_eq!((&*members[2].0.link, members[2].0.meta.mode), (&b"target"[..], 0o777));
    assert_eq!(&*members[3].0.link, b"d/f");
    assert_eq!(members[4].0.rdev, (1, 0xf_ffff));
    assert!(members[6].0.link.is_empty());
}

#[test]
fn f01_to_f04_an_archive_may_end_in_five_ways() {
    let empty: [(&str, Vec<u8>); 4] = [
        ("F01", vec![]),
        ("F02", end()),
        ("one zero block", vec![0; BLOCK]),
        ("zero blocks and more", vec![0; 5 * BLOCK]),
    ];
    for (what, bytes) in empty {
        assert!(read(&bytes).unwrap().is_empty(), "{what}");
    }
    let mut bytes = file("f", b"x");
    assert_eq!(paths(&bytes), ["f"], "F03");
    bytes.extend([0; BLOCK]);
    assert_eq!(paths(&bytes), ["f"], "F04");
}

#[test]
fn f05_f06_f07_z14_bytes_behind_the_end_are_left_to_the_caller() {
    let tails = [vec![0; 10240], b"garbage".to_vec(), archive(&[file("second", b"")])];
    for tail in tails {
        let bytes = [archive(&[file("f", b"x")]), tail.clone()].concat();
        let (members, mut rest) = read_input(Stream(&bytes[..])).unwrap();
        assert_eq!(members.len(), 1);
        assert_eq!(rest.fill().unwrap(), tail);
    }
}

#[test]
fn f08_single_zero_block_mid_stream_is_refused() {
    let bytes = [file("a", b""), vec![0; BLOCK], file("b", b"")].concat();
    assert_eq!(code(&bytes), "tar-lone-zero-block");
    // Half a block behind it is no end either.
    assert_eq!(code(&[file("a", b""), vec![0; BLOCK + 100]].concat()), "tar-truncated-header");
}

#[test]
fn f09_wrong_checksum_is_refused() {
    let mut bytes = archive(&[file("a", b"")]);
    bytes[0] = b'b';
    assert_eq!(code(&bytes), "tar-bad-checksum");
    let bytes = ustar(b'0', "a").with(|h| h.checksum = *b"garbage\0").raw();
    assert_eq!(code(&bytes), "tar-bad-checksum");
}

#[test]
fn f10_checksum_over_signed_bytes_is_accepted() {
    let block = ustar(b'0', "").name("h\u{e9}\u{e9}".as_bytes());
    let signed = block.0.sum() - 4 * 256;
    let bytes = block.with(|h| octal(&mut h.checksum[..7], signed)).raw();
    assert_eq!(one(&bytes).0.path, "h\u{e9}\u{e9}".as_bytes());
    let unsigned = ustar(b'0', "").name("h\u{e9}\u{e9}".as_bytes()).header();
    assert_eq!(one(&unsigned).0.path, "h\u{e9}\u{e9}".as_bytes());
}

#[test]
fn f11_truncated_header_is_refused() {
    let bytes = file("a", b"");
    for len in 1..BLOCK {
        assert_eq!(code(&bytes[..len]), "tar-truncated-header", "{len}");
    }
}

#[test]
fn f12_truncated_data_is_refused_whether_read_or_skipped() {
    let bytes = file("a", &[7; 600]);
    for len in [BLOCK, BLOCK + 1, BLOCK + 599] {
        let cut = &bytes[..len];
        assert_eq!(code(cut), "tar-truncated-data", "{len}");
        let mut reader = Reader::new(Stream(cut), Limits::default());
        let mut entry = Entry::default();
        assert!(reader.next(&mut entry).unwrap());
        let error = reader.skip_data().unwrap_err();
        assert_eq!((error.code(), error.offset), ("tar-truncated-data", len as u64));
        let mut reader = Reader::new(Stream(cut), Limits::default());
        assert!(reader.next(&mut entry).unwrap());
        assert_eq!(reader.next(&mut entry).unwrap_err().code(), "tar-truncated-data");
        assert_eq!(reader.next(&mut entry).unwrap_err().code(), "tar-poisoned");
        assert_eq!(reader.fill_data().unwrap_err().code(), "tar-poisoned");
    }
}

#[test]
fn f13_padding_of_the_last_member_may_be_missing() {
    let bytes = file("a", b"hello");
    for len in BLOCK + 5..2 * BLOCK {
        assert_eq!(one(&bytes[..len]).1, b"hello", "{len}");
    }
}

#[test]
fn f14_f15_f16_headers_without_magic_mark_directories_by_a_slash() {
    let cases = [
        ("v7 file", v7(0, "f"), Kind::Regular),
        ("F15", v7(0, "d/"), Kind::Directory),
        ("F15 ustar", ustar(0, "d/"), Kind::Directory),
        ("F16", ustar(b'0', "d/"), Kind::Regular),
        ("F16 v7", v7(b'0', "d/"), Kind::Regular),
        ("v7 directory", v7(b'5', "d"), Kind::Directory),
    ];
    for (what, block, kind) in cases {
        assert_eq!(one(&block.header()).0.kind, kind, "{what}");
    }
    // The name that counts is the final one.
    let bytes = [pax(&[("path", "long/")]), v7(0, "short").header()].concat();
    assert_eq!(one(&bytes).0.kind, Kind::Directory);
    // Device numbers and prefix do not exist there.
    let block = v7(b'3', "c").with(|h| put(&mut h.major, b"garbage!"));
    assert_eq!(one(&block.header()).0.rdev, (0, 0));
}

#[test]
fn f17_version_of_ustar_does_not_matter() {
    let block = ustar(b'0', "f").with(|h| {
        h.version = [0; 2];
        put(&mut h.tail, b"dir");
    });
    assert_eq!(one(&block.header()).0.path, b"dir/f");
}

#[test]
fn f18_prefixes_of_every_dialect() {
    let long = [b'p'; 155];
    let posix = ustar(b'0', "f").with(|h| put(&mut h.tail, &long));
    assert_eq!(one(&posix.header()).0.path, [&long[..], b"/f"].concat());
    // star has 131 bytes of prefix, two times behind it, and a trailer.
    let star = ustar(b'0', "f").with(|h| {
        put(&mut h.tail, &long[..131]);
        put(&mut h.tail[131..], b"00000000001\x0000000000002\0");
        put(&mut h.tail[163..], b"tar\0");
    });
    assert_eq!(one(&star.header()).0.path, [&long[..131], b"/f"].concat());
    let cases: [(&[u8], &[u8]); 5] = [
        (b"old/go/writer", b"old/go/writer/f"),
        (b"", b"f"),
        (b"00000000001\x0000000000002\0", b"f"),
        (b"\x80\0\0\0\0\0\0\0\0\0\0\x01", b"f"),
        (b"not\xffascii", b"f"),
    ];
    for (tail, path) in cases {
        let block = gnu(b'0', "f").with(|h| put(&mut h.tail, tail));
        assert_eq!(one(&block.header()).0.path, path, "{}", tail.escape_ascii());
    }
}

#[test]
fn f21_contiguous_files_are_files() {
    assert_eq!(one(&ustar(b'7', "f").data(b"abc")).0.kind, Kind::Regular);
}

#[test]
fn f22_f23_unknown_types_are_refused_by_name() {
    for kind in *b"ZDVMNAX89az\xff" {
        let error = read(&ustar(kind, "who").header()).unwrap_err();
        assert!(matches!(error.problem, Problem::UnknownType(k) if k == kind));
        assert_eq!(error.path.as_deref(), Some(&b"who"[..]));
    }
    let text = read(&ustar(b'Z', "who").header()).unwrap_err().to_string();
    assert_eq!(text, "tar offset 0, member \"who\": member type 'Z' is not supported");
}

#[test]
fn p04_members_without_a_name_are_refused() {
    assert_eq!(code(&ustar(b'0', "").header()), "tar-empty-name");
}

#[test]
fn x15_x16_header_only_members_have_no_data() {
    for kind in *b"123456" {
        // The next block is a header whatever the size says.
        let hidden = [ustar(kind, "a").size(512).header(), file("b", b"")].concat();
        assert_eq!(paths(&hidden), ["a", "b"]);
        let with_data = [ustar(kind, "a").size(5).header(), padded(b"hello")].concat();
        assert_eq!(code(&with_data), "tar-bad-checksum");
        let by_pax = [pax(&[("size", "512")]), ustar(kind, "a").header(), file("b", b"")].concat();
        assert_eq!(paths(&by_pax), ["a", "b"]);
    }
    let slash = [v7(0, "d/").size(512).header(), file("b", b"")].concat();
    assert_eq!(paths(&slash), ["d/", "b"]);
}

#[test]
fn errors_name_the_header_at_fault() {
    let bytes = [file("a", b"x"), pax(&[("uid", "x")]), file("b", b"")].concat();
    let error = read(&bytes).unwrap_err();
    assert_eq!(error.offset, 2048);
    assert_eq!(error.path.as_deref(), Some(&b"b"[..]));
}
