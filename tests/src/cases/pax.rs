//! X: extension headers, and how two readers come to see two archives.

use super::Case;
use crate::listing::make::{block, char, dir, fifo, file, link, symlink};
use crate::tarball::{Header, Tarball, record, records};

pub(super) fn cases() -> Vec<Case> {
    let mut out = sizes();
    out.extend(conflicts());
    out.extend(records_of_one());
    out.extend(malformed());
    out.extend(names());
    out.extend(header_only());
    out.extend(attributes());
    out
}

fn data() -> [crate::listing::make::Item; 1] {
    [file("f", b"data")]
}

fn sizes() -> Vec<Case> {
    let inner = Tarball::new().file("smuggled", b"not a member").end();
    let nested = Tarball::new()
        .pax(&[("size", inner.len().to_string())])
        .header(&Header::new(b'0', "inner.tar"))
        .data(&inner)
        .file("after", b"data")
        .end();
    vec![
        Case::tree(
            "X01",
            "pax size larger: a nested archive is data",
            nested,
            [file("inner.tar", &inner), file("after", b"data")],
        ),
        Case::tree(
            "X01",
            "pax size smaller",
            Tarball::new()
                .pax(&[("size", "4")])
                .header(&Header::new(b'0', "f").size(1024))
                .data(b"data")
                .file("after", b"data")
                .end(),
            [file("f", b"data"), file("after", b"data")],
        ),
        Case::tree(
            "X02",
            "pax size does not reach the long name between",
            Tarball::new()
                .pax(&[("size", "4")])
                .gnu_long(b'L', "a-long-name")
                .header(&Header::gnu(b'0', "f").size(1024))
                .data(b"data")
                .end(),
            [file("a-long-name", b"data")],
        ),
    ]
}

fn conflicts() -> Vec<Case> {
    let file_after = |tar: Tarball| tar.file("f", b"data").end();
    vec![
        Case::refused(
            "X03",
            "pax path, then L",
            file_after(Tarball::new().pax(&[("path", "p")]).gnu_long(b'L', "l")),
            "tar-conflicting-extensions",
        ),
        Case::refused(
            "X03",
            "L, then pax path",
            file_after(Tarball::new().gnu_long(b'L', "l").pax(&[("path", "p")])),
            "tar-conflicting-extensions",
        ),
        Case::refused(
            "X04",
            "pax linkpath and K",
            Tarball::new().pax(&[("linkpath", "p")]).gnu_long(b'K', "k").symlink("l", "h").end(),
            "tar-conflicting-extensions",
        ),
        Case::refused(
            "X05",
            "two x",
            file_after(Tarball::new().pax(&[("uid", "1")]).pax(&[("gid", "1")])),
            "tar-duplicate-extension",
        ),
        Case::refused(
            "X05",
            "two L",
            file_after(Tarball::new().gnu_long(b'L', "a").gnu_long(b'L', "b")),
            "tar-duplicate-extension",
        ),
    ]
}

fn records_of_one() -> Vec<Case> {
    let with = |pairs: &[(&str, &str)]| Tarball::new().pax(pairs).file("f", b"data").end();
    vec![
        Case::tree(
            "X06",
            "path twice",
            with(&[("path", "a"), ("path", "b")]),
            [file("b", b"data")],
        ),
        Case::tree(
            "X06",
            "uid twice",
            with(&[("uid", "1"), ("uid", "2")]),
            [file("f", b"data").owner(2, 0)],
        ),
        Case::tree("X07", "empty path", with(&[("path", "")]), data()),
        Case::tree("X07", "empty path after a path", with(&[("path", "a"), ("path", "")]), data()),
        Case::tree(
            "X07",
            "empty linkpath",
            Tarball::new().pax(&[("linkpath", "")]).symlink("l", "h").end(),
            [symlink("l", "h")],
        ),
        Case::tree("X07", "empty size and mtime", with(&[("size", ""), ("mtime", "")]), data()),
        Case::tree(
            "X17",
            "comment, charset and unknown keys",
            with(&[("comment", "c"), ("charset", "ISO-IR 10646 2000 UTF-8"), ("VENDOR.key", "v")]),
            data(),
        ),
    ]
}

