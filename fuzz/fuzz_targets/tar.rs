//! Any bytes as a tar archive. Errors are fine; a panic is a bug. So is a result that depends on how the
//! bytes arrive, or that changes when what was read is written and read again.

#![no_main]

use std::io::{BufReader, Write};

use erolith_mkfs::io::{Input, Stream};
use erolith_mkfs::tar::{BLOCK, Entry, Error, Libarchive, Limits, Reader, Writer};
use libfuzzer_sys::fuzz_target;

/// A member and its stored data.
type Member = (Entry, Vec<u8>);

fuzz_target!(|data: &[u8]| {
    run(data);
    run(&with_checksums(data));
});

fn run(data: &[u8]) {
    let whole = read(Stream(data));
    let piece = usize::from(data.first().copied().unwrap_or(0)) * 3 + 1;
    let pieces = read(Stream(BufReader::with_capacity(piece, data)));
    match (whole, pieces) {
        (Ok(members), Ok(same)) => {
            assert_eq!(members, same);
            round_trip(members);
        }
        (Err(error), Err(same)) => {
            assert_eq!((error.code(), error.offset), (same.code(), same.offset));
        }
        (whole, pieces) => panic!("{whole:?} in one piece, {pieces:?} in pieces of {piece}"),
    }
}

/// The checksum is in the way of every mutation of a header, so repair all that look like one.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for block in data.chunks_exact_mut(BLOCK).filter(|block| block[257..].starts_with(b"ustar")) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    data
}

fn read(input: impl Input) -> Result<Vec<Member>, Error> {
    let mut reader = Reader::new(input, Limits::default());
    let mut members = Vec::new();
    let mut entry = Entry::default();
    while reader.next(&mut entry)? {
        let mut data = Vec::new();
        loop {
            let bytes = reader.fill_data()?;
            if bytes.is_empty() {
                break;
            }
            data.extend_from_slice(bytes);
            let n = bytes.len();
            reader.consume_data(n);
        }
        assert_eq!(data.len() as u64, entry.stored);
        assert!(entry.stored <= entry.size);
        members.push((entry.clone(), data));
    }
    Ok(members)
}

fn round_trip(mut members: Vec<Member>) {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in &mut members {
        // The stored bytes stand for the file: expanded it may have terabytes.
        entry.sparse = None;
        entry.size = entry.stored;
        // An attribute is written in the record that can hold its name, whichever it came in.
        entry.libarchive = Libarchive::default();
        match writer.write_entry(entry) {
            Ok(()) => writer.write_all(data).expect("the size is that of the data"),
            // A long name of GNU and pax records are two headers; they may not fit into one.
            Err(error) if error.code() == "tar-extension-too-large" => return,
            Err(error) => panic!("read, but not written: {error}"),
        }
    }
    let bytes = writer.finish().expect("all members are complete");
    let back = read(Stream(&bytes[..])).expect("what was written can be read");
    assert_eq!(back.len(), members.len());
    for ((back, back_data), (entry, data)) in back.into_iter().zip(members) {
        let places = (entry.offset, entry.data_offset);
        let libarchive = Libarchive::default();
        let back = Entry { offset: places.0, data_offset: places.1, libarchive, ..back };
        assert_eq!((back, back_data), (entry, data));
    }
}
