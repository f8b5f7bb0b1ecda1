//! N: numbers and what they mean: owners, modes, times, sizes, devices.

use super::Case;
use crate::listing::make::{char, dir, file, symlink};
use crate::tarball::{Header, Tarball, field};

pub(super) fn cases() -> Vec<Case> {
    let mut out = owners();
    out.extend(refused_owners());
    out.extend(modes());
    out.extend(times());
    out.extend(sizes());
    out.extend(ignored());
    out
}

fn with(header: Header) -> Vec<u8> {
    Tarball::new().member(header, b"data").end()
}

fn with_pax(key: &str, value: &str) -> Vec<u8> {
    Tarball::new().pax(&[(key, value)]).file("f", b"data").end()
}

fn f() -> Header {
    Header::new(b'0', "f")
}

fn owners() -> Vec<Case> {
    let data = || file("f", b"data");
    let padded = f()
        .raw(field::MODE, "   600 ")
        .raw(field::UID, "  1750  ")
        .raw(field::GID, "00000024")
        .raw(field::MTIME, " 14524770000");
    let no_numbers = f()
        .raw(field::UID, "")
        .raw(field::GID, "")
        .raw(field::UNAME, "daemon")
        .raw(field::GNAME, "adm");
    vec![
        Case::tree(
            "N01",
            "spaces around, no NUL",
            with(padded),
            [data().mode(0o600).owner(1000, 20).mtime(1_699_999_744, 0)],
        ),
        Case::tree(
            "N02",
            "base-256 owner",
            with(f().owner(3_000_000_000, 4_294_967_294)),
            [data().owner(3_000_000_000, 4_294_967_294)],
        ),
        Case::tree(
            "N02",
            "pax owner",
            Tarball::new()
                .pax(&[("uid", "3000000000"), ("gid", "4294967294")])
                .file("f", b"data")
                .end(),
            [data().owner(3_000_000_000, 4_294_967_294)],
        ),
        Case::tree("N05", "empty uid", with_pax("uid", ""), [data()]),
        Case::tree("N06", "names without numbers", with(no_numbers), [data()]),
        Case::tree(
            "N06",
            "pax names",
            Tarball::new()
                .pax(&[("uname", "daemon"), ("gname", "adm")])
                .member(f().owner(7, 8), b"data")
                .end(),
            [data().owner(7, 8)],
        ),
    ]
}

fn refused_owners() -> Vec<Case> {
    vec![
        Case::refused("N03", "pax uid 2^32+1", with_pax("uid", "4294967297"), "tar-out-of-range"),
        Case::refused("N03", "pax gid 2^32", with_pax("gid", "4294967296"), "tar-out-of-range"),
        Case::refused(
            "N03",
            "base-256 uid 2^32",
            with(f().base256(field::UID, 1 << 32)),
            "tar-out-of-range",
        ),
        Case::refused(
            "N04",
            "2^32-1 is -1 for chown",
            with(f().owner(u64::from(u32::MAX), 0)),
            "tar-out-of-range",
        ),
        Case::refused("N04", "uid -1", with(f().base256(field::UID, -1)), "tar-out-of-range"),
        Case::refused("N04", "gid -1", with(f().base256(field::GID, -1)), "tar-out-of-range"),
        Case::refused("N05", "uid +5", with_pax("uid", "+5"), "tar-bad-number"),
        Case::refused("N05", "uid 5 NUL", with_pax("uid", "5\0"), "tar-bad-number"),
        Case::refused("N05", "uid 0x5", with_pax("uid", "0x5"), "tar-bad-number"),
        Case::refused("N05", "uid -5", with_pax("uid", "-5"), "tar-bad-number"),
        Case::refused("N05", "uid of a space", with_pax("uid", " "), "tar-bad-number"),
    ]
}

fn modes() -> Vec<Case> {
    vec![
        Case::tree(
            "N07",
            "type bits in the mode",
            with(f().mode(0o104_755)),
            [file("f", b"data").mode(0o4755)],
        ),
        Case::tree(
            "N08",
            "setuid, setgid and sticky",
            Tarball::new()
                .member(f().mode(0o6755), b"data")
                .header(&Header::new(b'5', "tmp").mode(0o1777))
                .header(&Header::new(b'5', "none").mode(0))
                .end(),
            [file("f", b"data").mode(0o6755), dir("tmp").mode(0o1777), dir("none").mode(0)],
        ),
        Case::tree(
            "N09",
            "mode of a symbolic link",
            Tarball::new().header(&Header::new(b'2', "l").link("f").mode(0o644)).end(),
            [symlink("l", "f")],
        ),
    ]
}

fn times() -> Vec<Case> {
    let at = |sec, nsec| [file("f", b"data").mtime(sec, nsec)];
    let pax = |value| with_pax("mtime", value);
    vec![
        Case::tree(
            "N10",
            "nine digits",
            pax("1234567890.123456789"),
            at(1_234_567_890, 123_456_789),
        ),
        Case::tree("N10", "no fraction", pax("1234567890"), at(1_234_567_890, 0)),
        Case::tree(
            "N11",
            "twelve digits",
            pax("1234567890.123456789999"),
            at(1_234_567_890, 123_456_789),
        ),
        Case::tree("N11", "two digits", pax("1234567890.25"), at(1_234_567_890, 250_000_000)),
        Case::tree("N11", "a point and no digits", pax("1234567890."), at(1_234_567_890, 0)),
        Case::tree("N12", "-1.5", pax("-1.5"), at(-2, 500_000_000)),
        Case::tree("N12", "base-256, a day before 1970", with(f().mtime(-86_400)), at(-86_400, 0)),
        Case::tree("N13", "year 3058, pax", pax("34359738368"), at(1 << 35, 0)),
        Case::tree("N13", "year 3058, base-256", with(f().mtime(1 << 35)), at(1 << 35, 0)),
        Case::refused("N14", "1e9", pax("1e9"), "tar-bad-number"),
        Case::refused("N14", "10^20", pax("100000000000000000000"), "tar-bad-number"),
        Case::tree(
            "N21",
            "children after their directory",
            Tarball::new().header(&Header::new(b'5', "d").mtime(5)).file("d/f", b"data").end(),
            [dir("d").mtime(5, 0), file("d/f", b"data")],
        ),
        Case::tree(
            "N22",
            "atime and ctime",
            Tarball::new().pax(&[("atime", "1"), ("ctime", "2.5")]).file("f", b"data").end(),
            [file("f", b"data")],
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let headed = |header: Header| Tarball::new().header(&header).data(b"data").end();
    vec![
        Case::refused("N15", "pax size -1", with_pax("size", "-1"), "tar-bad-number"),
        Case::refused(
            "N15",
            "pax size 2^63",
            with_pax("size", "9223372036854775808"),
            "tar-bad-number",
        ),
        Case::refused("N16", "2^80", headed(f().base256(field::SIZE, 1 << 80)), "tar-bad-number"),
        Case::refused("N17", "-1", headed(f().base256(field::SIZE, -1)), "tar-out-of-range"),
        Case::refused(
            "N18",
            "32 TiB",
            headed(f().base256(field::SIZE, 32 << 40)),
            "tar-file-too-large",
        ),
    ]
}

fn ignored() -> Vec<Case> {
    vec![Case::tree(
        "N20",
        "SCHILY.devmajor and devminor",
        Tarball::new()
            .pax(&[("SCHILY.devmajor", "9"), ("SCHILY.devminor", "9")])
            .header(&Header::new(b'3', "null").device(1, 3))
            .end(),
        [char("null", 1, 3)],
    )]
}
