//! The writer: from members to a stream.
//!
//! A POSIX ustar header where it holds everything, a pax extended header in front of it for the rest, never
//! GNU headers. The bytes depend on the members only: no names of owners, no current time, no process id.

use std::io::{self, Write};

use base64::Engine as _;
use zerocopy::{FromZeros, IntoBytes};

use super::header::{Header, UstarTail};
use super::pax::{BASE64, LIBARCHIVE_XATTR, SCHILY_XATTR, check_xattr, no_nul};
use super::{BLOCK, Entry, Error, Kind, Limits, MAJOR_MAX, MINOR_MAX, Problem, padding};
use crate::format::FileType;
use crate::interpreted::{self, ACL_ACCESS, ACL_DEFAULT, Set, acl_text};
use crate::meta::Time;

/// The most that eight bytes of octal hold: owners, device numbers.
const OCTAL_8: u64 = 0o777_7777;
/// The most that twelve bytes of octal hold: sizes, times.
const OCTAL_12: u64 = 0o777_7777_7777;

/// Writes an archive member by member.
///
/// [`Writer::write_entry`] takes a member; the content of a regular file follows through [`io::Write`],
/// exactly `entry.size` bytes. Sparse files are written dense, as the OCI image specification asks for.
///
/// ```
/// use std::io::Write;
/// use erolith_mkfs::tar::{Entry, Writer};
///
/// let mut writer = Writer::new(Vec::new());
/// writer.write_entry(&Entry { path: b"hello".to_vec(), size: 5, ..Entry::default() })?;
/// writer.write_all(b"world")?;
/// let archive = writer.finish()?;
/// assert_eq!(archive.len(), 4 * 512);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// Bytes written.
    pos: u64,
    /// Bytes of the member's content that are still to come.
    left: u64,
    /// Bytes of padding behind them.
    padding: u64,
    /// Memory for pax records.
    records: Vec<u8>,
    /// Whether access lists are written as text too.
    acl_texts: bool,
}

impl<W: Write> Writer<W> {
    /// Writes to `out` from where it is. Headers are written in single blocks: give it a buffer.
    pub fn new(out: W) -> Self {
        Self { out, pos: 0, left: 0, padding: 0, records: Vec::new(), acl_texts: false }
    }

    /// Writes valid access lists a second time, as the records `SCHILY.acl.access` and `SCHILY.acl.default` of star(5): GNU
    /// tar and bsdtar take access lists from nowhere else. What applies layers does not look at them.
    #[must_use]
    pub fn with_acl_texts(mut self) -> Self {
        self.acl_texts = true;
        self
    }

    /// Writes the headers of a member. `offset`, `data_offset`, `stored` and `sparse` do not matter.
    ///
    /// # Errors
    /// [`Problem::UnfinishedData`] when the content of the member before is not complete, [`Problem::Io`],
    /// and what no reader could take: an empty name, NUL in a name, an owner or a device number that there
    /// is not, an extended attribute beyond the limits of Linux, records beyond 1 MiB. After the latter
    /// nothing has been written.
    pub fn write_entry(&mut self, entry: &Entry) -> Result<(), Error> {
        let fail = |problem| Error::new(self.pos, problem).in_member(&entry.path);
        if self.left > 0 {
            return Err(fail(Problem::UnfinishedData { missing: self.left }));
        }
        self.records.clear();
        let header = encode(entry, self.acl_texts, &mut self.records).map_err(fail)?;
        let records = std::mem::take(&mut self.records);
        let written = self.write_headers(&header, &records);
        self.records = records;
        written.map_err(|problem| Error::new(self.pos, problem).in_member(&entry.path))?;
        if entry.kind == Kind::Regular {
            self.left = entry.size;
            self.padding = padding(entry.size);
        }
        Ok(())
    }

    /// Writes the end of the archive and gives the output back, not flushed.
    ///
    /// # Errors
    /// [`Problem::UnfinishedData`] and [`Problem::Io`].
    pub fn finish(mut self) -> Result<W, Error> {
        if self.left > 0 {
            return Err(Error::new(self.pos, Problem::UnfinishedData { missing: self.left }));
        }
        let end = self.pad().and_then(|()| self.put(&[0; 2 * BLOCK]));
        end.map_err(|problem| Error::new(self.pos, problem))?;
        Ok(self.out)
    }

    /// Bytes written so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.pos
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.out.write_all(bytes).map_err(Problem::Io)?;
        self.pos = self.pos.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Writes what is missing to the next block.
    fn pad(&mut self) -> Result<(), Problem> {
        let len = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(0);
        self.put([0; BLOCK].get(..len).unwrap_or_default())
    }

