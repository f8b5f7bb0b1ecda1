//! Numbers, owners, modes and times.

use super::archive::{Block, base256, octal, pax, put, ustar};
use super::{code, one};
use crate::meta::Time;
use crate::tar::header::{Header, numeric};
use crate::tar::{Kind, Limits};

fn with_pax(key: &str, value: &str) -> Vec<u8> {
    let block = ustar(b'0', "f").with(|h| {
        octal(&mut h.uid, 7);
        octal(&mut h.gid, 8);
        octal(&mut h.mtime, 9);
    });
    [pax(&[(key, value)]), block.header()].concat()
}

fn with(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    ustar(b'0', "f").with(change).header()
}

#[test]
fn header_numbers_read_as_in_go() {
    // From the table of Go's own test of parseNumeric, and a few more.
    let cases: &[(&[u8], Option<i64>)] = &[
        (b"", Some(0)),
        (b"\x80", Some(0)),
        (b"\x80\x00", Some(0)),
        (b"\xbf", Some(0x3f)),
        (b"\xbf\xff", Some(0x3fff)),
        (b"\xff", Some(-1)),
        (b"\xff\xff", Some(-1)),
        (b"\xc0", Some(-0x40)),
        (b"\xc0\x00", Some(-0x4000)),
        (b"\x87\x76\xa2\x22\xeb\x8a\x72\x61", Some(0x776_a222_eb8a_7261)),
        (b"\x80\x00\x00\x00\x07\x76\xa2\x22\xeb\x8a\x72\x61", Some(0x776_a222_eb8a_7261)),
        (b"\xf7\x76\xa2\x22\xeb\x8a\x72\x61", Some(-0x889_5ddd_1475_8d9f)),
        (b"\x80\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
        (b"\x80\x80\x00\x00\x00\x00\x00\x00\x00", None),
        (b"\xff\x80\x00\x00\x00\x00\x00\x00\x00", Some(i64::MIN)),
        (b"\xff\x7f\xff\xff\xff\xff\xff\xff\xff", None),
        (b"\x80\x01\x00\x00\x00\x00\x00\x00\x00\x00", None),
        (b"0000000\0", Some(0)),
        (b" \0 \0", Some(0)),
        (b" 0000123\0", Some(0o123)),
        (b"0000123 ", Some(0o123)),
        (b"12345670", Some(0o1234_5670)),
        (b"\x0012345 ", Some(0o12345)),
        (b"12\x0034", Some(0o12)),
        (b"12 34", None),
        (b"0123456789", None),
        (b"-1", None),
        (b"+1", None),
        (b"0x1", None),
        (b"777777777777", Some(0o7777_7777_7777)),
    ];
    for (field, expected) in cases {
        assert_eq!(numeric(field), *expected, "{}", field.escape_ascii());
    }
}

#[test]
fn n01_spaces_and_full_fields() {
    let (entry, _) = one(&with(|h| {
        h.uid = *b"  1750 \0";
        h.gid = *b"00001750";
        h.mode = *b" 644    ";
    }));
    assert_eq!((entry.meta.uid, entry.meta.gid, entry.meta.mode), (1000, 1000, 0o644));
}

#[test]
fn n02_n03_n04_owners_are_32_bits_or_refused() {
    let big = 3_000_000_000_u32;
    assert_eq!(one(&with(|h| base256(&mut h.uid, big.into()))).0.meta.uid, 3_000_000_000);
    assert_eq!(one(&with_pax("uid", "4294967294")).0.meta.uid, u32::MAX - 1);
    for value in ["4294967295", "4294967296", "4294967297", "9223372036854775807"] {
        assert_eq!(code(&with_pax("uid", value)), "tar-out-of-range", "{value}");
        assert_eq!(code(&with_pax("gid", value)), "tar-out-of-range", "{value}");
    }
    for value in [-1, 1 << 32, (1 << 32) + 1] {
        assert_eq!(code(&with(|h| base256(&mut h.uid, value))), "tar-out-of-range");
        assert_eq!(code(&with(|h| base256(&mut h.gid, value))), "tar-out-of-range");
    }
    // A pax record replaces what only it can say.
    let bytes = [pax(&[("uid", "5")]), with(|h| base256(&mut h.uid, -1))].concat();
    assert_eq!(one(&bytes).0.meta.uid, 5);
}

#[test]
fn n05_pax_numbers_are_digits() {
    for value in ["+5", "5\0", "0x5", " 5", "5 ", "-5", "-0", "5.0", "1e3", "99999999999999999999"]
    {
        for key in ["uid", "gid", "size"] {
            assert_eq!(code(&with_pax(key, value)), "tar-bad-number", "{key}={value}");
        }
    }
    let (entry, _) = one(&with_pax("uid", ""));
    assert_eq!(entry.meta.uid, 7);
    assert_eq!(one(&with_pax("gid", "007")).0.meta.gid, 7);
}

#[test]
fn n06_names_of_owners_are_ignored() {
    let bytes = [
        pax(&[("uname", "root"), ("gname", "root")]),
        with(|h| {
            put(&mut h.uname, b"nobody");
            octal(&mut h.uid, 65534);
        }),
    ]
    .concat();
    assert_eq!((one(&bytes).0.meta.uid, one(&bytes).0.meta.gid), (65534, 0));
}

#[test]
fn n07_n08_n09_modes() {
    let mode = |kind, digits| one(&ustar(kind, "f").mode(digits).header()).0.meta.mode;
    assert_eq!(mode(b'0', b"0104755\0"), 0o4755);
    assert_eq!(mode(b'5', b"0001777\0"), 0o1777);
    assert_eq!(mode(b'0', b"0002755\0"), 0o2755);
    assert_eq!(mode(b'2', b"0000644\0"), 0o777);
    assert_eq!(code(&ustar(b'0', "f").mode(b"rw-r--r-").header()), "tar-bad-number");
}

#[test]
fn n10_to_n14_pax_times() {
    let time = |sec, nsec| Some(Time { sec, nsec });
    let cases = [
        ("1234567890.123456789", time(1_234_567_890, 123_456_789)),
        ("1.1234567899", time(1, 123_456_789)),
        ("1.5", time(1, 500_000_000)),
        ("1.", time(1, 0)),
        ("1.000000001", time(1, 1)),
        ("0", time(0, 0)),
        ("-1.5", time(-2, 500_000_000)),
        ("-0.5", time(-1, 500_000_000)),
        ("-1", time(-1, 0)),
        ("-1.0000000001", time(-1, 0)),
        ("34359738368", time(1 << 35, 0)),
        ("9223372036854775807", time(i64::MAX, 0)),
        ("-9223372036854775807.5", time(i64::MIN, 500_000_000)),
        ("-9223372036854775808", time(i64::MIN, 0)),
        ("-9223372036854775808.5", None),
        ("9223372036854775808", None),
        ("", time(9, 0)),
        ("1e9", None),
        ("100000000000000000000", None),
        (".5", None),
        ("-", None),
        ("--1", None),
        ("+1", None),
        ("1.5x", None),
        ("1.-5", None),
        ("1.2.3", None),
    ];
    for (text, expected) in cases {
        let bytes = with_pax("mtime", text);
        match expected {
            Some(time) => assert_eq!(one(&bytes).0.meta.mtime, time, "{text}"),
            None => assert_eq!(code(&bytes), "tar-bad-number", "{text}"),
        }
    }
}

#[test]
fn n12_n13_header_times() {
    for sec in [-86_400, 1 << 35, i64::MAX, i64::MIN] {
        let (entry, _) = one(&with(|h| base256(&mut h.mtime, sec.into())));
        assert_eq!(entry.meta.mtime, Time { sec, nsec: 0 });
    }
}

#[test]
fn n15_n16_n17_sizes_that_no_file_has_are_refused() {
    for value in ["-1", "9223372036854775808"] {
        assert_eq!(code(&with_pax("size", value)), "tar-bad-number");
    }
    assert_eq!(code(&with(|h| base256(&mut h.size, 1 << 80))), "tar-bad-number");
    assert_eq!(code(&with(|h| base256(&mut h.size, -1))), "tar-out-of-range");
    let bytes = [pax(&[("size", "0")]), with(|h| base256(&mut h.size, 1 << 80))].concat();
    assert_eq!(code(&bytes), "tar-bad-number");
}

#[test]
fn n18_sizes_beyond_the_limit_are_refused_before_data_is_read() {
    let limit = Limits::default().file_size;
    assert_eq!(code(&with_pax("size", &(limit + 1).to_string())), "tar-file-too-large");
    assert_eq!(code(&with_pax("size", &limit.to_string())), "tar-truncated-data");
    assert_eq!(code(&with(|h| base256(&mut h.size, i64::MAX.into()))), "tar-file-too-large");
}

#[test]
fn n20_n22_device_and_other_times_of_pax_are_ignored() {
    let records = [("SCHILY.devmajor", "9"), ("atime", "x"), ("ctime", "1e9"), ("comment", "c")];
    let bytes =
        [pax(&records), ustar(b'3', "c").with(|h| octal(&mut h.major, 5)).header()].concat();
    let (entry, _) = one(&bytes);
    assert_eq!((entry.kind, entry.rdev), (Kind::Char, (5, 0)));
}

#[test]
fn device_numbers_are_those_of_linux() {
    let device = |change: fn(&mut Header)| -> Block { ustar(b'4', "b").with(change) };
    assert_eq!(code(&device(|h| octal(&mut h.major, 0x1000)).header()), "tar-out-of-range");
    assert_eq!(code(&device(|h| octal(&mut h.minor, 0x10_0000)).header()), "tar-out-of-range");
    assert_eq!(code(&device(|h| base256(&mut h.minor, -1)).header()), "tar-out-of-range");
    assert_eq!(code(&device(|h| put(&mut h.minor, b"x")).header()), "tar-bad-number");
    // Some writers put -1 into headers of files; there it means nothing.
    assert_eq!(one(&with(|h| base256(&mut h.major, -1))).0.rdev, (0, 0));
}
