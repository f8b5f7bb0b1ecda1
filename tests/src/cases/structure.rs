//! T: how members of one layer add up to a tree.

use super::Case;
use crate::listing::make::{Item, block, char, dir, fifo, file, implicit, link, sparse, symlink};
use crate::tarball::{Header, Tarball, record};

pub(super) fn cases() -> Vec<Case> {
    let mut out = parents();
    out.extend(duplicates());
    out.extend(replacement());
    out.extend(hard_links());
    out.extend(special_links());
    out.extend(refused_links());
    out.extend(symlinks_and_devices());
    out.extend(sizes());
    out
}

fn parents() -> Vec<Case> {
    vec![
        Case::tree(
            "T01",
            "missing parents",
            Tarball::new().file("a/b/f", b"data").end(),
            [implicit("a"), implicit("a/b"), file("a/b/f", b"data")],
        ),
        Case::tree(
            "T03",
            "a directory described after its child",
            Tarball::new()
                .file("a/f", b"data")
                .header(&Header::new(b'5', "a").mode(0o700).owner(1, 2))
                .end(),
            [dir("a").mode(0o700).owner(1, 2), file("a/f", b"data")],
        ),
        Case::tree(
            "T22",
            "only directories",
            Tarball::new().dir("a").dir("a/b").dir("c").end(),
            [dir("a"), dir("a/b"), dir("c")],
        ),
    ]
}

fn duplicates() -> Vec<Case> {
    vec![
        Case::tree(
            "T04",
            "a file twice",
            Tarball::new()
                .member(Header::new(b'0', "f").mode(0o4755), b"first and longer")
                .pax(&[("SCHILY.xattr.user.k", "v")])
                .file("f", b"second")
                .end(),
            [file("f", b"second").xattr("user.k", b"v")],
        ),
        Case::tree(
            "T04",
            "a file twice: attributes of the first are gone",
            Tarball::new()
                .pax(&[("SCHILY.xattr.user.k", "v")])
                .file("f", b"first")
                .file("f", b"second")
                .end(),
            [file("f", b"second")],
        ),
        Case::tree(
            "T04",
            "a name of two is replaced, the other keeps the inode",
            Tarball::new().file("f", b"first").hardlink("g", "f").file("f", b"second").end(),
            [file("f", b"second"), file("g", b"first")],
        ),
        Case::tree(
            "T05",
            "a directory twice",
            subtree().header(&Header::new(b'5', "d").mode(0o700).owner(1, 2)).end(),
            [dir("d").mode(0o700).owner(1, 2), dir("d/sub"), file("d/sub/f", b"data")],
        ),
    ]
}

/// A directory with something in it.
fn subtree() -> Tarball {
    Tarball::new().dir("d").dir("d/sub").file("d/sub/f", b"data")
}

fn replacement() -> Vec<Case> {
    vec![
        Case::tree(
            "T06",
            "a file over a directory",
            subtree().file("d", b"flat").end(),
            [file("d", b"flat")],
        ),
        Case::tree(
            "T06",
            "a file over a directory, then a directory again",
            subtree().file("d", b"flat").dir("d").end(),
            [dir("d")],
        ),
        Case::tree(
            "T06",
            "a symbolic link over a directory",
            subtree().dir("e").symlink("d", "e").file("d/x", b"data").end(),
            [symlink("d", "e"), dir("e"), file("e/x", b"data")],
        ),
        Case::tree(
            "T07",
            "a directory over a file",
            Tarball::new().file("d", b"flat").dir("d").file("d/f", b"data").end(),
            [dir("d"), file("d/f", b"data")],
        ),
        Case::tree(
            "T07",
            "a directory over a symbolic link",
            Tarball::new().dir("e").symlink("d", "e").dir("d").file("d/f", b"data").end(),
            [dir("e"), dir("d"), file("d/f", b"data")],
        ),
        Case::tree(
            "T07",
            "a file over a symbolic link",
            Tarball::new().file("e", b"untouched").symlink("d", "e").file("d", b"data").end(),
            [file("e", b"untouched"), file("d", b"data")],
        ),
    ]
}

fn hard_links() -> Vec<Case> {
    let later = Header::new(b'1', "g").link("f").mode(0o4711).owner(3, 4).mtime(9);
    vec![
        Case::tree(
            "T08",
            "the later header describes the inode",
            Tarball::new().file("f", b"data").header(&later).end(),
            [file("f", b"data").mode(0o4711).owner(3, 4).mtime(9, 0), link("g", "f")],
        ),
        Case::tree(
            "T08",
            "attributes of both headers",
            Tarball::new()
                .pax(&[("SCHILY.xattr.user.a", "1"), ("SCHILY.xattr.user.b", "1")])
                .file("f", b"data")
                .pax(&[("SCHILY.xattr.user.b", "2"), ("SCHILY.xattr.user.c", "2")])
                .hardlink("g", "f")
                .end(),
            [
                file("f", b"data")
                    .xattr("user.a", b"1")
                    .xattr("user.b", b"2")
                    .xattr("user.c", b"2"),
                link("g", "f"),
            ],
        ),
        Case::tree(
            "T08",
            "a chain of four names",
            Tarball::new()
                .dir("d")
                .file("f", b"data")
                .hardlink("d/g", "f")
                .hardlink("h", "d/g")
                .hardlink("i", "/h")
                .end(),
            [dir("d"), file("f", b"data"), link("d/g", "f"), link("h", "f"), link("i", "f")],
        ),
        Case::tree(
            "T08",
            "a link replaces a file",
            Tarball::new().file("f", b"data").file("g", b"other").hardlink("g", "f").end(),
            [file("f", b"data"), link("g", "f")],
        ),
    ]
}

