//! Pax and GNU extension headers.

use super::archive::{archive, gnu, long, padded, pax, record, ustar};
use super::{code, one, paths, read};
use crate::meta::Xattr;
use crate::tar::{Kind, Libarchive, Problem};

fn file(name: &str) -> Vec<u8> {
    ustar(b'0', name).header()
}

/// An extended header with this payload.
fn raw_pax(payload: &[u8]) -> Vec<u8> {
    ustar(b'x', "x").data(payload)
}

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.into(), value: value.into() }
}

#[test]
fn pax_records_replace_what_the_header_says() {
    let name = "n".repeat(300);
    let link = "l".repeat(300);
    let bytes = [
        pax(&[("path", &name), ("linkpath", &link), ("uid", "3000000"), ("gid", "4000000")]),
        ustar(b'2', "short").link("other").header(),
        file("next"),
    ]
    .concat();
    let members = read(&bytes).unwrap();
    let (entry, _) = &members[0];
    assert_eq!((&*entry.path, &*entry.link), (name.as_bytes(), link.as_bytes()));
    assert_eq!((entry.meta.uid, entry.meta.gid), (3_000_000, 4_000_000));
    assert_eq!((entry.offset, entry.data_offset), (0, bytes.len() as u64 - 512));
    // They are gone behind their member.
    let (next, _) = &members[1];
    assert_eq!((&*next.path, next.meta.uid, next.offset), (&b"next"[..], 0, entry.data_offset));
}

#[test]
fn gnu_long_names_and_links() {
    let name = "n".repeat(600);
    let link = "l".repeat(600);
    let (k, l) = (long(b'K', link.as_bytes()), long(b'L', name.as_bytes()));
    for order in [[k.clone(), l.clone()], [l, k]] {
        let bytes = [order.concat(), gnu(b'2', "x").link("y").header(), file("next")].concat();
        let members = read(&bytes).unwrap();
        assert_eq!(members[0].0.path, name.as_bytes());
        assert_eq!(members[0].0.link, link.as_bytes());
        assert_eq!(members[1].0.path, b"next");
    }
    // Go reads up to the first NUL, and nothing means the header's name.
    let bytes = [long(b'L', b"a\0b"), file("x"), long(b'L', b""), file("y")].concat();
    assert_eq!(paths(&bytes), ["a", "y"]);
    // Without the NUL, and with a slash behind a V7 name.
    let bytes = [gnu(b'L', "x").data(b"dir/"), gnu(0, "y").header()].concat();
    assert_eq!(one(&bytes).0.kind, Kind::Directory);
}

#[test]
fn f24_global_headers_are_ignored() {
    let records =
        [record(b"path", b"evil"), record(b"size", b"512"), record(b"mtime", b"1")].concat();
    let global = ustar(b'g', "pax_global_header").data(&records);
    let bytes = [global.clone(), file("a"), global.clone(), global, file("b")].concat();
    let members = read(&bytes).unwrap();
    assert_eq!(paths(&bytes), ["a", "b"]);
    assert_eq!((members[0].0.size, members[0].0.meta.mtime.sec), (0, 0));
    assert_eq!(members[0].0.offset, 1024);
    assert_eq!(
        code(&[ustar(b'g', "g").data(b"nonsense"), file("a")].concat()),
        "tar-bad-pax-record"
    );
    // Go forgets what stands before a global header; pending records there are a contradiction.
    let bytes = [pax(&[("path", "p")]), ustar(b'g', "g").data(&records), file("a")].concat();
    assert_eq!(code(&bytes), "tar-dangling-extension");
}

#[test]
fn f25_extensions_without_a_member_are_refused() {
    for extension in [pax(&[("path", "p")]), long(b'L', b"n"), long(b'K', b"n"), raw_pax(b"")] {
        assert_eq!(code(&extension), "tar-dangling-extension");
        assert_eq!(code(&archive(&[extension])), "tar-dangling-extension");
    }
    assert!(read(&archive(&[ustar(b'g', "g").data(b"")])).unwrap().is_empty());
}

#[test]
fn f26_too_many_extensions_are_refused() {
    let global = ustar(b'g', "g").header();
    assert_eq!(paths(&[global.repeat(16), file("a")].concat()), ["a"]);
    assert_eq!(code(&[global.repeat(17), file("a")].concat()), "tar-too-many-extensions");
}

#[test]
fn f27_large_extensions_are_refused() {
    let value = |len: usize| "v".repeat(len - "1048576 comment=\n".len());
    let fits = pax(&[("comment", &value(1 << 20))]);
    assert_eq!(paths(&[fits, file("a")].concat()), ["a"]);
    let large = pax(&[("comment", &value((1 << 20) + 1))]);
    assert_eq!(code(&[large, file("a")].concat()), "tar-extension-too-large");
    // Only the header is needed to know.
    for kind in *b"xgLK" {
        let header = ustar(kind, "x").size((1 << 20) + 1).header();
        assert_eq!(code(&header), "tar-extension-too-large");
    }
    assert_eq!(code(&ustar(b'x', "x").size(100).header()), "tar-truncated-data");
}