    fn write_headers(&mut self, header: &Header, records: &[u8]) -> Result<(), Problem> {
        self.pad()?;
        if !records.is_empty() {
            let len = records.len() as u64;
            let mut extended = Header::new_zeroed();
            // The name that Python and others use: a reader without pax extracts it out of the way.
            put_front(&mut extended.name, b"././@PaxHeader");
            put_octal(&mut extended.mode, 0o644);
            put_octal(&mut extended.uid, 0);
            put_octal(&mut extended.gid, 0);
            put_octal(&mut extended.size, len);
            put_octal(&mut extended.mtime, 0);
            extended.kind = b'x';
            seal(&mut extended);
            self.put(extended.as_bytes())?;
            self.put(records)?;
            self.padding = padding(len);
            self.pad()?;
        }
        self.put(header.as_bytes())
    }
}

impl<W: Write> Write for Writer<W> {
    /// Writes content of the member. More than it has is [`Problem::SurplusData`].
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            return Err(io::Error::other(Error::new(self.pos, Problem::SurplusData)));
        }
        let len = usize::try_from(self.left).unwrap_or(usize::MAX);
        let written = self.out.write(buf.get(..len).unwrap_or(buf))?;
        self.left = self.left.saturating_sub(written as u64);
        self.pos = self.pos.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The ustar header of a member; what it cannot say is appended to `records`.
fn encode(entry: &Entry, acl_texts: bool, records: &mut Vec<u8>) -> Result<Header, Problem> {
    let mut header = Header::new_zeroed();
    if entry.path.is_empty() {
        return Err(Problem::EmptyName);
    }
    put_path(&mut header, &entry.path, records)?;
    if matches!(entry.kind, Kind::Symlink | Kind::Hardlink) {
        no_nul("linkpath", &entry.link)?;
        if entry.link.len() > header.link.len() {
            push_record(records, &[b"linkpath"], &entry.link);
        }
        put_front(&mut header.link, &entry.link);
    }
    if entry.kind == Kind::Regular {
        let limit = i64::MAX.unsigned_abs();
        if entry.size > limit {
            return Err(Problem::FileTooLarge { size: entry.size, limit });
        }
        put_number(&mut header.size, OCTAL_12, entry.size, "size", records);
    } else {
        put_octal(&mut header.size, 0);
    }
    let meta = &entry.meta;
    put_octal(&mut header.mode, u64::from(meta.mode & 0o7777));
    for (name, field, id) in
        [("uid", &mut header.uid, meta.uid), ("gid", &mut header.gid, meta.gid)]
    {
        if id == u32::MAX {
            return Err(Problem::OutOfRange { field: name, value: i64::from(id) });
        }
        put_number(field, OCTAL_8, u64::from(id), name, records);
    }
    put_time(&mut header, meta.mtime, records)?;
    put_device(&mut header, entry)?;
    put_xattrs(entry, acl_texts, records)?;
    let (size, limit) = (records.len() as u64, Limits::default().extension_size);
    if size > limit {
        return Err(Problem::ExtensionTooLarge { size, limit });
    }
    header.kind = match entry.kind {
        Kind::Regular => b'0',
        Kind::Hardlink => b'1',
        Kind::Symlink => b'2',
        Kind::Char => b'3',
        Kind::Block => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    };
    seal(&mut header);
    Ok(header)
}

/// Extended attributes, and access lists as text where they are wanted.
fn put_xattrs(entry: &Entry, acl_texts: bool, records: &mut Vec<u8>) -> Result<(), Problem> {
    for xattr in &entry.xattrs {
        check_xattr(xattr)?;
        // A key ends at the first equals sign, so a name with one needs libarchive's encoding.
        if xattr.name.contains(&b'=') {
            let name = percent_encode(&xattr.name);
            let value = BASE64.encode(&xattr.value);
            push_record(records, &[LIBARCHIVE_XATTR, &name], value.as_bytes());
        } else {
            push_record(records, &[SCHILY_XATTR, &xattr.name], &xattr.value);
        }
        let key: &[u8] = match xattr.name.as_slice() {
            ACL_ACCESS if acl_texts => b"SCHILY.acl.access",
            ACL_DEFAULT if acl_texts => b"SCHILY.acl.default",
            _ => continue,
        };
        // What cannot be set would end the extraction.
        if interpreted::set(&xattr.name, &xattr.value, file_type(entry.kind)) == Set::Stored
            && let Some(text) = acl_text(&xattr.value)
        {
            push_record(records, &[key], text.as_bytes());
        }
    }
    Ok(())
}

/// The type of the file. A hard link is to anything but a directory.
fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Regular | Kind::Hardlink => FileType::Regular,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Char => FileType::Char,
        Kind::Block => FileType::Block,
        Kind::Fifo => FileType::Fifo,
    }
}

/// Fills magic and checksum in.
fn seal(header: &mut Header) {
    header.magic = *b"ustar\0";
    header.version = *b"00";
    let sum = header.sum();
    let [digits @ .., space] = &mut header.checksum;
    put_octal(digits, sum);
    *space = b' ';
}

