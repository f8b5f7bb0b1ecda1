#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::format::{SUPER_MAGIC, Superblock, mode};

/// An image in memory: a superblock, an inode at byte 0x4e0, and what belongs to it behind.
struct World {
    bytes: Vec<u8>,
    sb: Super,
}

const INODE: usize = 0x4E0;
const INCOMPAT: u32 =
    incompat::ZERO_PADDING | incompat::ZTAILPACKING | incompat::FRAGMENTS | incompat::LAYOUT_48BIT;

impl World {
    /// A file of `size` bytes whose map is in `map`, as hexadecimal digits.
    fn new(layout: Layout, size: u32, incompat: u32, map: &str) -> Self {
        let mut head = Superblock::new_zeroed();
        head.magic = SUPER_MAGIC.into();
        head.blkszbits = 12;
        head.feature_incompat = incompat.into();
        head.packed_nid = 1000.into();
        // Where there are configuration records, an LZ4 record follows the superblock.
        head.u1 = 1.into();
        let mut bytes = vec![0; 16384];
        bytes[1024..1152].copy_from_slice(head.as_bytes());
        bytes[1152..1158].copy_from_slice(&[14, 0, 0xFF, 0xFF, 16, 0]);
        bytes[INODE..INODE + 2].copy_from_slice(&layout.format_bits().to_le_bytes());
        bytes[INODE + 4..INODE + 6].copy_from_slice(&(mode::IFREG | 0o644).to_le_bytes());
        bytes[INODE + 8..INODE + 12].copy_from_slice(&size.to_le_bytes());
        let digits: Vec<u8> = map.bytes().filter(u8::is_ascii_hexdigit).collect();
        for (i, pair) in digits.chunks(2).enumerate() {
            let text = std::str::from_utf8(pair).unwrap();
            bytes[INODE + 32 + i] = u8::from_str_radix(text, 16).unwrap();
        }
        let sb = Super::read(&bytes).unwrap();
        Self { bytes, sb }
    }

    fn map(&self) -> Result<Map, Error> {
        let nid = INODE as u64 / 32;
        let inode = Inode::decode(&self.sb, nid, INODE as u64, &self.bytes[INODE..]).unwrap();
        Map::read(self, &inode)
    }

    /// All extents, from the start on.
    fn pieces(&self) -> Result<Vec<Piece>, Error> {
        let map = self.map()?;
        map.verify_order(self)?;
        let mut hint = Hint::default();
        let mut pieces: Vec<Piece> = Vec::new();
        while pieces.last().map_or(0, |p| p.end) < map.size {
            let pos = pieces.last().map_or(0, |p| p.end);
            pieces.push(map.find(self, pos, &mut hint)?);
        }
        // Any byte leads to the same extent as its first.
        for piece in &pieces {
            for pos in [piece.start, piece.start.midpoint(piece.end), piece.end - 1] {
                assert_eq!(map.find(self, pos, &mut Hint::default())?, *piece);
            }
        }
        Ok(pieces)
    }

    fn fault(&self) -> CorruptionKind {
        self.pieces().unwrap_err().corruption().unwrap().fault
    }
}

impl Metadata for World {
    fn read_meta(&self, _: Space, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.bytes.get(at..).and_then(|b| b.get(..buf.len()));
        buf.copy_from_slice(bytes.ok_or(CorruptionKind::DataOutside)?);
        Ok(())
    }

    fn superblock(&self) -> &Super {
        &self.sb
    }
}

fn lz4(address: u64, len: u64) -> MappedSource {
    let coding = Coding::Compressed { algorithm: Algorithm::Lz4, partial: false };
    MappedSource::Blocks { address, len, coding }
}

fn stored(address: u64, len: u64) -> MappedSource {
    MappedSource::Blocks { address, len, coding: Coding::Stored }
}

fn piece(start: u64, end: u64, source: MappedSource) -> Piece {
    Piece { start, end, source }
}

/// 20384 bytes as mkfs.erofs stores them: 12288 equal ones, 4096 of noise, 4000 of text.
const SIZE: u32 = 20_384;
const FULL: &str = "0000000000000000 0000000000000000
    0100000001000000 0200000001000200 0200000002000100 0000ba0f02000000 0000a00f00000000";

#[test]
fn full_compact_and_big_tables_say_the_same() {
    let compact = "0000000001000000 0010022000000000 0220ba0f01000000 a00f000002000000";
    let small = [piece(0, 16_314, lz4(4096, 4096)), piece(16_314, 20_384, stored(8192, 4096))];
    let big = "0000000002000000 0000000000000000
        0100000001000000 0200000002080300 0200000002000200 0200000003000100 0000a00f00000000";
    let big_incompat = INCOMPAT | incompat::COMPR_CFGS;
    for (layout, incompat, map, expected) in [
        (Layout::CompressedCompact, INCOMPAT, compact, &small[..]),
        (Layout::CompressedFull, INCOMPAT, FULL, &small[..]),
        (Layout::CompressedFull, big_incompat, big, &[piece(0, 20_384, lz4(4096, 8192))][..]),
    ] {
        let world = World::new(layout, SIZE, incompat, map);
        assert_eq!(world.pieces().unwrap(), expected, "{map}");
    }
}