#[test]
fn x01_pax_size_decides_where_data_ends() {
    let inner = archive(&[ustar(b'0', "hidden").data(b"evil")]);
    let len = inner.len();
    let outer = ustar(b'0', "outer").size(0).header();
    let bytes = [pax(&[("size", &len.to_string())]), outer, inner, file("after")].concat();
    assert_eq!(paths(&bytes), ["outer", "after"]);
    let outer = ustar(b'0', "outer").size(len as u64).header();
    let bytes = [pax(&[("size", "0")]), outer, file("seen")].concat();
    assert_eq!(paths(&bytes), ["outer", "seen"]);
}

#[test]
fn x02_pax_size_is_not_the_size_of_a_long_name() {
    let bytes = [
        pax(&[("size", "5")]),
        long(b'L', b"name"),
        ustar(b'0', "x").header(),
        padded(b"hello"),
        file("next"),
    ]
    .concat();
    let members = read(&bytes).unwrap();
    assert_eq!((&*members[0].0.path, &*members[0].1), (&b"name"[..], &b"hello"[..]));
    assert_eq!(members[1].0.path, b"next");
}

#[test]
fn x03_x04_two_sources_of_one_name_are_refused() {
    let l = long(b'L', b"gnu");
    let k = long(b'K', b"gnu");
    let path = pax(&[("path", "pax")]);
    let link = pax(&[("linkpath", "pax")]);
    let conflicts = [[&path, &l], [&l, &path], [&link, &k], [&k, &link]];
    for [first, second] in conflicts {
        let bytes = [&first[..], second, &ustar(b'2', "x").header()].concat();
        assert_eq!(code(&bytes), "tar-conflicting-extensions");
    }
    // Different names, and deleted records, are none.
    let bytes = [pax(&[("path", ""), ("linkpath", "pax")]), l, ustar(b'2', "x").header()].concat();
    let (entry, _) = one(&bytes);
    assert_eq!((&*entry.path, &*entry.link), (&b"gnu"[..], &b"pax"[..]));
}

#[test]
fn x05_two_headers_of_one_type_are_refused() {
    let x = pax(&[("uid", "1")]);
    for (kind, extension) in [(b'x', x), (b'L', long(b'L', b"n")), (b'K', long(b'K', b"n"))] {
        let error = read(&[extension.repeat(2), file("a")].concat()).unwrap_err();
        assert!(matches!(error.problem, Problem::DuplicateExtension(k) if k == kind));
    }
}

#[test]
fn x06_x07_last_record_wins_and_empty_ones_are_absent() {
    let (entry, _) = one(&[pax(&[("path", "one"), ("path", "two")]), file("h")].concat());
    assert_eq!(entry.path, b"two");
    let (entry, _) = one(&[pax(&[("path", "one"), ("path", "")]), file("h")].concat());
    assert_eq!(entry.path, b"h");
    // Go looks at the last value only, so a bad one before it is no error.
    let (entry, _) = one(&[pax(&[("uid", "x"), ("uid", "5")]), file("h")].concat());
    assert_eq!(entry.meta.uid, 5);
}

#[test]
fn x08_malformed_records_are_refused() {
    let bad: [&[u8]; 20] = [
        b"11 path=abc",
        b"11 path=abcd",
        b"13 path=abc\n",
        b"10 path=abc\n",
        b"4 =\n",
        b"5 =v\n",
        b"6 path\n",
        b"x path=abc\n",
        b"-12 path=abc\n",
        b"+12 path=abc\n",
        b" path=abc\n",
        b"12path=abc\n",
        b"0 \n",
        b"5 a=b\n",
        b"99999999999999999999 path=a\n",
        b"18446744073709551615 path=a\n",
        b"9223372036854775807 path=a\n",
        b"00000000000000000000000000000032 path=abc\n",
        b"12 path=abc\n\0",
        b"\n",
    ];
    for payload in bad {
        let bytes = [raw_pax(payload), file("a")].concat();
        assert_eq!(code(&bytes), "tar-bad-pax-record", "{}", payload.escape_ascii());
    }
    assert_eq!(one(&[raw_pax(b"12 path=abc\n"), file("a")].concat()).0.path, b"abc");
    assert_eq!(one(&[raw_pax(b"0013 path=ab\n"), file("a")].concat()).0.path, b"ab");
}

#[test]
fn x09_values_may_hold_newlines_and_nul() {
    let value = b"\x01\0\0\x02\n12 path=evil\n\0=";
    let payload =
        [record(b"SCHILY.xattr.security.capability", value), record(b"uid", b"3")].concat();
    let (entry, _) = one(&[raw_pax(&payload), file("a")].concat());
    assert_eq!(entry.xattrs, [xattr("security.capability", value)]);
    assert_eq!((&*entry.path, entry.meta.uid), (&b"a"[..], 3));
}

