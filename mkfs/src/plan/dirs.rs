//! Directories as bytes: blocks of entries and names.

use zerocopy::IntoBytes;

use crate::Error;
use crate::exact::exact;
use crate::format::{Dirent, FileType};

/// Bytes of a directory entry without its name.
const ENTRY: usize = size_of::<Dirent>();

/// The entries of a directory in the order in which they are stored: `.` and `..` are names like any other.
pub(crate) fn sorted<'a, T>(
    dot: T,
    dotdot: T,
    children: impl Iterator<Item = (&'a [u8], T)>,
) -> impl Iterator<Item = (&'a [u8], T)> {
    let mut dots = [(&b"."[..], dot), (&b".."[..], dotdot)].into_iter().peekable();
    let mut children = children.peekable();
    std::iter::from_fn(move || match (dots.peek(), children.peek()) {
        (Some(d), Some(c)) if d.0 < c.0 => dots.next(),
        (Some(_), None) => dots.next(),
        _ => children.next(),
    })
}

/// Bytes of a directory with these names, `.` and `..` included. Every block but the last counts whole.
pub(crate) fn size<'a>(names: impl Iterator<Item = &'a [u8]>, block: u64) -> u64 {
    let mut full = 0;
    let mut used = 0;
    for name in names {
        let need = (ENTRY + name.len()) as u64;
        if used + need > block {
            full += block;
            used = 0;
        }
        used += need;
    }
    full + used
}

/// One entry: name, nid, type.
pub(crate) type Item<'a> = (&'a [u8], (u64, FileType));

/// Serialises a directory. All blocks but the last are padded with zeros.
///
/// # Errors
/// [`Error::Internal`].
pub(crate) fn serialise<'a>(
    entries: impl Iterator<Item = Item<'a>>,
    block: usize,
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let mut pending: Vec<Item<'a>> = Vec::new();
    let mut used = 0;
    for item in entries {
        let need = ENTRY + item.0.len();
        if used + need > block {
            write_block(&mut out, &pending)?;
            out.resize(out.len().next_multiple_of(block), 0);
            pending.clear();
            used = 0;
        }
        used += need;
        pending.push(item);
    }
    write_block(&mut out, &pending)?;
    Ok(out)
}

fn write_block(out: &mut Vec<u8>, items: &[Item<'_>]) -> Result<(), Error> {
    let mut nameoff = items.len() * ENTRY;
    for (name, (nid, file_type)) in items {
        let dirent = Dirent {
            nid: (*nid).into(),
            nameoff: exact::<u16, _>(nameoff, "the offset of a name")?.into(),
            file_type: *file_type as u8,
            reserved: 0,
        };
        out.extend_from_slice(dirent.as_bytes());
        nameoff += name.len();
    }
    for (name, _) in items {
        out.extend_from_slice(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_before_the_dot_come_before_the_dots() {
        let children: [(&[u8], u32); 4] = [(b"!x", 3), (b"-y", 4), (b".a", 5), (b"a", 6)];
        let order: Vec<&[u8]> = sorted(1, 2, children.into_iter()).map(|(n, _)| n).collect();
        assert_eq!(order, [&b"!x"[..], b"-y", b".", b"..", b".a", b"a"]);
    }

    #[test]
    fn size_is_what_serialise_writes() {
        for count in [0, 1, 10, 200, 500] {
            for block in [512usize, 4096] {
                let names: Vec<Vec<u8>> = (0..count)
                    .map(|i| format!("name-{i:05}-{}", "x".repeat(i % 200)).into_bytes())
                    .collect();
                let children = || names.iter().map(|n| (n.as_slice(), (7, FileType::Regular)));
                let dot = (1, FileType::Directory);
                let bytes = serialise(sorted(dot, dot, children()), block).unwrap();
                let expected = size(sorted(dot, dot, children()).map(|(n, _)| n), block as u64);
                assert_eq!(bytes.len() as u64, expected, "{count} names, block {block}");
            }
        }
    }
}
