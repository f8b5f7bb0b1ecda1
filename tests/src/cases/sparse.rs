//! S: sparse files in all the forms that tar has for them.

use super::Case;
use crate::listing::make::{file, sparse};
use crate::tarball::{BLOCK, Header, Tarball, field, record, records};

pub(super) fn cases() -> Vec<Case> {
    let mut out = old_gnu();
    out.extend(pax_forms());
    out.extend(limits());
    out.extend(bad_maps());
    out
}

/// One run: where it is in the file, and its bytes.
type Run = (u64, &'static [u8]);

const RUNS: &[Run] = &[(0, b"head"), (4096, b"in the middle"), (8100, b"almost the end")];
const SIZE: u64 = 8192;

fn stored(runs: &[Run]) -> Vec<u8> {
    runs.iter().flat_map(|(_, data)| data.iter().copied()).collect()
}

/// A slot of an old GNU map: two octal numbers of 11 digits, space-terminated as GNU tar writes them.
fn slot(offset: u64, len: usize) -> Vec<u8> {
    format!("{offset:011o} {len:011o} ").into_bytes()
}

/// A file in the old GNU form: four runs in the header, 21 in each block after it.
fn gnu(runs: &[Run], size: u64) -> Vec<u8> {
    gnu_slots(
        runs.iter().map(|(offset, data)| slot(*offset, data.len())).collect(),
        &stored(runs),
        size,
    )
}

fn gnu_slots(mut slots: Vec<Vec<u8>>, data: &[u8], size: u64) -> Vec<u8> {
    let rest = slots.split_off(slots.len().min(4));
    let header = Header::gnu(b'S', "f")
        .size(data.len() as u64)
        .raw(field::SPARSE, slots.concat())
        .raw(field::IS_EXTENDED, [u8::from(!rest.is_empty())])
        .number(field::REAL_SIZE, size);
    let mut tar = Tarball::new().header(&header);
    let blocks: Vec<_> = rest.chunks(21).collect();
    for (i, chunk) in blocks.iter().enumerate() {
        let mut block = chunk.concat();
        block.resize(504, 0);
        block.push(u8::from(i + 1 < blocks.len()));
        block.resize(BLOCK, 0);
        tar = tar.raw(block);
    }
    tar.data(data).file("after", b"data").end()
}

fn many(n: usize) -> Vec<Run> {
    (0..n as u64).map(|i| (i * 1024, b"x".as_slice())).collect()
}

fn old_gnu() -> Vec<Case> {
    let expect = |runs: &[Run], size| [sparse("f", size, runs), file("after", b"data")];
    let (thirty, fifty) = (many(30), many(50));
    vec![
        Case::tree("S01", "three runs", gnu(RUNS, SIZE), expect(RUNS, SIZE)),
        Case::tree("S01", "no run", gnu(&[], SIZE), expect(&[], SIZE)),
        Case::tree(
            "S01",
            "one extension block",
            gnu(&many(25), 25 * 1024),
            expect(&many(25), 25 * 1024),
        ),
        Case::tree(
            "S01",
            "two extension blocks",
            gnu(&thirty, 30 << 10),
            expect(&thirty, 30 << 10),
        ),
        Case::tree("S01", "three extension blocks", gnu(&fifty, 1 << 20), expect(&fifty, 1 << 20)),
    ]
}

/// PAX 0.0: the map is repeated pairs of records.
fn pax_0_0(runs: &[Run], size: u64) -> Vec<u8> {
    let mut payload = record("GNU.sparse.size", size.to_string());
    payload.extend(record("GNU.sparse.numblocks", runs.len().to_string()));
    for (offset, data) in runs {
        payload.extend(record("GNU.sparse.offset", offset.to_string()));
        payload.extend(record("GNU.sparse.numbytes", data.len().to_string()));
    }
    Tarball::new().pax_raw(payload).file("f", stored(runs)).file("after", b"data").end()
}

/// PAX 0.1: the map is one record.
fn pax_0_1(map: &str, count: usize, data: &[u8], size: u64) -> Vec<u8> {
    let payload = records(&[
        ("GNU.sparse.size", size.to_string()),
        ("GNU.sparse.numblocks", count.to_string()),
        ("GNU.sparse.name", "f".to_owned()),
        ("GNU.sparse.map", map.to_owned()),
    ]);
    Tarball::new().pax_raw(payload).file("GNUSparseFile.1/f", data).file("after", b"data").end()
}

/// PAX 1.0: the map is text in front of the data.
fn pax_1_0(map: &str, data: &[u8], size: u64) -> Vec<u8> {
    let payload = records(&[
        ("GNU.sparse.major", "1".to_owned()),
        ("GNU.sparse.minor", "0".to_owned()),
        ("GNU.sparse.name", "f".to_owned()),
        ("GNU.sparse.realsize", size.to_string()),
    ]);
    let mut body = map.as_bytes().to_vec();
    body.resize(body.len().next_multiple_of(BLOCK), 0);
    body.extend_from_slice(data);
    Tarball::new().pax_raw(payload).file("GNUSparseFile.1/f", body).file("after", b"data").end()
}

fn lines(runs: &[Run]) -> String {
    let each = runs.iter().map(|(offset, data)| format!("{offset}\n{}\n", data.len()));
    format!("{}\n{}", runs.len(), each.collect::<String>())
}

fn commas(runs: &[Run]) -> String {
    let each = runs.iter().map(|(offset, data)| format!("{offset},{}", data.len()));
    each.collect::<Vec<_>>().join(",")
}

fn pax_forms() -> Vec<Case> {
    let expect = || [sparse("f", SIZE, RUNS), file("after", b"data")];
    let hundred = many(100);
    let size = 100 << 10;
    vec![
        Case::tree("S02", "pax 0.0", pax_0_0(RUNS, SIZE), expect()),
        Case::tree(
            "S03",
            "pax 0.1",
            pax_0_1(&commas(RUNS), RUNS.len(), &stored(RUNS), SIZE),
            expect(),
        ),
        Case::tree("S04", "pax 1.0", pax_1_0(&lines(RUNS), &stored(RUNS), SIZE), expect()),
        Case::tree(
            "S04",
            "pax 1.0, a map of several blocks",
            pax_1_0(&lines(&hundred), &stored(&hundred), size),
            [sparse("f", size, &hundred), file("after", b"data")],
        ),
        Case::tree(
            "S09",
            "a file of zeros",
            Tarball::new().file("f", [0; 20_000]).file("after", b"data").end(),
            [file("f", [0; 20_000]), file("after", b"data")],
        ),
        Case::tree(
            "S09",
            "zeros inside a file",
            Tarball::new()
                .file("f", [&[7; 4096][..], &[0; 12_288], b"end"].concat())
                .file("after", b"data")
                .end(),
            [sparse("f", 16_387, &[(0, &[7; 4096]), (16_384, b"end")]), file("after", b"data")],
        ),
    ]
}

fn limits() -> Vec<Case> {
    let largest = 1 << 44;
    let map = |n: usize| {
        let each = (0..n).map(|i| format!("{}\n1\n", i * 2));
        format!("{n}\n{}", each.collect::<String>())
    };
    vec![
        Case::tree(
            "S06",
            "16 TiB with four bytes in it",
            pax_1_0("1\n17592186044412\n4\n", b"data", largest),
            [sparse("f", largest, &[(largest - 4, b"data")]), file("after", b"data")],
        ),
        Case::refused(
            "S06",
            "one byte more",
            pax_1_0("1\n0\n4\n", b"data", largest + 1),
            "tar-file-too-large",
        ),
        Case::refused("S06", "2^62", pax_1_0("1\n0\n4\n", b"data", 1 << 62), "tar-file-too-large"),
        Case::refused(
            "S07",
            "10001 runs",
            pax_1_0(&map(10_001), &[b'x'; 10_001], 1 << 20),
            "tar-too-many-sparse-runs",
        ),
        Case::refused(
            "S07",
            "10001 runs, old GNU",
            gnu(&many(10_001), 16 << 20),
            "tar-too-many-sparse-runs",
        ),
        Case::refused(
            "S07",
            "a count of 2^60 and no map",
            pax_1_0("1152921504606846976\n", b"data", 4096),
            "tar-too-many-sparse-runs",
        ),
    ]
}

fn bad_maps() -> Vec<Case> {
    let bad = |id, variant, archive| Case::refused(id, variant, archive, "tar-bad-sparse-map");
    vec![
        bad("S08", "less than is stored", pax_0_1("0,3", 1, b"data", 4096)),
        bad("S08", "more than is stored", pax_0_1("0,5", 1, b"data", 4096)),
        bad("S08", "runs that overlap", pax_0_1("0,3,2,1", 2, b"data", 4096)),
        bad("S08", "runs out of order", pax_0_1("100,2,0,2", 2, b"data", 4096)),
        bad("S08", "a run behind the end", pax_0_1("4094,4", 1, b"data", 4096)),
        bad("S08", "a count that is not the number of runs", pax_0_1("0,4", 2, b"data", 4096)),
        Case::refused(
            "S08",
            "a run that is half there",
            pax_0_1("0,2,4000", 2, b"data", 4096),
            "tar-bad-number",
        ),
        bad("S08", "old GNU, more than is stored", gnu_slots(vec![slot(0, 5)], b"data", 4096)),
    ]
}
