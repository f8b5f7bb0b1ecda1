//! Trees with known roots, and everything that can happen to one. `tests/tests/dmverity.rs` asks veritysetup.
#![allow(clippy::indexing_slicing)]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use super::*;

const ON: &CancelCheck<'static> = &|| false;

/// What is in a block, its number, and where it is.
type Bad = Option<(BlockContents, u64, u64)>;

fn content(len: u64) -> Vec<u8> {
    (0..len).map(|i| ((i * 7 + i / 251) & 0xFF) as u8).collect()
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap()];
    ReadAt::read_exact_at(file, &mut bytes, 0).unwrap();
    bytes
}

fn flip(file: &File, offset: u64) {
    let mut byte = [0];
    ReadAt::read_exact_at(file, &mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// Bytes of content, bytes with the zeros behind it, block bits, blocks, levels, root: by veritysetup, and by a few lines
/// of Python.
const KNOWN: [(u64, usize, u8, u64, usize, &str); 8] = [
    (1, 1, 12, 1, 0, "2e534ef0107d592d1706ac38ad58596b85ef3375d360a6d669f974792df5cb5a"),
    (4096, 4096, 12, 1, 0, "88bfb916fc8c7b640d9a4eefd72cb3b94def390456309c401cad5c6bfa926d06"),
    (4097, 4097, 12, 2, 1, "ef74337bccb98e7930aa55fa2eec2e3235260978005012455d0f9207f143a778"),
    (
        1 << 19,
        1 << 19,
        12,
        128,
        1,
        "d6da287d92088eeb71b9ab53a788bb2bee1e88e9a1115ad676d4d8f141332978",
    ),
    (
        528384,
        528384,
        12,
        129,
        2,
        "6fb9849c7f6917f57dad31757957b40a6b6e457f46791ea392433b8c7214e289",
    ),
    (5000, 5000, 9, 10, 1, "d6555ebae57364c2ffacc2dbcbcc41bb350da897c47304a29198d08773427165"),
    (139264, 139264, 9, 272, 3, "088a2b739143ea4bc5bae567a51220bac9d0572401b734bfbf802a21e38f8d48"),
    (
        4096,
        67112960,
        12,
        16385,
        3,
        "47184d7e9c5674490914ac2064b53b03f529f189929860487344a192a6859ed5",
    ),
];

#[test]
fn roots_are_those_of_veritysetup() {
    for (len, with_zeros, bits, blocks, levels, root) in KNOWN {
        let mut bytes = content(len);
        bytes.resize(with_zeros, 0);
        let file = file(&bytes);
        let made = append(&file, bits, ON).unwrap();
        let hash_offset = blocks << bits;
        let want = DmVerityTree { root: root.parse().unwrap(), hash_offset, block_size: 1 << bits };
        assert_eq!(made, want, "{len} bytes");
        let header = verify(&file, hash_offset, made.root, ON).unwrap();
        assert_eq!(header.geometry.levels.len(), levels);
        assert_eq!((header.geometry.end(), header.uuid()), (file.size(), made.root.uuid()));
        assert_eq!(header.salt(), [0; 32]);
    }
}

#[test]
fn the_same_image_has_the_same_tree() {
    let [a, b] = [0, 1].map(|_| {
        let file = file(&content(3_000_000));
        append(&file, 12, ON).unwrap();
        read(&file)
    });
    assert!(a == b);
    // A UUID of version 8: nothing of it is by chance.
    let at = 3_002_368 + 16;
    assert_eq!((a[at + 6] >> 4, a[at + 8] >> 6), (8, 2));
}

#[test]
fn the_first_bad_block_is_named() {
    let bytes = content(600 << 12);
    let made = append(&file(&bytes), 12, ON).unwrap();
    let at = made.hash_offset;
    // 600 blocks of data have 5 of digests, and these have one.
    let block = |holds, block, offset| Some((holds, block, offset));
    let table: [(&[u64], Bad); 6] = [
        (&[], None),
        (&[0], block(BlockContents::Data, 0, 0)),
        (&[599 << 12, (300 << 12) + 4095, 400 << 12], block(BlockContents::Data, 300, 300 << 12)),
        (&[at - 1], block(BlockContents::Data, 599, 599 << 12)),
        // Digests are trusted before data is compared with them.
        (&[0, at + (3 << 12)], block(BlockContents::Digests { level: 0 }, 1, at + (3 << 12))),
        // What lies behind the last digest is covered too.
        (&[at + (7 << 12) - 1], block(BlockContents::Digests { level: 0 }, 4, at + (6 << 12))),
    ];
    for (flips, want) in table {
        let file = file(&bytes);
        append(&file, 12, ON).unwrap();
        flips.iter().for_each(|offset| flip(&file, *offset));
        let found = match verify(&file, at, made.root, ON) {
            Ok(_) => None,
            Err(Error::Block { holds, block, offset }) => Some((holds, block, offset)),
            Err(error) => panic!("{flips:?}: {error}"),
        };
        assert_eq!(found, want, "{flips:?}");
    }
    let file = file(&bytes);
    append(&file, 12, ON).unwrap();
    flip(&file, at + (1 << 12));
    assert_eq!(verify(&file, at, made.root, ON).unwrap_err().code(), "dmverity-root");
}

#[test]
fn another_root_and_another_salt_are_refused() {
    let file = file(&content(20_000));
    let made = append(&file, 12, ON).unwrap();
    let other = RootHash([7; 32]);
    let error = verify(&file, made.hash_offset, other, ON).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the dm-verity root hash is {}, and not {other}", made.root)
    );
    flip(&file, made.hash_offset + 88);
    let error = verify(&file, made.hash_offset, made.root, ON).unwrap_err();
    assert_eq!(error.code(), "dmverity-root");
}

#[test]
fn superblocks_that_cannot_be_used_are_refused() {
    let bytes = content(20_000);
    let at = 20_480;
    let change = |what: &dyn Fn(&File)| {
        let file = file(&bytes);
        append(&file, 12, ON).unwrap();
        what(&file);
        Header::read(&file, at).map(drop).map_err(|e| e.code())
    };
    let put = |offset: u64, bytes: &'static [u8]| {
        move |file: &File| file.write_all_at(bytes, at + offset).unwrap()
    };
    assert_eq!(change(&|_| ()), Ok(()));
    assert_eq!(change(&put(0, b"x")), Err("dmverity-no-tree"));
    assert_eq!(change(&|file| file.set_len(at + 511).unwrap()), Err("dmverity-no-tree"));
    assert_eq!(change(&|file| file.set_len(at + 512).unwrap()), Err("dmverity-short"));
    let table: [(u64, &[u8]); 9] = [
        (8, &[2]),                    // version
        (12, &[0]),                   // hash type
        (32, b"sha512"),              // algorithm
        (64, &[0, 2]),                // data block size
        (68, &[0, 2]),                // hash block size
        (64, &[0, 0, 1, 0, 0, 0, 1]), // both, too large
        (72, &[4]),                   // fewer blocks
        (72, &[6]),                   // more blocks
        (80, &[1, 1]),                // 257 bytes of salt
    ];
    for (offset, bytes) in table {
        assert_eq!(change(&put(offset, bytes)), Err("dmverity-super"), "at {offset}: {bytes:?}");
    }
    let file = file(&content(20_480));
    for offset in [u64::MAX, u64::MAX - 100, 1 << 62, 20_480, 1000] {
        assert_eq!(Header::read(&file, offset).unwrap_err().code(), "dmverity-no-tree");
    }
}

