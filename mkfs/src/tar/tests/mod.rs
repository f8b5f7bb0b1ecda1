//! Tests of the tar reader and writer, by the part of the format they are about. A test that begins with
//! a letter and two digits covers the row with that id of the case catalogue.

#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod archive;
mod extensions;
mod framing;
mod judges;
mod numbers;
mod properties;
mod sparse;
mod writer;

use super::{Entry, Error, Limits, Reader};
use crate::io::{Input, Stream};

/// A member and its stored data.
type Member = (Entry, Vec<u8>);

/// Reads a whole archive. Returns the input behind it too.
fn read_input<I: Input>(input: I) -> Result<(Vec<Member>, I), Error> {
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
        members.push((entry.clone(), data));
    }
    Ok((members, reader.finish()))
}

fn read(bytes: &[u8]) -> Result<Vec<Member>, Error> {
    read_input(Stream(bytes)).map(|(members, _)| members)
}

/// The only member of an archive.
fn one(bytes: &[u8]) -> Member {
    let mut members = read(bytes).unwrap();
    assert_eq!(members.len(), 1, "{members:?}");
    members.pop().unwrap()
}

/// The code of the error that an archive ends in.
fn code(bytes: &[u8]) -> &'static str {
    match read(bytes) {
        Ok(members) => panic!("accepted: {members:?}"),
        Err(error) => error.code(),
    }
}

/// Names of all members.
fn paths(bytes: &[u8]) -> Vec<String> {
    let members = read(bytes).unwrap();
    members.into_iter().map(|(e, _)| String::from_utf8(e.path).unwrap()).collect()
}
