//! W: whiteouts and opaque directories, in the tar of a layer and in the overlayfs form that an image holds.

use super::Case;
use crate::listing::make::{Item, char, dir, file, implicit, link, symlink};
use crate::tarball::{Header, Tarball};

/// What overlayfs reads as "this name is gone".
fn whiteout(path: &str) -> Item {
    char(path, 0, 0).mode(0)
}

/// A directory that hides the same one of the layers below.
fn opaque(item: Item) -> Item {
    item.xattr("trusted.overlay.opaque", b"y")
}

/// A directory with a whiteout in it: without this mark overlayfs lists the whiteout where only one layer has the
/// directory.
fn holds_whiteout(item: Item) -> Item {
    item.xattr("trusted.overlay.origin", b"")
}

pub(super) fn cases() -> Vec<Case> {
    let mut out = single();
    out.extend(long());
    out.extend(opaque_dirs());
    out.extend(malformed());
    out.extend(replaced());
    out.extend(base());
    out
}

fn empty(name: &str) -> Tarball {
    Tarball::new().file(name, b"")
}

fn single() -> Vec<Case> {
    let root = || holds_whiteout(implicit(""));
    vec![
        Case::tree("W01", "a file", empty(".wh.f").end(), [root(), whiteout("f")]),
        Case::tree(
            "W01",
            "in a directory that is described",
            Tarball::new().dir("d").file("d/.wh.f", b"").end(),
            [holds_whiteout(dir("d")), whiteout("d/f")],
        ),
        Case::tree(
            "W01",
            "in a directory that is not",
            empty("d/.wh.f").end(),
            [holds_whiteout(implicit("d")), whiteout("d/f")],
        ),
        Case::tree(
            "W01",
            "as a symbolic link and as a device",
            Tarball::new()
                .symlink(".wh.l", "x")
                .header(&Header::new(b'3', ".wh.c").device(1, 3))
                .end(),
            [root(), whiteout("l"), whiteout("c")],
        ),
        Case::tree(
            "W01",
            "of a name that looks like one",
            empty(".wh.x.wh.y").end(),
            [root(), whiteout("x.wh.y")],
        ),
        Case::tree(
            "W10",
            "of a name that no layer has",
            empty(".wh.none").end(),
            [root(), whiteout("none")],
        ),
        Case::tree(
            "W01",
            "the same one twice",
            empty(".wh.f").file(".wh.f", b"").end(),
            [root(), whiteout("f")],
        ),
        Case::tree(
            "T22",
            "only whiteouts",
            empty(".wh.a").file(".wh.b", b"").file(".wh.c", b"").end(),
            [root(), whiteout("a"), whiteout("b"), whiteout("c")],
        ),
    ]
}

/// No file has the name that the archive has for a whiteout, which may be longer than names are.
fn long() -> Vec<Case> {
    let whiteout_of = |name: &str| {
        let path = format!(".wh.{name}");
        Tarball::new().pax(&[("path", path)]).file(".wh.n", b"").end()
    };
    let (longest, longer) = ("n".repeat(255), "n".repeat(256));
    let shows = [holds_whiteout(implicit("")), whiteout(&longest)];
    vec![
        Case::tree("W01", "of a name of 255 bytes", whiteout_of(&longest), shows),
        Case::refused("W01", "of a name of 256 bytes", whiteout_of(&longer), "name-too-long"),
    ]
}

fn opaque_dirs() -> Vec<Case> {
    let opq = "d/.wh..wh..opq";
    let with_child = || [opaque(dir("d")), file("d/f", b"data")];
    vec![
        Case::tree(
            "W03",
            "before its children",
            Tarball::new().dir("d").file(opq, b"").file("d/f", b"data").end(),
            with_child(),
        ),
        Case::tree(
            "W03",
            "after its children",
            Tarball::new().dir("d").file("d/f", b"data").file(opq, b"").end(),
            with_child(),
        ),
        Case::tree(
            "W03",
            "before its directory",
            Tarball::new().file(opq, b"").dir("d").file("d/f", b"data").end(),
            with_child(),
        ),
        Case::tree(
            "W03",
            "the root",
            empty(".wh..wh..opq").file("f", b"data").end(),
            [opaque(implicit("")), file("f", b"data")],
        ),
        Case::tree("W04", "no directory", empty(opq).end(), [opaque(implicit("d"))]),
        Case::tree(
            "W05",
            "a whiteout inside, before",
            Tarball::new().dir("d").file("d/.wh.f", b"").file(opq, b"").end(),
            [opaque(dir("d"))],
        ),
        Case::tree(
            "W05",
            "a whiteout inside, after",
            Tarball::new().dir("d").file(opq, b"").file("d/.wh.f", b"").end(),
            [opaque(dir("d"))],
        ),
        Case::tree(
            "W05",
            "a whiteout further down",
            Tarball::new().dir("d").file(opq, b"").dir("d/e").file("d/e/.wh.f", b"").end(),
            [opaque(dir("d")), dir("d/e")],
        ),
    ]
}

