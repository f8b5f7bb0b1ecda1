//! P: names and paths.

use super::Case;
use crate::listing::make::{Item, dir, file, implicit, symlink};
use crate::tarball::{Header, Tarball, field};

pub(super) fn cases() -> Vec<Case> {
    let mut out = cleaning();
    out.extend(root());
    out.extend(limits());
    out.extend(bytes());
    out.extend(symlinked_parents());
    out.extend(clamped_links());
    out.extend(impossible_parents());
    out
}

/// A file with a path of any length.
fn file_at(path: impl AsRef<[u8]>) -> Vec<u8> {
    Tarball::new().pax(&[("path".as_bytes(), path.as_ref())]).file("f", b"data").end()
}

fn cleaning() -> Vec<Case> {
    vec![
        Case::tree(
            "P01",
            "absolute",
            Tarball::new().dir("/abs").file("/abs/f", b"data").file("//abs//g", b"data").end(),
            [dir("abs"), file("abs/f", b"data"), file("abs/g", b"data")],
        ),
        Case::tree(
            "P02",
            "above the root",
            Tarball::new().file("../../esc", b"data").end(),
            [file("esc", b"data")],
        ),
        Case::tree(
            "P02",
            "cleaned before anything is looked up",
            Tarball::new().dir("b").dir("b/c").file("a/../b/./c//d", b"data").end(),
            [dir("b"), dir("b/c"), file("b/c/d", b"data")],
        ),
        Case::tree(
            "P02",
            "target of a hard link",
            Tarball::new().file("f", b"data").hardlink("g", "/x/../../f").end(),
            [file("f", b"data"), crate::listing::make::link("g", "f")],
        ),
        Case::refused(
            "P04",
            "empty name",
            Tarball::new().file("", b"data").end(),
            "tar-empty-name",
        ),
    ]
}

fn root() -> Vec<Case> {
    let root = |name: &str| {
        let header = Header::new(b'5', name).mode(0o700).owner(5, 6).mtime(7);
        Tarball::new().header(&header).file("f", b"data").end()
    };
    let described = || [dir("").mode(0o700).owner(5, 6).mtime(7, 0), file("f", b"data")];
    let dot = |kind, link: &str| {
        Tarball::new().header(&Header::new(kind, ".").link(link)).file("f", b"data").end()
    };
    vec![
        Case::tree("P03", "./", root("./"), described()),
        Case::tree("P03", "/", root("/"), described()),
        Case::tree("P03", ".", root("."), described()),
        Case::tree("P03", "a/..", root("a/.."), described()),
        Case::tree(
            "P03",
            "none",
            Tarball::new().file("f", b"data").end(),
            [implicit(""), file("f", b"data")],
        ),
        Case::tree(
            "P05",
            ". as a file",
            Tarball::new().file(".", b"data").file("f", b"data").end(),
            [file("f", b"data")],
        ),
        Case::refused("P05", ". as a symbolic link", dot(b'2', "f"), "root-replaced"),
        Case::refused("P05", ". as a hard link", dot(b'1', "f"), "root-replaced"),
    ]
}

fn limits() -> Vec<Case> {
    let longest = [b'n'; 255];
    let deep = |bytes: usize| {
        let mut path = b"d/".repeat(bytes / 2);
        path.resize(bytes, b'f');
        path
    };
    let wide = [longest.as_slice(); 15].join(&b'/');
    let wide = [wide.as_slice(), &[b'n'; 254]].join(&b'/');
    vec![
        Case::tree("P06", "255 bytes", file_at(longest), [file(longest, b"data")]),
        Case::refused("P07", "256 bytes", file_at([b'n'; 256]), "name-too-long"),
        Case::refused(
            "P07",
            "256 bytes in a parent",
            file_at([&[b'n'; 256], b"/f".as_slice()].concat()),
            "name-too-long",
        ),
        // A program that opens it writes a slash before it and a NUL behind, within PATH_MAX.
        Case::tree("P08", "2047 deep", file_at(deep(4093)), [file(deep(4093), b"data")]),
        Case::tree("P08", "4094 bytes in 16 names", file_at(&wide), [file(&wide, b"data")]),
        Case::refused("P08", "4095 bytes", file_at(deep(4095)), "path-too-long"),
        Case::refused("P08", "64 KiB", file_at(deep(65_535)), "path-too-long"),
    ]
}