fn malformed() -> Vec<Case> {
    let with = |payload: &[u8]| Tarball::new().pax_raw(payload).file("f", b"data").end();
    let bad = [
        ("no newline", b"9 path=ab".as_slice()),
        ("length too small", b"5 path=a\n"),
        ("length too large", b"99 path=a\n"),
        ("length beyond 64 bits", b"99999999999999999999 path=a\n"),
        ("length that is no number", b"x path=a\n"),
        ("negative length", b"-9 path=a\n"),
        ("no length", b" path=a\n"),
        ("no equals sign", b"7 path\n"),
        ("no key", b"5 =v\n"),
        ("length zero", b"0 path=a\n"),
        ("text after the last record", b"9 path=a\nrest"),
    ];
    bad.map(|(variant, payload)| Case::refused("X08", variant, with(payload), "tar-bad-pax-record"))
        .into()
}

fn names() -> Vec<Case> {
    let latin: &[u8] = b"caf\xe9";
    vec![
        Case::refused(
            "X10",
            "NUL in path",
            Tarball::new().pax(&[("path", "a\0b")]).file("f", b"data").end(),
            "tar-nul-byte",
        ),
        Case::refused(
            "X10",
            "NUL in linkpath",
            Tarball::new().pax(&[("linkpath", "a\0b")]).symlink("l", "h").end(),
            "tar-nul-byte",
        ),
        Case::tree(
            "X12",
            "hdrcharset BINARY",
            Tarball::new()
                .pax(&[("hdrcharset".as_bytes(), b"BINARY".as_slice()), (b"path", latin)])
                .file("f", b"data")
                .end(),
            [file(latin, b"data")],
        ),
        Case::tree(
            "X14",
            "GNU.sparse.name alone",
            Tarball::new().pax(&[("GNU.sparse.name", "real")]).file("f", b"data").end(),
            data(),
        ),
        Case::tree(
            "X03",
            "long names by L and K",
            Tarball::new()
                .gnu_long(b'L', "n".repeat(200))
                .gnu_long(b'K', "t".repeat(200))
                .header(&Header::gnu(b'2', "n").link("t"))
                .end(),
            [symlink("n".repeat(200), "t".repeat(200))],
        ),
        Case::tree(
            "X03",
            "long names by pax",
            Tarball::new()
                .pax(&[("path", "n".repeat(200)), ("linkpath", "t".repeat(200))])
                .symlink("n", "t")
                .end(),
            [symlink("n".repeat(200), "t".repeat(200))],
        ),
    ]
}

/// A header of every type that has no data, with a size all the same.
fn header_only() -> Vec<Case> {
    let sized = [
        Header::new(b'5', "dir/"),
        Header::new(b'2', "symlink").link("f"),
        Header::new(b'1', "hardlink").link("f"),
        Header::new(b'3', "char").device(1, 3),
        Header::new(b'4', "block").device(7, 0),
        Header::new(b'6', "fifo"),
    ];
    let all = sized
        .iter()
        .fold(Tarball::new().file("f", b"data"), |tar, h| tar.header(&h.clone().size(512)))
        .file("after", b"data")
        .end();
    let mut out = vec![Case::tree(
        "X15",
        "a size and no data",
        all,
        [
            file("f", b"data"),
            dir("dir"),
            symlink("symlink", "f"),
            link("hardlink", "f"),
            char("char", 1, 3),
            block("block", 7, 0),
            fifo("fifo"),
            file("after", b"data"),
        ],
    )];
    let names =
        ["directory", "symbolic link", "hard link", "character device", "block device", "FIFO"];
    for (header, name) in sized.into_iter().zip(names) {
        let id = if name == "hard link" { "X16" } else { "X15" };
        let archive = Tarball::new()
            .file("f", b"data")
            .member(header, [b'd'; 512])
            .file("after", b"data")
            .end();
        out.push(Case::refused(id, name, archive, "tar-bad-checksum"));
    }
    out.push(Case::tree(
        "X15",
        "data of a directory that is a header is one",
        Tarball::new()
            .member(Header::new(b'5', "d"), Header::new(b'0', "hidden").block())
            .file("after", b"data")
            .end(),
        [dir("d"), file("hidden", b""), file("after", b"data")],
    ));
    out
}