fn malformed() -> Vec<Case> {
    let bad = |id, variant, tar: Tarball| Case::refused(id, variant, tar.end(), "bad-whiteout");
    vec![
        bad("W06", ".wh. alone", empty(".wh.")),
        bad("W06", "of the directory itself", empty("d/.wh..")),
        bad("W06", "of the parent", empty("d/.wh...")),
        Case::tree(
            "W08",
            "AUFS bookkeeping",
            Tarball::new()
                .dir(".wh..wh.plnk")
                .file(".wh..wh.plnk/163.1234", b"data")
                .file(".wh..wh.aufs", b"")
                .dir(".wh..wh.orph")
                .file("f", b"data")
                .end(),
            [file("f", b"data")],
        ),
        Case::tree(
            "W08",
            "links to the first names that AUFS keeps",
            Tarball::new()
                .dir(".wh..wh.plnk")
                .file(".wh..wh.plnk/163.1", b"data")
                .file(".wh..wh.plnk/163.2", b"no link")
                .dir("bin")
                .hardlink("bin/other", ".wh..wh.plnk/163.1")
                .hardlink("bin/real", "./.wh..wh.plnk/163.1")
                .end(),
            [dir("bin"), file("bin/other", b"data"), link("bin/real", "bin/other")],
        ),
        Case::refused(
            "W08",
            "a link to a name that AUFS does not keep",
            Tarball::new().dir(".wh..wh.plnk").hardlink("f", ".wh..wh.plnk/163.1").end(),
            "hardlink-target-not-found",
        ),
        bad(
            "W09",
            "a directory with children",
            Tarball::new().dir(".wh.d").file(".wh.d/f", b"data"),
        ),
        bad("W09", "a directory", Tarball::new().dir(".wh.d")),
        bad("W09", "children only", Tarball::new().file(".wh.d/f", b"data")),
    ]
}

fn replaced() -> Vec<Case> {
    let f = || [file("f", b"data")];
    let d = || [opaque(dir("d")), file("d/f", b"data")];
    let dir_with_file = || Tarball::new().dir("d").file("d/f", b"data");
    vec![
        Case::tree("W02", "whiteout, then the file", empty(".wh.f").file("f", b"data").end(), f()),
        Case::tree(
            "W02",
            "the file, then the whiteout",
            Tarball::new().file("f", b"data").file(".wh.f", b"").end(),
            f(),
        ),
        Case::tree(
            "W02",
            "whiteout, then a symbolic link",
            empty(".wh.l").symlink("l", "x").end(),
            [symlink("l", "x")],
        ),
        Case::tree(
            "W02",
            "whiteout, then a hard link",
            Tarball::new().file("f", b"data").file(".wh.g", b"").hardlink("g", "f").end(),
            [file("f", b"data"), crate::listing::make::link("g", "f")],
        ),
        Case::tree(
            "W11",
            "whiteout of a directory, then the directory",
            empty(".wh.d").dir("d").file("d/f", b"data").end(),
            d(),
        ),
        Case::tree(
            "W11",
            "the directory, then its whiteout",
            dir_with_file().file(".wh.d", b"").end(),
            d(),
        ),
        Case::tree(
            "W11",
            "whiteout of a directory, then a file below it",
            empty(".wh.d").file("d/f", b"data").end(),
            [opaque(implicit("d")), file("d/f", b"data")],
        ),
        Case::refused(
            "T09",
            "a hard link to a name that this layer hides",
            empty(".wh.f").hardlink("g", "f").end(),
            "hardlink-target-not-found",
        ),
    ]
}

fn base() -> Vec<Case> {
    let all = Tarball::new()
        .file(".wh.f", b"")
        .dir("d")
        .file("d/.wh..wh..opq", b"")
        .file("d/g", b"data")
        .file("e/.wh.h", b"")
        .end();
    vec![
        Case::tree(
            "W12",
            "nothing to hide in a base layer",
            all,
            [dir("d"), file("d/g", b"data"), implicit("e")],
        )
        .base(),
        Case::refused("W12", "a bad whiteout in a base layer", empty(".wh.").end(), "bad-whiteout")
            .base(),
        Case::tree(
            "W14",
            "overlay attributes on a device 0:0",
            Tarball::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.metacopy", "")])
                .header(&Header::new(b'3', "c").device(0, 0))
                .end(),
            [char("c", 0, 0).xattr("trusted.overlay.overlay.metacopy", b"")],
        ),
    ]
}
