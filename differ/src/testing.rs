//! What tests of several modules make layers with.

use std::io::Write;

/// A tar archive: names that end in a slash are directories, the others files that hold their name.
pub(crate) fn archive(members: &[(&str, u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, mode) in members {
        let mut header = tar::Header::new_ustar();
        let is_dir = name.ends_with('/');
        let kind = if is_dir { tar::EntryType::Directory } else { tar::EntryType::Regular };
        header.set_entry_type(kind);
        header.set_mode(*mode);
        header.set_mtime(1_700_000_000);
        let data = if is_dir { "" } else { name };
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, name, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// The code of an error, for tables.
pub(crate) fn code(error: crate::Error) -> &'static str {
    error.code().to_owned().leak()
}