#[test]
fn inline_tails_follow_the_table() {
    let map = "00006c0009000000 0010022000000000 0220ba1f01000000 a00f000002000000";
    let world = World::new(Layout::CompressedCompact, SIZE, INCOMPAT, map);
    let coding = Coding::Compressed { algorithm: Algorithm::Lz4, partial: false };
    let last = MappedSource::Inline { offset: 0x520, len: 108, coding };
    let expected = [piece(0, 16_314, lz4(4096, 4096)), piece(16_314, 20_384, last)];
    assert_eq!(world.pieces().unwrap(), expected);
}

#[test]
fn extent_records_of_every_size_say_the_same() {
    // Two lclusters of 32 KiB each; the second is a hole.
    let four = "0000000001000003 0010000000000000 00200010 00000000";
    let eight = "0000000003000003 0020001000100000 0000000000000000";
    // Records of 16 bytes are aligned to 16, which is 8 bytes behind the header.
    let sixteen = "0200000005000000 0000000000000000
        00200010 00100000 00000000 00000000 00000000 00000000 00000000 00800000";
    let thirty_two = "0200000007000000 0000000000000000 0000000000000000 0000000000000000
        00200010 00100000 00000000 00000000 00000000 000000000000000000000000
        00000000 00000000 00000000 00800000 00000000 000000000000000000000000";
    let expected = [piece(0, 32_768, lz4(4096, 8192)), piece(32_768, 65_536, MappedSource::Hole)];
    for map in [four, eight, sixteen, thirty_two] {
        let world = World::new(Layout::CompressedFull, 65_536, INCOMPAT, map);
        assert_eq!(world.pieces().unwrap(), expected, "{map}");
    }
}

#[test]
fn a_whole_file_can_be_a_fragment() {
    let world = World::new(Layout::CompressedFull, 100, INCOMPAT, "3930000000000080");
    let expected = [piece(0, 100, MappedSource::Fragment { offset: 0x3039 })];
    assert_eq!(world.pieces().unwrap(), expected);
}

#[test]
fn the_high_half_of_a_fragment_offset_is_in_the_last_head_of_a_full_table() {
    let map = "7856341220000000 0000000000000000 0000000007000000";
    let world = World::new(Layout::CompressedFull, 100, INCOMPAT, map);
    let expected = [piece(0, 100, MappedSource::Fragment { offset: 7 << 32 | 0x1234_5678 })];
    assert_eq!(world.pieces().unwrap(), expected);
}

/// Holes of Linux 7.2: a flag of the head in full tables, no blocks behind it in tables with block counts.
#[test]
fn holes_are_flags_or_counts_of_nothing() {
    let flag = FULL.replacen("0100000001000000", "0140000001000000", 1);
    let counted = "0000000002000000 0000000000000000
        0100000001000000 0200000000080300 0200000002000200 0200000003000100 0000a00f00000000";
    // The flag wins over the blocks that older kernels decode.
    let both = counted.replacen(
        "0100000001000000 0200000000080300",
        "0140000001000000 0200000002080300",
        1,
    );
    // Without an entry behind it there is no place for a count.
    let last =
        FULL.replacen("0000ba0f02000000 0000a00f00000000", "0140000002000000 0200000001000100", 1);
    let compact = "0000000006000000 0010002801000000 0220001005000000 0128000006000000";
    let big = INCOMPAT | incompat::COMPR_CFGS;
    let (full, packed) = (Layout::CompressedFull, Layout::CompressedCompact);
    let hole = MappedSource::Hole;
    for (layout, incompat, map, expected) in [
        (
            full,
            INCOMPAT,
            &*flag,
            vec![piece(0, 16_314, hole), piece(16_314, 20_384, stored(8192, 4096))],
        ),
        (full, big, counted, vec![piece(0, 20_384, hole)]),
        (full, big, &*both, vec![piece(0, 20_384, hole)]),
        (
            full,
            INCOMPAT,
            &*last,
            vec![piece(0, 12_288, lz4(4096, 4096)), piece(12_288, 20_384, hole)],
        ),
        (
            packed,
            big,
            compact,
            vec![piece(0, 12_288, hole), piece(12_288, 20_384, lz4(5 * 4096, 4096))],
        ),
    ] {
        let world = World::new(layout, SIZE, incompat, map);
        assert_eq!(world.pieces().unwrap(), expected, "{map}");
    }
}