#[test]
fn x10_nul_in_names_is_refused() {
    for key in ["path", "linkpath", "uname", "gname", "GNU.sparse.name"] {
        let bytes = [pax(&[(key, "a\0b")]), file("a")].concat();
        assert_eq!(code(&bytes), "tar-nul-byte", "{key}");
    }
    for key in ["pa\0th", "SCHILY.xattr.user.\0", "GNU.sparse.\0"] {
        assert_eq!(code(&[pax(&[(key, "v")]), file("a")].concat()), "tar-nul-byte");
    }
}

#[test]
fn x12_names_are_bytes() {
    let payload = [record(b"hdrcharset", b"BINARY"), record(b"path", b"\xff\xfe\n")].concat();
    assert_eq!(one(&[raw_pax(&payload), file("a")].concat()).0.path, b"\xff\xfe\n");
}

#[test]
fn x14_sparse_name_alone_is_ignored() {
    let bytes = [pax(&[("GNU.sparse.name", "other")]), file("a")].concat();
    let (entry, _) = one(&bytes);
    assert_eq!((&*entry.path, entry.sparse), (&b"a"[..], None));
}

#[test]
fn x17_x19_other_records_are_ignored() {
    let records = [
        ("comment", "c"),
        ("RHT.security.selinux", "s"),
        ("SCHILY.acl.access", "user::rwx"),
        ("SCHILY.fflags", "f"),
        ("GNU.volume.label", "v"),
    ];
    let (entry, _) = one(&[pax(&records), file("a")].concat());
    assert!(entry.xattrs.is_empty());
}

#[test]
fn x18_attributes_of_libarchive() {
    let records = [
        ("LIBARCHIVE.xattr.user.b%3D%25", "aGVsbG8"),
        ("LIBARCHIVE.xattr.user.a", "aGVsbG8="),
        ("SCHILY.xattr.user.c", "schily"),
        ("LIBARCHIVE.xattr.user.c", "aGVsbG8"),
    ];
    let (entry, _) = one(&[pax(&records), file("a")].concat());
    let expected =
        [xattr("user.a", b"hello"), xattr("user.b=%", b"hello"), xattr("user.c", b"schily")];
    assert_eq!(entry.xattrs, expected);
    assert_eq!(entry.libarchive.only, [&b"user.a"[..], b"user.b=%"]);
    assert!(entry.libarchive.undecoded.is_empty());
}

#[test]
fn x18_what_cannot_be_decoded_is_named() {
    let long = "n".repeat(256);
    for (key, value, name) in [
        ("user.%61", "!", "user.a"),
        ("user.%", "", "user.%"),
        ("user.%4", "", "user.%4"),
        ("user.%zz", "", "user.%zz"),
        ("user.%00", "", "user.\0"),
        ("", "", ""),
        (&long, "", &long),
    ] {
        let key = format!("LIBARCHIVE.xattr.{key}");
        let records = [(key.as_str(), value), ("SCHILY.xattr.user.c", "kept")];
        let (entry, _) = one(&[pax(&records), file("a")].concat());
        assert_eq!(entry.xattrs, [xattr("user.c", b"kept")], "{key}");
        assert_eq!(entry.libarchive.undecoded, [name.as_bytes()], "{key}");
        assert!(entry.libarchive.only.is_empty(), "{key}");
    }
    // The other record of the same attribute says what it is.
    let records = [("SCHILY.xattr.user.a", "v"), ("LIBARCHIVE.xattr.user.%61", "!")];
    let (entry, _) = one(&[pax(&records), file("a")].concat());
    assert_eq!(entry.xattrs, [xattr("user.a", b"v")]);
    assert_eq!(entry.libarchive, Libarchive::default());
}

#[test]
fn a07_a08_a09_attributes() {
    let records = [
        ("SCHILY.xattr.user.z", "1"),
        ("SCHILY.xattr.user.empty", ""),
        ("SCHILY.xattr.user.z", "2"),
        ("SCHILY.xattr.user.a", "3"),
    ];
    let (entry, _) = one(&[pax(&records), file("a")].concat());
    let expected = [xattr("user.a", b"3"), xattr("user.empty", b""), xattr("user.z", b"2")];
    assert_eq!(entry.xattrs, expected);
    let with = |name: &str, value: &str| {
        [pax(&[(&format!("SCHILY.xattr.{name}"), value)]), file("a")].concat()
    };
    let longest = format!("user.{}", "n".repeat(250));
    assert_eq!(one(&with(&longest, "v")).0.xattrs[0].name, longest.as_bytes());
    assert_eq!(one(&with("user.v", &"v".repeat(65535))).0.xattrs[0].value.len(), 65535);
    assert_eq!(code(&with(&format!("{longest}n"), "v")), "tar-bad-xattr");
    assert_eq!(code(&with("user.v", &"v".repeat(65536))), "tar-bad-xattr");
    assert_eq!(code(&with("", "v")), "tar-bad-xattr");
}