/// Name, or prefix and name; a longer one is a record, and its beginning stays in the header.
fn put_path(header: &mut Header, path: &[u8], records: &mut Vec<u8>) -> Result<(), Problem> {
    no_nul("path", path)?;
    if path.len() <= header.name.len() {
        put_front(&mut header.name, path);
        return Ok(());
    }
    let tail: &mut UstarTail = header.ustar_mut();
    let fits = |slash: &usize| {
        let name = path.len().saturating_sub(*slash).saturating_sub(1);
        *slash > 0 && *slash <= tail.prefix.len() && name > 0 && name <= 100
    };
    let mut slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
    match slashes.find(fits).and_then(|slash| path.split_at_checked(slash)) {
        Some((prefix, name)) => {
            put_front(&mut tail.prefix, prefix);
            put_front(&mut header.name, name.strip_prefix(b"/").unwrap_or(name));
        }
        None => {
            push_record(records, &[b"path"], path);
            put_front(&mut header.name, path);
        }
    }
    Ok(())
}

fn put_time(header: &mut Header, time: Time, records: &mut Vec<u8>) -> Result<(), Problem> {
    if time.nsec >= 1_000_000_000 {
        return Err(Problem::OutOfRange { field: "mtime", value: i64::from(time.nsec) });
    }
    let whole = u64::try_from(time.sec).ok().filter(|sec| *sec <= OCTAL_12);
    put_octal(&mut header.mtime, whole.unwrap_or(0));
    if whole.is_none() || time.nsec != 0 {
        push_record(records, &[b"mtime"], time_text(time).as_bytes());
    }
    Ok(())
}

/// `[-]SECONDS[.FRACTION]`, where the fraction counts away from zero and has no zeros at its end.
fn time_text(time: Time) -> String {
    let sign = if time.sec < 0 { "-" } else { "" };
    let (sec, nsec) = match time {
        Time { sec, nsec } if sec < 0 && nsec > 0 => {
            (sec.unsigned_abs().saturating_sub(1), 1_000_000_000_u32.saturating_sub(nsec))
        }
        Time { sec, nsec } => (sec.unsigned_abs(), nsec),
    };
    if nsec == 0 {
        return format!("{sign}{sec}");
    }
    let text = format!("{sign}{sec}.{nsec:09}");
    text.trim_end_matches('0').to_owned()
}

fn put_device(header: &mut Header, entry: &Entry) -> Result<(), Problem> {
    let device = matches!(entry.kind, Kind::Char | Kind::Block);
    let (major, minor) = if device { entry.rdev } else { (0, 0) };
    for (name, field, number, max) in [
        ("devmajor", &mut header.major, major, MAJOR_MAX),
        ("devminor", &mut header.minor, minor, MINOR_MAX),
    ] {
        if number > max {
            return Err(Problem::OutOfRange { field: name, value: i64::from(number) });
        }
        put_octal(field, u64::from(number));
    }
    Ok(())
}

/// Copies as much as fits to the front of a field of zeros.
fn put_front(field: &mut [u8], bytes: &[u8]) {
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
}

/// Octal digits over the whole field, the last byte NUL.
fn put_octal(field: &mut [u8], mut value: u64) {
    for byte in field.iter_mut().rev().skip(1) {
        *byte = b'0' | u8::try_from(value & 7).unwrap_or(0);
        value >>= 3;
    }
}

/// A number in its field, or as a record if it is greater than `max`. The field is 0 then, as Go writes it.
fn put_number(field: &mut [u8], max: u64, value: u64, name: &'static str, records: &mut Vec<u8>) {
    if value > max {
        push_record(records, &[name.as_bytes()], value.to_string().as_bytes());
    }
    put_octal(field, if value > max { 0 } else { value });
}

/// Appends `LENGTH KEY=VALUE\n`; the length counts its own digits.
fn push_record(records: &mut Vec<u8>, key: &[&[u8]], value: &[u8]) {
    let key = key.concat();
    let body = key.len().saturating_add(value.len()).saturating_add(3);
    let digits = |n: usize| n.checked_ilog10().map_or(0, |log| log as usize).saturating_add(1);
    // The digits may need one more than those of the body.
    let len = body.saturating_add(digits(body.saturating_add(digits(body))));
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(&key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The encoding of libarchive's attribute names.
fn percent_encode(name: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |n: u8| HEX.get(usize::from(n)).copied().unwrap_or(b'0');
    let mut encoded = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' | b'=' | 0..=b' ' | 0x7f.. => {
                encoded.extend([b'%', digit(byte >> 4), digit(byte & 0xf)]);
            }
            _ => encoded.push(*byte),
        }
    }
    encoded
}
