//! F: blocks, headers, the end of an archive, types of members.

use super::Case;
use crate::listing::make::{dir, file};
use crate::tarball::{BLOCK, Header, Tarball, field, records};

/// `f` with the content "data", the whole of most archives here.
fn one_file() -> Tarball {
    Tarball::new().file("f", b"data")
}

/// `n` global headers and a file.
pub fn extension_headers(n: usize) -> Vec<u8> {
    let mut tar = Tarball::new();
    for _ in 0..n {
        tar = tar.global(&[("comment", "again")]);
    }
    tar.file("f", b"data").end()
}

pub(super) fn cases() -> Vec<Case> {
    let mut out = ends();
    out.extend(checksums());
    out.extend(truncated());
    out.extend(dialects());
    out.extend(types());
    out.extend(global_headers());
    out.extend(extensions());
    out
}

fn ends() -> Vec<Case> {
    let f = || [file("f", b"data")];
    let whole = one_file().end();
    vec![
        Case::tree("F01", "no bytes at all", Vec::new(), []),
        Case::tree("F02", "two zero blocks", Tarball::new().end(), []),
        Case::tree("F03", "no end blocks", one_file().unfinished(), f()),
        Case::tree("F04", "one zero block", one_file().raw([0; BLOCK]).unfinished(), f()),
        Case::tree(
            "F05",
            "zeros up to a record of 10240",
            one_file().raw(vec![0; 10240 - 2 * BLOCK]).unfinished(),
            f(),
        ),
        Case::tree("F06", "garbage after the end", [whole.as_slice(), &[0xa5; 700]].concat(), f()),
        Case::tree(
            "F07",
            "a second archive after the end",
            [whole, Tarball::new().file("g", b"more").end()].concat(),
            f(),
        ),
    ]
}

fn checksums() -> Vec<Case> {
    vec![
        Case::refused(
            "F08",
            "one zero block, then a header",
            one_file().raw([0; BLOCK]).file("g", b"hidden?").end(),
            "tar-lone-zero-block",
        ),
        Case::refused(
            "F09",
            "checksum of another header",
            Tarball::new().header(&Header::new(b'0', "f").with_sum("000001\0 ")).end(),
            "tar-bad-checksum",
        ),
        Case::refused(
            "F09",
            "checksum that is no number",
            Tarball::new().header(&Header::new(b'0', "f").with_sum("checksum")).end(),
            "tar-bad-checksum",
        ),
        Case::refused(
            "F09",
            "wrong checksum in the second header",
            one_file().header(&Header::new(b'5', "d").with_sum("000001\0 ")).end(),
            "tar-bad-checksum",
        ),
        Case::tree(
            "F10",
            "sum of signed bytes",
            Tarball::new().header(&Header::new(b'0', b"caf\xc3\xa9").signed_sum()).end(),
            [file(b"caf\xc3\xa9", b"")],
        ),
        Case::tree(
            "F10",
            "sum of unsigned bytes",
            Tarball::new().header(&Header::new(b'0', b"caf\xc3\xa9")).end(),
            [file(b"caf\xc3\xa9", b"")],
        ),
    ]
}

fn truncated() -> Vec<Case> {
    let text = |n: usize| vec![b'x'; n];
    vec![
        Case::refused(
            "F11",
            "ends inside the first header",
            Tarball::new().header(&Header::new(b'0', "f")).cut(100).unfinished(),
            "tar-truncated-header",
        ),
        Case::refused(
            "F11",
            "ends one byte before the second header does",
            one_file().header(&Header::new(b'0', "g")).cut(1).unfinished(),
            "tar-truncated-header",
        ),
        Case::refused(
            "F12",
            "ends inside the data",
            Tarball::new().file("f", text(10_000)).cut(5_000).unfinished(),
            "tar-truncated-data",
        ),
        Case::refused(
            "F12",
            "ends one block before the data does",
            Tarball::new().file("a", b"whole").file("f", text(1024)).cut(512).unfinished(),
            "tar-truncated-data",
        ),
        Case::refused(
            "F12",
            "ends before any data",
            Tarball::new().header(&Header::new(b'0', "f").size(1)).unfinished(),
            "tar-truncated-data",
        ),
        Case::refused(
            "F12",
            "ends inside a pax header",
            Tarball::new().header(&Header::new(b'x', "x").size(20)).raw("20 path").unfinished(),
            "tar-truncated-data",
        ),
        Case::tree(
            "F13",
            "ends where the padding begins",
            one_file().cut(BLOCK - 4).unfinished(),
            [file("f", b"data")],
        ),
        Case::tree(
            "F13",
            "ends inside the padding",
            one_file().cut(100).unfinished(),
            [file("f", b"data")],
        ),
    ]
}

