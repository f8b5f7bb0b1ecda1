//! Pax extended headers: records `LENGTH KEY=VALUE\n` that replace or add to what the next header says
//! (POSIX.1-2017, pax, "pax Extended Header").

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};

use super::{Entry, Libarchive, Problem};
use crate::meta::{Time, Xattr};

/// Longest name of an extended attribute (`XATTR_NAME_MAX` of Linux).
const XATTR_NAME_MAX: usize = 255;
/// Longest value of an extended attribute that an EROFS inode stores.
const XATTR_VALUE_MAX: usize = 0xffff;

pub(super) const SCHILY_XATTR: &[u8] = b"SCHILY.xattr.";
pub(super) const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";

/// Base64 as libarchive writes it, without padding; read with or without.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    NO_PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A piece of the payload. Empty means that the record is absent: an empty value deletes the record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// The `len` bytes in front of the byte before `next`.
    fn before(next: usize, len: usize) -> Self {
        let end = next.saturating_sub(1);
        Self { start: end.saturating_sub(len), end }
    }
}

/// How a record spells an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum XattrKind {
    /// `LIBARCHIVE.xattr.`: name percent-encoded, value in base64.
    Libarchive,
    /// `SCHILY.xattr.`: both as they are.
    Schily,
}

/// The records of one extended header that matter here. The last of several records with one key wins;
/// `GNU.sparse.offset` and `.numbytes` are a list.
#[derive(Debug, Default)]
pub(super) struct Records {
    payload: Vec<u8>,
    path: Span,
    link: Span,
    size: Span,
    uid: Span,
    gid: Span,
    mtime: Span,
    pub(super) sparse: SparseRecords,
    xattrs: Vec<(XattrKind, Span, Span)>,
}

/// The records of GNU tar for sparse files, formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) name: Span,
    pub(super) map: Span,
    pub(super) size: Span,
    pub(super) real_size: Span,
    pub(super) count: Span,
    pub(super) major: Span,
    pub(super) minor: Span,
    /// Offsets and lengths in turn, format 0.0.
    pub(super) points: Vec<Span>,
}

impl Records {
    /// Forgets all records and keeps the memory.
    pub(super) fn clear(&mut self) {
        let mut payload = std::mem::take(&mut self.payload);
        let mut xattrs = std::mem::take(&mut self.xattrs);
        let mut points = std::mem::take(&mut self.sparse.points);
        payload.clear();
        xattrs.clear();
        points.clear();
        *self = Self { payload, xattrs, ..Self::default() };
        self.sparse.points = points;
    }

    /// The bytes of a record's value.
    pub(super) fn get(&self, span: Span) -> &[u8] {
        self.payload.get(span.start..span.end).unwrap_or_default()
    }

    pub(super) fn path(&self) -> &[u8] {
        self.get(self.path)
    }

    pub(super) fn link(&self) -> &[u8] {
        self.get(self.link)
    }

    /// The number of a record, or `other` when it is absent.
    fn number_or(&self, name: &'static str, span: Span, other: i64) -> Result<i64, Problem> {
        match self.get(span) {
            [] => Ok(other),
            digits => decimal(digits).ok_or(Problem::BadNumber { field: name }),
        }
    }

    pub(super) fn size_or(&self, other: i64) -> Result<i64, Problem> {
        self.number_or("size", self.size, other)
    }

    pub(super) fn uid_or(&self, other: i64) -> Result<i64, Problem> {
        self.number_or("uid", self.uid, other)
    }

    pub(super) fn gid_or(&self, other: i64) -> Result<i64, Problem> {
        self.number_or("gid", self.gid, other)
    }

    pub(super) fn mtime_or(&self, other: Time) -> Result<Time, Problem> {
        match self.get(self.mtime) {
            [] => Ok(other),
            text => time(text).ok_or(Problem::BadNumber { field: "mtime" }),
        }
    }