fn bytes() -> Vec<Case> {
    let odd: [&[u8]; 12] = [
        b"\xff\xfe",
        b"new\nline",
        b"\x01\x1b[31m",
        b"back\\slash",
        b"co:lon,com\\,ma",
        b" space ",
        b"-rf",
        b"!bang",
        b"\"quote\"",
        b"...",
        b"..x",
        b"~",
    ];
    let with =
        |names: &[&[u8]]| names.iter().fold(Tarball::new(), |tar, name| tar.file(name, name)).end();
    let same = |names: &[&[u8]]| names.iter().map(|n| file(n, n)).collect::<Vec<Item>>();
    // "e" with an acute accent, composed and decomposed; three of one name up to case.
    let twins: [&[u8]; 5] = [b"\xc3\xa9", b"e\xcc\x81", b"README", b"readme", b"ReadMe"];
    vec![
        Case::tree("P09", "bytes that are no text", with(&odd), same(&odd)),
        Case::tree("P10", "equal to the eye", with(&twins), same(&twins)),
        Case::tree(
            "P09",
            "a name that fills its field",
            Tarball::new()
                .member(Header::new(b'0', "f").raw(field::NAME, [b'n'; 100]), b"data")
                .end(),
            [file([b'n'; 100], b"data")],
        ),
    ]
}

fn symlinked_parents() -> Vec<Case> {
    vec![
        Case::tree(
            "P12",
            "a link in the same layer",
            Tarball::new().dir("real").symlink("l", "real").file("l/x", b"data").end(),
            [dir("real"), symlink("l", "real"), file("real/x", b"data")],
        ),
        Case::tree(
            "P12",
            "a link to a link, and a directory made below",
            Tarball::new()
                .dir("real")
                .symlink("m", "real")
                .symlink("l", "./m/")
                .file("l/sub/x", b"data")
                .end(),
            [
                dir("real"),
                symlink("m", "real"),
                symlink("l", "./m/"),
                implicit("real/sub"),
                file("real/sub/x", b"data"),
            ],
        ),
        Case::tree(
            "P12",
            "a hard link through a link",
            Tarball::new()
                .dir("real")
                .file("real/f", b"data")
                .symlink("l", "real")
                .hardlink("g", "l/f")
                .end(),
            [
                dir("real"),
                file("real/f", b"data"),
                symlink("l", "real"),
                crate::listing::make::link("g", "real/f"),
            ],
        ),
        Case::tree(
            "P12",
            "a link that leads nowhere yet",
            Tarball::new().symlink("l", "later").file("l/x", b"data").end(),
            [symlink("l", "later"), implicit("later"), file("later/x", b"data")],
        ),
    ]
}

fn clamped_links() -> Vec<Case> {
    let through = |target: &str| {
        Tarball::new().dir("d").dir("etc").symlink("d/l", target).file("d/l/x", b"data").end()
    };
    let landed = |target: &str, path: &str| {
        [dir("d"), dir("etc"), symlink("d/l", target), file(path, b"data")]
    };
    vec![
        Case::tree("P13", "absolute", through("/etc"), landed("/etc", "etc/x")),
        Case::tree(
            "P13",
            "above the root",
            through("../../../etc"),
            landed("../../../etc", "etc/x"),
        ),
        Case::tree("P13", "the root itself", through("/"), landed("/", "x")),
    ]
}

fn impossible_parents() -> Vec<Case> {
    let looped = |tar: Tarball| tar.file("a/x", b"data").end();
    vec![
        Case::refused("P14", "to itself", looped(Tarball::new().symlink("a", "a")), "symlink-loop"),
        Case::refused(
            "P14",
            "two to each other",
            looped(Tarball::new().symlink("a", "b").symlink("b", "a")),
            "symlink-loop",
        ),
        Case::refused(
            "P14",
            "one that grows",
            looped(Tarball::new().symlink("a", "a/a")),
            "symlink-loop",
        ),
        Case::refused(
            "P16",
            "a file as a parent",
            Tarball::new().file("f", b"data").file("f/x", b"data").end(),
            "not-a-directory",
        ),
        Case::refused(
            "P16",
            "a device as a parent",
            Tarball::new().header(&Header::new(b'3', "c").device(1, 3)).file("c/x", b"data").end(),
            "not-a-directory",
        ),
    ]
}
