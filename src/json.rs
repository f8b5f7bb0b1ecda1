//! JSON for machines.
//!
//! A command that prints many things prints one object a line. Names, link targets and attribute values are
//! bytes: they are strings where they are UTF-8, and otherwise `{"hex": "..."}` with all of the bytes, so that
//! nothing is lost and nothing is ambiguous. Times are `{"sec": S, "nsec": N}`, since no JSON number holds them.

use std::io::Write;

use erolith_mkfs::image::Inode;
use erolith_mkfs::meta::Time;
use erolith_mkfs::tree::DroppedXattrs;
use erolith_verity::dmverity::DmVerityTree;
use serde_json::{Value, json};

use crate::term::type_name;

/// Bytes that are text most of the time.
pub(crate) fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS.get(usize::from(n)).copied().unwrap_or(b'0'));
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// A time.
pub(crate) fn time(time: Time) -> Value {
    json!({ "sec": time.sec, "nsec": time.nsec })
}

/// What every inode has. Permissions are octal digits, as usual.
pub(crate) fn inode(inode: &Inode) -> Value {
    let mut object = json!({
        "type": type_name(inode.file_type()),
        "mode": format!("{:04o}", inode.mode & 0o7777),
        "nlink": inode.nlink,
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "mtime": time(inode.mtime),
        "nid": inode.nid,
    });
    if let Some((major, minor)) = inode.rdev() {
        object["rdev"] = json!([major, minor]);
    }
    object
}

/// Extended attributes that were dropped.
pub(crate) fn dropped_xattrs(dropped: &DroppedXattrs) -> Value {
    json!({
        "count": dropped.count,
        "names": dropped.names(),
        "more_names": dropped.has_more_names(),
    })
}

/// A dm-verity hash tree.
pub(crate) fn verity(verity: &DmVerityTree) -> Value {
    json!({
        "root_hash": verity.root.to_string(),
        "hash_offset": verity.hash_offset,
        "block_size": verity.block_size,
    })
}

/// Writes one object on one line.
pub(crate) fn line(out: &mut dyn Write, value: &Value) -> std::io::Result<()> {
    writeln!(out, "{value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_lossless() {
        assert_eq!(bytes(b"a\n\"b").to_string(), r#""a\n\"b""#);
        assert_eq!(bytes(b"\xff\x00a").to_string(), r#"{"hex":"ff0061"}"#);
    }
}