    /// Gives the memory of the payload away to be filled again.
    pub(super) fn take_payload(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.payload)
    }

    /// Finds the records of a payload.
    pub(super) fn parse(&mut self, payload: Vec<u8>) -> Result<(), Problem> {
        let mut at = 0_usize;
        while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
            let (len, key, value) = record(rest).ok_or(Problem::BadPaxRecord)?;
            at = at.saturating_add(len);
            // The value ends before the newline, the key before the equals sign.
            let value_at = Span::before(at, value.len());
            let key_at = Span::before(value_at.start, key.len());
            self.take(key, value, key_at, value_at)?;
        }
        self.payload = payload;
        Ok(())
    }

    /// Keeps one record if it matters.
    fn take(&mut self, key: &[u8], value: &[u8], key_at: Span, at: Span) -> Result<(), Problem> {
        let name = match key {
            b"path" => Some(("path", &mut self.path)),
            b"linkpath" => Some(("linkpath", &mut self.link)),
            b"size" => Some(("", &mut self.size)),
            b"uid" => Some(("", &mut self.uid)),
            b"gid" => Some(("", &mut self.gid)),
            b"mtime" => Some(("", &mut self.mtime)),
            _ => None,
        };
        if let Some((name, slot)) = name {
            *slot = at;
            return if name.is_empty() { Ok(()) } else { no_nul(name, value) };
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(key, value, at);
        }
        let xattr = [(XattrKind::Schily, SCHILY_XATTR), (XattrKind::Libarchive, LIBARCHIVE_XATTR)];
        for (kind, prefix) in xattr {
            if key.starts_with(prefix) {
                let start = key_at.start.saturating_add(prefix.len());
                self.xattrs.push((kind, Span { start, ..key_at }, at));
            }
        }
        match key {
            b"uname" => no_nul("uname", value),
            b"gname" => no_nul("gname", value),
            _ => no_nul("pax key", key),
        }
    }

    /// The extended attributes: sorted, the last of equal names, `SCHILY` before `LIBARCHIVE`.
    pub(super) fn xattrs(&self, entry: &mut Entry) -> Result<(), Problem> {
        entry.xattrs.clear();
        entry.libarchive = Libarchive::default();
        if self.xattrs.is_empty() {
            return Ok(());
        }
        let (mut all, mut undecoded) = (BTreeMap::new(), BTreeSet::new());
        // Libarchive's first, so that the others replace them.
        for wanted in [XattrKind::Libarchive, XattrKind::Schily] {
            for (kind, name, value) in self.xattrs.iter().filter(|(kind, ..)| *kind == wanted) {
                let (name, value) = (self.get(*name), self.get(*value));
                match kind {
                    XattrKind::Schily => {
                        let xattr = Xattr { name: name.to_vec(), value: value.to_vec() };
                        check_xattr(&xattr)?;
                        undecoded.remove(&xattr.name);
                        all.insert(xattr.name, (*kind, xattr.value));
                    }
                    XattrKind::Libarchive => match from_libarchive(name, value) {
                        Ok(xattr) => {
                            all.insert(xattr.name, (*kind, xattr.value));
                        }
                        Err(name) => {
                            undecoded.insert(name);
                        }
                    },
                }
            }
        }
        for (name, (kind, value)) in all {
            if kind == XattrKind::Libarchive {
                entry.libarchive.only.push(name.clone());
            }
            entry.xattrs.push(Xattr { name, value });
        }
        entry.libarchive.undecoded = undecoded.into_iter().collect();
        Ok(())
    }
}

/// Undoes libarchive's encoding; of what has none, or cannot be an attribute, the name as far as it can be read.
fn from_libarchive(name: &[u8], value: &[u8]) -> Result<Xattr, Vec<u8>> {
    let Some(decoded) = percent_decode(name) else { return Err(name.to_vec()) };
    let Ok(value) = BASE64.decode(value) else { return Err(decoded) };
    let xattr = Xattr { name: decoded, value };
    if check_xattr(&xattr).is_err() { Err(xattr.name) } else { Ok(xattr) }
}

