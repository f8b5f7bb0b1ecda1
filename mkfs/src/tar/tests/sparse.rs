//! Sparse files in all their forms.

use super::archive::{Block, archive, base256, gnu, octal, padded, pax, put, slot, slots, ustar};
use super::{code, one, paths, read};
use crate::meta::Segment;
use crate::tar::Limits;

/// An old GNU sparse member with at most four runs in its header.
fn old(real: u64, runs: &[(u64, u64)], extended: bool) -> Block {
    gnu(b'S', "f").with(|h| {
        for (i, (offset, len)) in runs.iter().enumerate() {
            put(&mut h.tail[41 + 24 * i..], &slot(*offset, *len).offset);
            put(&mut h.tail[41 + 24 * i + 12..], &slot(*offset, *len).len);
        }
        h.tail[137] = u8::from(extended);
        octal(&mut h.tail[138..150], real);
    })
}

fn runs(pairs: &[(u64, u64)]) -> Option<Vec<Segment>> {
    Some(pairs.iter().map(|(offset, len)| Segment { offset: *offset, len: *len }).collect())
}

#[test]
fn s01_old_gnu_map_in_the_header() {
    let bytes = [old(8192, &[(0, 512), (4096, 600), (8192, 0)], false).data(&[7; 1112])].concat();
    let (entry, data) = one(&bytes);
    assert_eq!((entry.size, entry.stored, entry.data_offset), (8192, 1112, 512));
    assert_eq!(entry.sparse, runs(&[(0, 512), (4096, 600)]));
    assert_eq!(data, [7; 1112]);
}

#[test]
fn s01_old_gnu_map_in_blocks_of_its_own() {
    let all: Vec<(u64, u64)> = (0..30).map(|i| (i * 1000, 10)).collect();
    let bytes = [
        old(29_010, &all[..4], true).size(300).header(),
        slots(&all[4..25], true),
        slots(&all[25..], false),
        padded(&[9; 300]),
        ustar(b'0', "next").header(),
    ]
    .concat();
    let members = read(&bytes).unwrap();
    let (entry, data) = &members[0];
    assert_eq!((entry.size, entry.stored, entry.data_offset), (29_010, 300, 1536));
    assert_eq!(entry.sparse, runs(&all));
    assert_eq!(data, &[9; 300]);
    assert_eq!(members[1].0.path, b"next");
    assert_eq!(code(&bytes[..700]), "tar-truncated-header");
    assert_eq!(code(&bytes[..512]), "tar-truncated-header");
}

#[test]
fn s01_type_s_needs_gnu_magic() {
    assert_eq!(code(&ustar(b'S', "f").header()), "tar-bad-sparse-map");
}

/// Records of form 0.0: keys repeat.
fn form_0_0() -> Vec<u8> {
    pax(&[
        ("GNU.sparse.size", "8192"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.offset", "1024"),
        ("GNU.sparse.numbytes", "512"),
        ("GNU.sparse.offset", "8191"),
        ("GNU.sparse.numbytes", "1"),
    ])
}

fn form_0_1(count: &str, map: &str) -> Vec<u8> {
    pax(&[
        ("GNU.sparse.size", "8192"),
        ("GNU.sparse.numblocks", count),
        ("GNU.sparse.map", map),
        ("GNU.sparse.name", "real/name"),
    ])
}

fn form_1_0(real: &str) -> Vec<u8> {
    pax(&[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "real/name"),
        ("GNU.sparse.realsize", real),
    ])
}