fn special_links() -> Vec<Case> {
    vec![
        Case::tree(
            "T11",
            "to a symbolic link",
            Tarball::new().symlink("l", "nowhere").hardlink("m", "l").end(),
            [symlink("l", "nowhere"), link("m", "l")],
        ),
        Case::tree(
            "T11",
            "to a device and a FIFO",
            Tarball::new()
                .header(&Header::new(b'3', "null").device(1, 3).mode(0o666))
                .header(&Header::new(b'6', "pipe"))
                .header(&Header::new(b'1', "zero").link("null").mode(0o666))
                .hardlink("queue", "pipe")
                .end(),
            [
                char("null", 1, 3).mode(0o666),
                fifo("pipe"),
                link("zero", "null"),
                link("queue", "pipe"),
            ],
        ),
    ]
}

fn refused_links() -> Vec<Case> {
    let missing = "hardlink-target-not-found";
    vec![
        Case::refused(
            "T09",
            "before its target",
            Tarball::new().hardlink("g", "f").file("f", b"data").end(),
            missing,
        ),
        Case::refused("T09", "no target", Tarball::new().hardlink("g", "f").end(), missing),
        Case::refused(
            "T09",
            "target in a directory that is not there",
            Tarball::new().hardlink("g", "d/f").end(),
            missing,
        ),
        Case::refused(
            "T10",
            "target only in a lower layer: containerd cannot make this link in its upper either",
            Tarball::new().dir("usr").hardlink("usr/new-name", "usr/of-a-lower-layer").end(),
            missing,
        ),
        Case::refused(
            "T12",
            "to a directory",
            Tarball::new().dir("d").hardlink("g", "d").end(),
            "hardlink-to-directory",
        ),
        Case::refused(
            "T12",
            "to the root",
            Tarball::new().hardlink("g", "/").end(),
            "hardlink-to-directory",
        ),
        Case::refused("T13", "to itself", Tarball::new().hardlink("f", "f").end(), missing),
        Case::refused(
            "T13",
            "to itself when there is such a file: the name is freed first",
            Tarball::new().file("f", b"data").hardlink("f", "f").end(),
            missing,
        ),
    ]
}

fn symlinks_and_devices() -> Vec<Case> {
    let pointing = |len: usize| {
        let target = "t".repeat(len);
        Tarball::new().pax_raw(record("linkpath", &target)).symlink("l", "short").end()
    };
    vec![
        Case::refused("T17", "no target", Tarball::new().symlink("l", "").end(), "bad-symlink"),
        Case::tree("T18", "4095 bytes", pointing(4095), [symlink("l", "t".repeat(4095))]),
        Case::refused("T18", "4096 bytes", pointing(4096), "bad-symlink"),
        Case::tree(
            "T20",
            "devices and a FIFO",
            Tarball::new()
                .header(&Header::new(b'3', "null").device(1, 3))
                .header(&Header::new(b'4', "loop").device(7, 0x12345))
                .header(&Header::new(b'3', "big").device(0xfff, 0xf_ffff))
                .header(&Header::new(b'6', "pipe").mode(0o600))
                .end(),
            [
                char("null", 1, 3),
                block("loop", 7, 0x12345),
                char("big", 0xfff, 0xf_ffff),
                fifo("pipe").mode(0o600),
            ],
        ),
        Case::refused(
            "T20",
            "a major number of 13 bits",
            Tarball::new().header(&Header::new(b'3', "c").device(0x1000, 0)).end(),
            "tar-out-of-range",
        ),
        Case::tree(
            "T21",
            "a character device 0:0 stays what it is",
            Tarball::new().header(&Header::new(b'3', "c").device(0, 0)).end(),
            [char("c", 0, 0)],
        ),
    ]
}

/// Content that no two files of different length share a part of.
fn pattern(len: usize) -> Vec<u8> {
    let byte = |i: usize| u8::try_from((i * 31 + len) % 251).unwrap_or_default();
    (0..len).map(byte).collect()
}

fn sizes() -> Vec<Case> {
    let lens = [0, 1, 511, 512, 513, 4095, 4096, 4097, 8191, 8192, 8193, 65_535, 65_536, 65_537];
    let tar =
        lens.iter().fold(Tarball::new(), |tar, &len| tar.file(format!("f{len}"), pattern(len)));
    let items: Vec<Item> = lens.iter().map(|&len| file(format!("f{len}"), pattern(len))).collect();
    let tebibyte = 1 << 40;
    let holes = Tarball::new()
        .pax(&[
            ("GNU.sparse.major", "1".to_owned()),
            ("GNU.sparse.minor", "0".to_owned()),
            ("GNU.sparse.name", "huge".to_owned()),
            ("GNU.sparse.realsize", u64::to_string(&tebibyte)),
        ])
        .member(
            Header::new(b'0', "GNUSparseFile.1/huge"),
            [b"1\n4096\n4\n".as_slice(), &[0; 503], b"data"].concat(),
        )
        .end();
    vec![
        Case::tree("T23", "sizes around every boundary", tar.end(), items),
        Case::tree(
            "T23",
            "a sparse file of 1 TiB",
            holes,
            [sparse("huge", tebibyte, &[(4096, b"data")])],
        ),
    ]
}