fn dialects() -> Vec<Case> {
    let in_prefix = |header: Header| {
        let header = header.raw(field::PREFIX, "some/where");
        Tarball::new().dir("some").dir("some/where").member(header, b"data").end()
    };
    let joined = || [dir("some"), dir("some/where"), file("some/where/f", b"data")];
    vec![
        Case::tree(
            "F14",
            "version 7 header",
            Tarball::new().member(Header::v7(b'0', "f"), b"data").end(),
            [file("f", b"data")],
        ),
        Case::tree(
            "F14",
            "version 7 header with type NUL",
            Tarball::new().member(Header::v7(0, "f"), b"data").end(),
            [file("f", b"data")],
        ),
        Case::tree(
            "F15",
            "version 7: a slash at the end makes a directory",
            Tarball::new().header(&Header::v7(0, "d/").mode(0o750)).end(),
            [dir("d").mode(0o750)],
        ),
        Case::tree(
            "F15",
            "type NUL with a slash at the end, POSIX magic",
            Tarball::new().header(&Header::new(0, "d/").mode(0o750)).end(),
            [dir("d").mode(0o750)],
        ),
        Case::tree(
            "F16",
            "type 0 with a slash at the end is a file",
            Tarball::new().file("d/", b"data").end(),
            [file("d", b"data")],
        ),
        Case::tree(
            "F17",
            "POSIX magic with NULs for a version",
            in_prefix(Header::new(b'0', "f").raw(field::MAGIC, b"ustar\0\0\0")),
            joined(),
        ),
        Case::tree("F17", "POSIX magic, prefix", in_prefix(Header::new(b'0', "f")), joined()),
        Case::tree("F18", "GNU magic, prefix", in_prefix(Header::gnu(b'0', "f")), joined()),
        Case::tree(
            "F18",
            "GNU magic, times where the prefix would be",
            Tarball::new()
                .member(
                    Header::gnu(b'0', "f").raw(field::PREFIX, "14524770000\x0014524770000\0"),
                    b"data",
                )
                .end(),
            [file("f", b"data")],
        ),
    ]
}

fn types() -> Vec<Case> {
    let unknown = |kind| Tarball::new().member(Header::new(kind, "f"), b"data").end();
    let mut out =
        vec![Case::tree("F21", "type 7, contiguous", unknown(b'7'), [file("f", b"data")])];
    let kinds: [(u8, &str); 8] = [
        (b'Z', "Z"),
        (b'D', "D, GNU directory listing"),
        (b'V', "V, GNU volume name"),
        (b'M', "M, GNU continued file"),
        (b'N', "N, old GNU long names"),
        (b'A', "A, Solaris ACL"),
        (b'8', "8, reserved"),
        (0xff, "byte 255"),
    ];
    out.extend(
        kinds.map(|(kind, name)| Case::refused("F22", name, unknown(kind), "tar-unknown-type")),
    );
    out.push(Case::refused("F23", "X, Solaris extended header", unknown(b'X'), "tar-unknown-type"));
    out
}

fn global_headers() -> Vec<Case> {
    vec![
        Case::tree(
            "F24",
            "global header as git writes it",
            Tarball::new()
                .global(&[("comment", "0123456789abcdef0123456789abcdef01234567")])
                .file("f", b"data")
                .end(),
            [file("f", b"data")],
        ),
        Case::tree(
            "F24",
            "global path, size and mtime",
            Tarball::new()
                .global(&[("path", "everything"), ("size", "1"), ("mtime", "5"), ("uid", "7")])
                .file("f", b"data")
                .file("g", b"more")
                .end(),
            [file("f", b"data"), file("g", b"more")],
        ),
        Case::tree(
            "F24",
            "the name of a global header is no path",
            Tarball::new()
                .member(Header::new(b'g', "PaxHeaders/global"), records(&[("comment", "c")]))
                .file("f", b"data")
                .end(),
            [file("f", b"data")],
        ),
    ]
}

fn extensions() -> Vec<Case> {
    let dangling = |tar: Tarball| tar.end();
    let pax_of = |size: usize| {
        let payload = crate::tarball::record("comment", "x".repeat(size));
        Tarball::new().pax_raw(payload).file("f", b"data").end()
    };
    vec![
        Case::refused(
            "F25",
            "x at the end",
            dangling(one_file().pax(&[("path", "nobody")])),
            "tar-dangling-extension",
        ),
        Case::refused(
            "F25",
            "L at the end",
            dangling(one_file().gnu_long(b'L', "nobody")),
            "tar-dangling-extension",
        ),
        Case::refused(
            "F25",
            "K at the end",
            dangling(one_file().gnu_long(b'K', "nobody")),
            "tar-dangling-extension",
        ),
        Case::tree("F26", "16 extension headers", extension_headers(16), [file("f", b"data")]),
        Case::refused(
            "F26",
            "17 extension headers",
            extension_headers(17),
            "tar-too-many-extensions",
        ),
        Case::tree("F27", "a pax header below 1 MiB", pax_of((1 << 20) - 32), [file("f", b"data")]),
        Case::refused(
            "F27",
            "a pax header above 1 MiB",
            pax_of(1 << 20),
            "tar-extension-too-large",
        ),
    ]
}