#[test]
fn s02_pax_0_0_repeats_its_keys() {
    let (entry, data) = one(&[form_0_0(), ustar(b'0', "f").data(&[7; 513])].concat());
    assert_eq!((entry.size, entry.stored, &*entry.path), (8192, 513, &b"f"[..]));
    assert_eq!(entry.sparse, runs(&[(1024, 512), (8191, 1)]));
    assert_eq!(data.len(), 513);
    let swapped = pax(&[("GNU.sparse.numbytes", "1"), ("GNU.sparse.offset", "1")]);
    assert_eq!(code(&[swapped, ustar(b'0', "f").header()].concat()), "tar-bad-sparse-map");
    let odd =
        pax(&[("GNU.sparse.size", "1"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.offset", "1")]);
    assert_eq!(code(&[odd, ustar(b'0', "f").header()].concat()), "tar-bad-sparse-map");
}

#[test]
fn s03_pax_0_1_has_one_list_and_the_real_name() {
    let member = ustar(b'0', "GNUSparseFile.1/f").data(&[7; 513]);
    let (entry, _) = one(&[form_0_1("2", "1024,512,8191,1"), member.clone()].concat());
    assert_eq!((&*entry.path, entry.size), (&b"real/name"[..], 8192));
    assert_eq!(entry.sparse, runs(&[(1024, 512), (8191, 1)]));
    let bad = [
        ("1", "1024,512,8191,1", "tar-bad-sparse-map"),
        ("3", "1024,512,8191,1", "tar-bad-sparse-map"),
        ("2", "1024,512,8191", "tar-bad-number"),
        ("2", "1024,512,8191,", "tar-bad-number"),
        ("2", "1024,512,8191,1,", "tar-bad-number"),
        ("2", "1024,512,-1,1", "tar-bad-number"),
        ("2", "8191,1,1024,512", "tar-bad-sparse-map"),
        ("2", "1024,512,1535,1", "tar-bad-sparse-map"),
        ("2", "1024,512,8192,1", "tar-bad-sparse-map"),
        ("2", "1024,512,9223372036854775807,1", "tar-bad-sparse-map"),
        ("", "1024,513", "tar-bad-number"),
        ("x", "1024,513", "tar-bad-number"),
    ];
    for (count, map, expected) in bad {
        assert_eq!(code(&[form_0_1(count, map), member.clone()].concat()), expected, "{map}");
    }
}

#[test]
fn s04_pax_1_0_has_the_map_in_front_of_the_data() {
    let stored = [padded(b"2\n1024\n512\n8191\n1\n"), vec![7; 513]].concat();
    let member = ustar(b'0', "GNUSparseFile.1/f").data(&stored);
    let bytes = [form_1_0("8192"), member, ustar(b'0', "next").header()].concat();
    let members = read(&bytes).unwrap();
    let (entry, data) = &members[0];
    assert_eq!((&*entry.path, entry.size, entry.stored), (&b"real/name"[..], 8192, 513));
    assert_eq!((entry.offset, entry.data_offset), (0, 2048));
    assert_eq!(entry.sparse, runs(&[(1024, 512), (8191, 1)]));
    assert_eq!(data, &[7; 513]);
    assert_eq!(members[1].0.path, b"next");
}

#[test]
fn s04_a_map_of_several_blocks_and_an_empty_one() {
    let all: Vec<(u64, u64)> = (0..100).map(|i| (i * 100_000, 1)).collect();
    let text: String = all.iter().map(|(o, l)| format!("{o}\n{l}\n")).collect();
    let map = padded(format!("100\n{text}").as_bytes());
    assert!(map.len() > 512);
    let member = ustar(b'0', "f").data(&[map, vec![1; 100]].concat());
    let (entry, _) = one(&[form_1_0("9900001"), member].concat());
    assert_eq!(entry.sparse, runs(&all));
    let (entry, _) = one(&[form_1_0("4096"), ustar(b'0', "f").data(&padded(b"0\n"))].concat());
    assert_eq!((entry.size, entry.stored, entry.sparse), (4096, 0, Some(vec![])));
}

#[test]
fn s04_bad_maps_are_refused() {
    let cases: [(&[u8], &str); 9] = [
        (b"\n", "tar-bad-number"),
        (b"x\n", "tar-bad-number"),
        (b"-1\n", "tar-bad-number"),
        (b"1\n\n1\n", "tar-bad-number"),
        (b"1\n0\n 1\n", "tar-bad-number"),
        (b"99999999999999999999\n", "tar-bad-number"),
        (b"10001\n", "tar-too-many-sparse-runs"),
        (b"1\n8192\n1\n", "tar-bad-sparse-map"),
        (b"1\n0\n2\n", "tar-bad-sparse-map"),
    ];
    for (map, expected) in cases {
        let member = ustar(b'0', "f").data(&[padded(map), vec![1]].concat());
        assert_eq!(code(&[form_1_0("8192"), member].concat()), expected, "{}", map.escape_ascii());
    }
    // Longer than the data, and than the stream.
    let short = ustar(b'0', "f").data(b"1\n0\n1\n");
    assert_eq!(code(&[form_1_0("1"), short].concat()), "tar-bad-sparse-map");
    let cut = [form_1_0("1"), ustar(b'0', "f").size(1024).header(), b"1\n".to_vec()].concat();
    assert_eq!(code(&cut), "tar-truncated-data");
    let missing = pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]);
    assert_eq!(code(&[missing, ustar(b'0', "f").header()].concat()), "tar-bad-sparse-map");
    let version = pax(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")]);
    assert_eq!(code(&[version, ustar(b'0', "f").header()].concat()), "tar-bad-sparse-map");
    // Digits without end.
    let endless = ustar(b'0', "f").data(&vec![b'0'; (1 << 20) + 512]);
    assert_eq!(code(&[form_1_0("1"), endless].concat()), "tar-extension-too-large");
}

#[test]
fn s06_real_size_is_limited() {
    let limit = Limits::default().file_size;
    let hole =
        |size: u64| [form_1_0(&size.to_string()), ustar(b'0', "f").data(&padded(b"0\n"))].concat();
    assert_eq!(one(&hole(limit)).0.size, limit);
    assert_eq!(code(&hole(1 << 62)), "tar-file-too-large");
    let block = old(0, &[], false).with(|h| base256(&mut h.tail[138..150], 1 << 62));
    assert_eq!(code(&block.header()), "tar-file-too-large");
    let block = old(0, &[], false).with(|h| base256(&mut h.tail[138..150], -1));
    assert_eq!(code(&block.header()), "tar-out-of-range");
}

#[test]
fn s07_too_many_runs_are_refused() {
    let many: Vec<(u64, u64)> = (0..21).map(|i| (i, 0)).collect();
    let block = slots(&many.iter().map(|_| (0, 0)).collect::<Vec<_>>(), true);
    let bytes = [old(1, &[], true).header(), block.repeat(477)].concat();
    assert_eq!(code(&bytes), "tar-too-many-sparse-runs");
    // Blocks without runs end at the size limit of a map.
    let bytes = [old(1, &[], true).header(), slots(&[], true).repeat(2049)].concat();
    assert_eq!(code(&bytes), "tar-extension-too-large");
    let map = vec!["0"; 20_002].join(",");
    let bytes = [form_0_1("10001", &map), ustar(b'0', "f").header()].concat();
    assert_eq!(code(&bytes), "tar-too-many-sparse-runs");
}

#[test]
fn s08_runs_must_be_the_stored_data() {
    for size in [512, 514] {
        let member = ustar(b'0', "f").data(&vec![7; size]);
        assert_eq!(code(&[form_0_0(), member].concat()), "tar-bad-sparse-map");
        assert_eq!(code(&old(8192, &[(0, 513)], false).data(&vec![7; size])), "tar-bad-sparse-map");
    }
}

#[test]
fn only_regular_files_are_sparse() {
    for kind in *b"123456" {
        let bytes = [form_0_0(), ustar(kind, "f").header()].concat();
        assert_eq!(code(&bytes), "tar-bad-sparse-map");
    }
}

#[test]
fn a_dense_file_behind_a_sparse_one_is_dense() {
    let sparse = [form_0_0(), ustar(b'0', "f").data(&[7; 513])].concat();
    let bytes = archive(&[sparse, ustar(b'0', "g").data(b"x")]);
    assert_eq!(paths(&bytes), ["f", "g"]);
    assert_eq!(read(&bytes).unwrap()[1].0.sparse, None);
}