#[test]
fn geometry_refuses_what_has_no_tree() {
    for (offset, bits) in [(0, 12), (100, 12), (4096, 8), (4096, 13), (!4095, 12), (1 << 63, 9)] {
        assert_eq!(
            Geometry::new(offset, bits).unwrap_err().code(),
            "dmverity-unfit",
            "{offset} {bits}"
        );
    }
    let large = Geometry::new(1 << 61, 9).unwrap();
    assert!(large.end() > 1 << 61 && large.levels.len() == 13);
    assert_eq!(append(&file(b""), 12, ON).unwrap_err().code(), "dmverity-unfit");
    for (image, want) in [(9, 9), (10, 10), (12, 12), (16, 12)] {
        assert_eq!(block_bits_for(image), want);
    }
}

#[test]
fn root_hashes_are_read_and_written() {
    let digits = "00ff10".to_owned() + &"ab".repeat(29);
    let root: RootHash = digits.parse().unwrap();
    assert_eq!(root.to_string(), digits);
    assert_eq!(format!("sha256:{}", digits.to_uppercase()).parse::<RootHash>().unwrap(), root);
    for bad in
        ["", "sha256:", &digits[1..], &(digits.clone() + "0"), &("+".to_owned() + &digits[1..])]
    {
        assert_eq!(bad.parse::<RootHash>().unwrap_err().code(), "dmverity-bad-root", "{bad:?}");
    }
}

#[test]
fn work_can_be_called_off() {
    let file = file(&content(20_000));
    assert_eq!(append(&file, 12, &|| true).unwrap_err().code(), "cancelled");
}

/// What is known is not read: here other bytes are known than there are, and those are the block that is wrong.
#[test]
fn known_digests_are_taken_as_they_are() {
    let bytes = content(3 << 20);
    let right = append(&file(&bytes), 12, ON).unwrap();
    let mut other = bytes.clone();
    other[(1 << 20) + 5 * 4096] ^= 1;
    let image = file(&other);
    let mut known = unknown(12);
    known.add(1 << 19, &bytes[1 << 19..2 << 20]);
    let made = append_with(&image, 12, &[unknown(9), known], ON).unwrap();
    assert_eq!(made, right);
    let wrong = verify(&image, made.hash_offset, made.root, ON).unwrap_err();
    assert!(
        matches!(wrong, Error::Block { holds: BlockContents::Data, block: 261, .. }),
        "{wrong}"
    );
}
