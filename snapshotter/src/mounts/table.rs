//! The mount table of this thread, `/proc/thread-self/mountinfo`: a thread may have mounts of its own.

use std::ffi::{CString, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use crate::{Error, IntegrityError, KernelError, Result};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Unique among live mounts.
    pub id: u64,
    /// The mount it is attached to.
    pub parent: u64,
    /// Where, seen from the root of this process.
    pub mount_point: PathBuf,
    /// Attributes of this mount, as text.
    pub options: String,
    /// Type of filesystem.
    pub fs_type: String,
    /// Source, as the filesystem shows it.
    pub source: OsString,
    /// Options of the filesystem, as text.
    pub super_options: String,
}

/// Reads the table.
///
/// # Errors
/// [`IntegrityError::Read`] when /proc is not there, [`KernelError::MountTable`] when a line has another form.
pub fn read() -> Result<Vec<MountEntry>> {
    let path = "/proc/thread-self/mountinfo";
    let text = std::fs::read(path).map_err(|source| {
        Error::Integrity(IntegrityError::Read { image: path.to_owned(), source })
    })?;
    parse(&text)
}

/// Reads lines in the form of proc_pid_mountinfo(5), top-most mounts last.
///
/// # Errors
/// [`KernelError::MountTable`] with the first line that has another form.
pub fn parse(text: &[u8]) -> Result<Vec<MountEntry>> {
    let lines = text.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(index, line)| {
            parse_line(line).ok_or(Error::Kernel(KernelError::MountTable { line: index + 1 }))
        })
        .collect()
}

/// The block device of the filesystem that `file` is on, by its name in the table.
///
/// # Errors
/// ENODEV when the mount is not in the table, ENOTBLK when the name there is not that of the device.
pub(crate) fn block_device(file: BorrowedFd<'_>) -> Result<CString, Errno> {
    let statx = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    let table = read().map_err(|_| Errno::NODEV)?;
    let entry = by_id(&table, statx.stx_mnt_id).ok_or(Errno::NODEV)?;
    let device = rustix::fs::stat(&entry.source).map_err(|_| Errno::NOTBLK)?;
    if device.st_rdev != rustix::fs::fstat(file)?.st_dev {
        return Err(Errno::NOTBLK);
    }
    CString::new(entry.source.as_bytes()).map_err(|_| Errno::INVAL)
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&b| b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let _device = fields.next()?;
    let _root = fields.next()?;
    let mount_point = PathBuf::from(unescape(fields.next()?));
    let options = text(fields.next()?);
    // Any number of optional fields, ended by a hyphen.
    fields.find(|field| *field == b"-")?;
    let fs_type = text(fields.next()?);
    let source = unescape(fields.next()?);
    let super_options = text(fields.next()?);
    Some(MountEntry { id, parent, mount_point, options, fs_type, source, super_options })
}

/// The entry of mount `id`.
#[must_use]
pub fn by_id(table: &[MountEntry], id: u64) -> Option<&MountEntry> {
    table.iter().find(|entry| entry.id == id)
}

/// The entries at or below `dir`.
pub fn below<'t>(table: &'t [MountEntry], dir: &Path) -> impl Iterator<Item = &'t MountEntry> {
    table.iter().filter(move |entry| entry.mount_point.starts_with(dir))
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Space, tab, newline and backslash come as three octal digits after a backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\').then(|| tail.get(..3).and_then(octal)).flatten();
        if let (Some(value), Some(after)) = (code, tail.get(3..)) {
            plain.push(value);
            rest = after;
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    OsString::from_vec(plain)
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_optional_fields_are_read() {
        let text = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            36 35 98:0 /m /mnt\\0402 rw,noatime shared:1 master:7 - erofs /proc/self/fd/4 ro,acl\n";
        let table = parse(text).unwrap();
        assert_eq!(table.len(), 2);
        assert_eq!(table[1].mount_point, Path::new("/mnt 2"));
        assert_eq!((table[1].id, table[1].parent), (36, 35));
        assert_eq!(table[1].fs_type, "erofs");
        assert_eq!(table[1].source, "/proc/self/fd/4");
        assert_eq!(by_id(&table, 27).unwrap().mount_point, Path::new("/"));
        assert_eq!(below(&table, Path::new("/mnt 2")).count(), 1);
    }

    #[test]
    fn escapes_are_undone_and_half_escapes_kept() {
        let table: [(&[u8], &str); 4] =
            [(b"a\\134b", "a\\b"), (b"a\\011", "a\t"), (b"a\\1", "a\\1"), (b"\\9zz", "\\9zz")];
        for (escaped, plain) in table {
            assert_eq!(unescape(escaped), plain);
        }
    }

    #[test]
    fn the_own_table_is_read() {
        assert!(read().unwrap().iter().any(|entry| entry.mount_point == Path::new("/")));
    }

    #[test]
    fn other_forms_are_refused_with_the_line() {
        for (text, line) in [("x\n", 1), ("27 1 254:0 / / rw - ext4 a b\n28 1 0:1 / / rw\n", 2)] {
            match parse(text.as_bytes()).unwrap_err() {
                Error::Kernel(KernelError::MountTable { line: got }) => assert_eq!(got, line),
                other => panic!("{other}"),
            }
        }
    }
}