impl SparseRecords {
    fn take(&mut self, key: &[u8], value: &[u8], at: Span) -> Result<(), Problem> {
        let slot = match key {
            b"offset" | b"numbytes" => {
                let is_offset = self.points.len().is_multiple_of(2);
                if is_offset != (key == b"offset") {
                    return Err(Problem::BadSparseMap("offset and numbytes do not alternate"));
                }
                self.points.push(at);
                return Ok(());
            }
            b"name" => &mut self.name,
            b"map" => &mut self.map,
            b"size" => &mut self.size,
            b"realsize" => &mut self.real_size,
            b"numblocks" => &mut self.count,
            b"major" => &mut self.major,
            b"minor" => &mut self.minor,
            _ => return no_nul("pax key", key),
        };
        *slot = at;
        if key == b"name" { no_nul("GNU.sparse.name", value) } else { Ok(()) }
    }
}

/// Splits the first record off: its length, key and value. Go counts five bytes as the least.
fn record(bytes: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let (digits, _) = bytes.split_at_checked(space)?;
    let len = usize::try_from(decimal(digits)?).ok().filter(|len| *len >= 5)?;
    let body = bytes.get(space.checked_add(1)?..len)?.strip_suffix(b"\n")?;
    // As Go: a record without a key is none.
    let equals = body.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
    let (key, value) = body.split_at_checked(equals)?;
    Some((len, key, value.get(1..)?))
}

pub(super) fn no_nul(field: &'static str, bytes: &[u8]) -> Result<(), Problem> {
    if bytes.contains(&0) { Err(Problem::NulByte { field }) } else { Ok(()) }
}

/// Decimal digits and nothing else, at most 64 bits.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte & 0xf))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Decimal digits and nothing else, at most `i64::MAX`.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    digits(text)?.try_into().ok()
}

/// `[-]SECONDS[.FRACTION]`; digits beyond nanoseconds are cut off.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let (seconds, fraction) = text.split_at_checked(dot)?;
    let fraction = fraction.strip_prefix(b".").unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nine = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nsec = nine.fold(0_u32, |n, d| n.saturating_mul(10).saturating_add(u32::from(d & 0xf)));
    let sec = digits(seconds)?;
    if !negative {
        return Some(Time { sec: sec.try_into().ok()?, nsec });
    }
    // The nanoseconds of a Time count forward, the fraction here away from zero.
    let (whole, nsec) = match nsec {
        0 => (sec, 0),
        _ => (sec.checked_add(1)?, 1_000_000_000_u32.saturating_sub(nsec)),
    };
    Some(Time { sec: 0_i64.checked_sub_unsigned(whole)?, nsec })
}

/// Undoes the encoding of libarchive's attribute names: `%` and two hexadecimal digits for a byte.
fn percent_decode(name: &[u8]) -> Option<Vec<u8>> {
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, mut tail)) = rest.split_first() {
        let mut byte = *first;
        if byte == b'%' {
            let [high, low, after @ ..] = tail else { return None };
            byte = (hex(*high)? << 4) | hex(*low)?;
            tail = after;
        }
        decoded.push(byte);
        rest = tail;
    }
    Some(decoded)
}

/// Refuses what no file on Linux, or in EROFS, can have.
pub(super) fn check_xattr(xattr: &Xattr) -> Result<(), Problem> {
    if xattr.name.is_empty() {
        return Err(Problem::BadXattr("empty name"));
    }
    if xattr.name.len() > XATTR_NAME_MAX {
        return Err(Problem::BadXattr("name longer than 255 bytes"));
    }
    if xattr.name.contains(&0) {
        return Err(Problem::BadXattr("NUL byte in the name"));
    }
    if xattr.value.len() > XATTR_VALUE_MAX {
        return Err(Problem::BadXattr("value longer than 65535 bytes"));
    }
    Ok(())
}