#[test]
fn a_hole_is_no_larger_than_any_extent() {
    // lclusters of 32 KiB, one extent.
    for (clusters, fault) in [(384u32, None), (385, Some(CorruptionKind::MapTooLarge))] {
        let mut map = "0000000000000003 0000000000000000 0140000001000000".to_owned();
        for lcn in 1..clusters {
            let (back, forward) = (lcn.to_le_bytes(), (clusters - lcn).to_le_bytes());
            let hex = |b: [u8; 4]| format!("{:02x}{:02x}", b[0], b[1]);
            map += &format!("02000000{}{}", hex(back), hex(forward));
        }
        let world = World::new(Layout::CompressedFull, clusters << 15, INCOMPAT, &map);
        let got = world.pieces().map(|pieces| pieces.len());
        match fault {
            None => assert_eq!(got.unwrap(), 1),
            Some(fault) => assert_eq!(world.fault(), fault),
        }
    }
}

/// What is wrong, the fault it is, and what in the full table is replaced by what; nothing for all of it.
const BROKEN: &[(&str, CorruptionKind, &str, &str)] = &[
    ("undefined advice", CorruptionKind::MapHeader, "", "0000000040000000"),
    ("reserved cluster bits", CorruptionKind::MapHeader, "", "0000000000000010"),
    ("block counts without the feature", CorruptionKind::MapFeature, "", "0000000002000000"),
    (
        "a whole lcluster as offset",
        CorruptionKind::MapEntry,
        "0000ba0f02000000",
        "0000001002000000",
    ),
    (
        "undefined bits of an entry",
        CorruptionKind::MapEntry,
        "0100000001000000",
        "0110000001000000",
    ),
    ("no head at the start", CorruptionKind::MapLookback, "0100000001000000", "0200000001000000"),
    (
        "a head that starts late",
        CorruptionKind::MapLookback,
        "0100000001000000",
        "0100010001000000",
    ),
    ("a distance of nothing", CorruptionKind::MapLookback, "0200000002000100", "0200000000000100"),
    (
        "a distance past the head",
        CorruptionKind::MapLookback,
        "0200000002000100",
        "0200000003000100",
    ),
    (
        "a promise past the next head",
        CorruptionKind::MapLookahead,
        "0200000002000100",
        "0200000002000200",
    ),
    (
        "an unexpected block count",
        CorruptionKind::MapBlockCount,
        "0200000001000200",
        "0200000001080200",
    ),
    ("a hole that is no head", CorruptionKind::MapEntry, "0200000001000200", "0240000001000200"),
    ("a hole that is stored", CorruptionKind::MapStored, "0000ba0f02000000", "0040ba0f02000000"),
    (
        "a hole whose bytes are behind the table",
        CorruptionKind::MapHole,
        "",
        "00006c0008000000 0000000000000000
        0140000001000000 0200000001000400 0200000002000300 0200000003000200 0200000004000100",
    ),
    (
        "a hole in the packed inode",
        CorruptionKind::MapHole,
        "",
        "7856341220000000 0000000000000000
        0140000001000000 0200000001000400 0200000002000300 0200000003000200 0200000004000100",
    ),
    (
        "a hole of an algorithm not announced",
        CorruptionKind::ComprAlgorithm,
        "",
        "0000000000000200 0000000000000000
        0140000001000000 0200000001000400 0200000002000300 0200000003000200 0200000004000100",
    ),
    (
        "an algorithm not announced",
        CorruptionKind::ComprAlgorithm,
        "0000000000000000 ",
        "0000000000000200 ",
    ),
    (
        "more stored than there is room",
        CorruptionKind::MapStored,
        "",
        "0000000000000000 0000000000000000
        0000000001000000 0200000001000400 0200000002000300 0200000003000200 0200000004000100",
    ),
    ("a tail longer than a block", CorruptionKind::DataInlineCrosses, "", "0000011008000000"),
    (
        "records out of order",
        CorruptionKind::MapExtentOrder,
        "",
        "0200000005000000 0000000000000000
        00200010 00100000 00000000 00000000 00000000 00000000 00000000 00000000",
    ),
    ("more records than bytes", CorruptionKind::MapHeader, "", "FFFFFFFF05000000"),
    (
        "a record of 2 MiB",
        CorruptionKind::MapTooLarge,
        "",
        "0100000005000000 0000000000000000 FFFF1F10 00100000 00000000 00000000",
    ),
];

#[test]
#[allow(clippy::too_many_lines, reason = "one table of faults")]
fn broken_maps_are_refused() {
    for (what, fault, from, to) in BROKEN {
        let map = if from.is_empty() { (*to).to_owned() } else { FULL.replacen(from, to, 1) };
        let world = World::new(Layout::CompressedFull, SIZE, INCOMPAT, &map);
        assert_eq!(world.fault(), *fault, "{what}");
    }
}

#[test]
fn a_decoded_size_above_12_mib_is_refused() {
    let map = "0100000005000000 0000000000000000 00001010 00100000 00000000 00000000";
    let world = World::new(Layout::CompressedFull, 12 << 20, INCOMPAT, map);
    assert_eq!(world.pieces().unwrap().len(), 1);
    let world = World::new(Layout::CompressedFull, (12 << 20) + 1, INCOMPAT, map);
    assert_eq!(world.fault(), CorruptionKind::MapTooLarge);
}