fn attributes() -> Vec<Case> {
    let binary: &[u8] = b"a\nb=c\0\xff\n20 path=evil\n";
    let libarchive = Tarball::new()
        .pax(&[("LIBARCHIVE.xattr.user.odd%3dname", "AAEC/w==")])
        .file("f", b"data")
        .end();
    let twins = |first: &str, second: &str| {
        let payload = [record(first, value(first)), record(second, value(second))].concat();
        Tarball::new().pax_raw(payload).file("f", b"data").end()
    };
    let acl = records(&[
        ("SCHILY.acl.access", "user::rwx,group::r-x,other::r-x"),
        ("SCHILY.acl.default", "user::rwx"),
        ("SCHILY.fflags", "nodump"),
        ("RHT.security.selinux", "system_u:object_r:etc_t:s0"),
    ]);
    vec![
        Case::tree(
            "X09",
            "newline, NUL and a record inside a value",
            Tarball::new()
                .pax(&[("SCHILY.xattr.user.bin".as_bytes(), binary), (b"mtime", b"5")])
                .file("f", b"data")
                .end(),
            [file("f", b"data").xattr("user.bin", binary).mtime(5, 0)],
        ),
        Case::tree(
            "X18",
            "LIBARCHIVE.xattr",
            libarchive,
            [file("f", b"data").xattr("user.odd=name", b"\x00\x01\x02\xff")],
        ),
        Case::tree(
            "X18",
            "LIBARCHIVE.xattr before its SCHILY twin",
            twins("LIBARCHIVE.xattr.user.k", "SCHILY.xattr.user.k"),
            [file("f", b"data").xattr("user.k", b"schily")],
        ),
        Case::tree(
            "X18",
            "LIBARCHIVE.xattr after its SCHILY twin",
            twins("SCHILY.xattr.user.k", "LIBARCHIVE.xattr.user.k"),
            [file("f", b"data").xattr("user.k", b"schily")],
        ),
        of_libarchive_alone(),
        Case::tree(
            "X19",
            "ACLs as text, flags and RHT.security",
            Tarball::new().pax_raw(acl).file("f", b"data").end(),
            data(),
        ),
    ]
}

/// Records that containerd does not read, and that cannot be kept.
fn of_libarchive_alone() -> Case {
    let records = [
        ("LIBARCHIVE.xattr.user.a", "!"),
        ("LIBARCHIVE.xattr.user.%zz", "bGliYXJjaGl2ZQ=="),
        ("LIBARCHIVE.xattr.com.apple.provenance", "AQIA"),
        ("LIBARCHIVE.xattr.security.capability", "AQIA"),
        ("LIBARCHIVE.xattr.system.posix_acl_access", "AgAAAGp1bms"),
        ("LIBARCHIVE.xattr.", "AQIA"),
    ];
    let archive = Tarball::new().pax(&records).file("f", b"data").end();
    let variant = "what libarchive's records cannot say is dropped";
    Case::tree("X18", variant, archive, [file("f", b"data")])
}

fn value(key: &str) -> &'static str {
    // "libarchive" in base 64.
    if key.starts_with("LIBARCHIVE") { "bGliYXJjaGl2ZQ==" } else { "schily" }
}
