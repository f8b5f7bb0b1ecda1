//! What holds for every archive.

use std::io::{self, Write};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::archive::{archive, gnu, long, padded, pax, slots, ustar, v7};
use super::{Member, read, read_input};
use crate::io::Input;
use crate::meta::{Meta, Time, Xattr};
use crate::tar::{BLOCK, Entry, Kind, Libarchive, Writer};

/// Delivers bytes in pieces of the given sizes, over and over.
struct Pieces<'a> {
    rest: &'a [u8],
    piece: usize,
    sizes: Box<dyn Iterator<Item = usize> + 'a>,
}

impl<'a> Pieces<'a> {
    fn new(rest: &'a [u8], sizes: &'a [usize]) -> Self {
        Self { rest, piece: 0, sizes: Box::new(sizes.iter().copied().cycle()) }
    }
}

impl Input for Pieces<'_> {
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.piece == 0 {
            self.piece = self.sizes.next().unwrap();
        }
        Ok(&self.rest[..self.piece.min(self.rest.len())])
    }

    fn consume(&mut self, n: usize) {
        assert!(n <= self.piece, "more consumed than was given");
        self.piece -= n;
        self.rest = &self.rest[n..];
    }
}

/// An archive with a little of everything.
fn everything() -> Vec<u8> {
    archive(&[
        ustar(b'g', "g").data(&[]),
        ustar(b'5', "d/").header(),
        v7(0, "v7").data(b"old"),
        pax(&[("path", &"p".repeat(200)), ("mtime", "-1.5"), ("SCHILY.xattr.user.a", "b\n")]),
        ustar(b'0', "x").data(&[5; 700]),
        long(b'K', &[b'k'; 120]),
        long(b'L', &[b'l'; 520]),
        gnu(b'2', "x").header(),
        ustar(b'3', "null").header(),
        pax(&[
            ("GNU.sparse.size", "4096"),
            ("GNU.sparse.numblocks", "1"),
            ("GNU.sparse.map", "512,600"),
        ]),
        ustar(b'0', "sparse01").data(&[6; 600]),
        pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "4096"),
        ]),
        ustar(b'0', "sparse10").data(&[padded(b"1\n100\n7\n"), vec![7; 7]].concat()),
        gnu(b'S', "sparse-old")
            .size(9)
            .with(|h| {
                h.tail[137] = 1;
                h.tail[138..150].copy_from_slice(b"00000010000\0");
            })
            .header(),
        slots(&[(10, 4), (20, 5)], false),
        padded(&[8; 9]),
        ustar(b'1', "hard").link("v7").header(),
        ustar(b'0', "last").data(&[9; 513]),
    ])
}

#[test]
fn f20_the_result_does_not_depend_on_how_bytes_arrive() {
    let bytes = everything();
    let whole = read(&bytes).unwrap();
    assert_eq!(whole.len(), 10);
    for size in (1..600).chain([1000, 4095, 4096, 5000]) {
        let (members, _) = read_input(Pieces::new(&bytes, &[size])).unwrap();
        assert_eq!(members, whole, "pieces of {size}");
    }
}

#[test]
fn truncation_anywhere_is_an_error_or_a_prefix_of_the_tree() {
    let bytes = everything();
    let whole = read(&bytes).unwrap();
    for len in 0..bytes.len() {
        let Ok(members) = read(&bytes[..len]) else { continue };
        let (kept, lost) = whole.split_at(members.len());
        assert_eq!(members, kept, "cut at {len}");
        // Nothing but whole members is missing: the cut is in padding or between two of them.
        let end = kept.last().map_or(0, |(e, _)| e.data_offset + e.stored);
        assert!(end <= len as u64, "cut at {len}");
        if let Some((next, _)) = lost.first() {
            assert!(len as u64 <= next.offset, "cut at {len}");
        }
    }
}

#[test]
fn a_flipped_byte_in_a_header_never_goes_unnoticed() {
    let bytes = everything();
    let (entry, _) = &read(&bytes).unwrap()[1];
    let at = usize::try_from(entry.offset).unwrap();
    for i in (at..at + BLOCK).filter(|i| !(at + 148..at + 156).contains(i)) {
        let mut broken = bytes.clone();
        broken[i] ^= 0x11;
        assert!(read(&broken).is_err(), "byte {i}");
    }
}

fn name(max: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![1 => Just(b'/'), 8 => b'a'..=b'z', 1 => 1..=u8::MAX];
    vec(byte, 1..max)
}

fn meta() -> impl Strategy<Value = Meta> {
    let id = prop_oneof![0..3_u32, 2_097_150..2_097_154_u32, 0..u32::MAX];
    let sec = prop_oneof![-3..3_i64, (1 << 33) - 2..(1_i64 << 33) + 2, any::<i64>()];
    let nsec = prop_oneof![Just(0_u32), Just(500_000_000), 0..1_000_000_000_u32];
    (0..0o10000_u16, id.clone(), id, sec, nsec).prop_map(|(mode, uid, gid, sec, nsec)| Meta {
        mode,
        uid,
        gid,
        mtime: Time { sec, nsec },
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    let others =
        [Kind::Directory, Kind::Symlink, Kind::Hardlink, Kind::Char, Kind::Block, Kind::Fifo];
    prop_oneof![Just(Kind::Regular), prop::sample::select(others.to_vec())]
}

fn member() -> impl Strategy<Value = Member> {
    let xattr_name = prop_oneof!["user\\.[a-z=%]{1,20}".prop_map(String::into_bytes), name(255)];
    let xattrs = btree_map(xattr_name, vec(any::<u8>(), 0..60), 0..4);
    let data = vec(any::<u8>(), 0..1200);
    let rdev = (0..0x1000_u32, 0..0x10_0000_u32);
    (kind(), name(400), name(300), meta(), rdev, xattrs, data).prop_map(
        |(kind, path, link, mut meta, rdev, xattrs, mut data)| {
            if kind != Kind::Regular {
                data.clear();
            }
            if kind == Kind::Symlink {
                meta.mode = 0o777;
            }
            let is_link = matches!(kind, Kind::Symlink | Kind::Hardlink);
            let entry = Entry {
                path,
                kind,
                link: if is_link { link } else { Vec::new() },
                size: data.len() as u64,
                stored: data.len() as u64,
                rdev: if matches!(kind, Kind::Char | Kind::Block) { rdev } else { (0, 0) },
                meta,
                xattrs: xattrs.into_iter().map(|(name, value)| Xattr { name, value }).collect(),
                ..Entry::default()
            };
            (entry, data)
        },
    )
}

fn write(members: &[Member]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in members {
        writer.write_entry(entry).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap()
}

/// Members without their places, and without what their records are called: names with an equals sign are libarchive's.
fn placeless(mut members: Vec<Member>) -> Vec<Member> {
    for (entry, _) in &mut members {
        (entry.offset, entry.data_offset) = (0, 0);
        assert!(entry.libarchive.only.iter().all(|name| name.contains(&b'=')));
        entry.libarchive = Libarchive::default();
    }
    members
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        members in vec(member(), 0..8),
        sizes in vec(1..2000_usize, 1..20),
    ) {
        let bytes = write(&members);
        prop_assert_eq!(bytes.len() % BLOCK, 0);
        let (back, _) = read_input(Pieces::new(&bytes, &sizes)).unwrap();
        for (entry, data) in &back {
            let at = usize::try_from(entry.data_offset).unwrap();
            prop_assert_eq!(&bytes[at..at + data.len()], &data[..]);
        }
        prop_assert_eq!(placeless(back), members);
    }

    #[test]
    fn noise_is_never_a_panic(
        mut bytes in vec(any::<u8>(), 0..4096),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let _ = read(&bytes);
        bytes = everything();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = read(&bytes);
    }
}
