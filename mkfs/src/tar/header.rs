//! The header block: its layouts, its checksum, its numbers.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute_mut, transmute_ref,
};

use super::{BLOCK, Problem};

/// A header block. Up to `link` it is the layout of Unix V7, behind it that of POSIX ustar; what `tail`
/// means depends on the magic.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) name: [u8; 100],
    pub(super) mode: [u8; 8],
    pub(super) uid: [u8; 8],
    pub(super) gid: [u8; 8],
    pub(super) size: [u8; 12],
    pub(super) mtime: [u8; 12],
    pub(super) checksum: [u8; 8],
    pub(super) kind: u8,
    pub(super) link: [u8; 100],
    pub(super) magic: [u8; 6],
    pub(super) version: [u8; 2],
    pub(super) uname: [u8; 32],
    pub(super) gname: [u8; 32],
    pub(super) major: [u8; 8],
    pub(super) minor: [u8; 8],
    pub(super) tail: [u8; 167],
}
const _: () = assert!(size_of::<Header>() == BLOCK);

/// The tail of a POSIX ustar header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct UstarTail {
    pub(super) prefix: [u8; 155],
    _unused: [u8; 12],
}

/// The tail of a header of Schilling's `star`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StarTail {
    prefix: [u8; 131],
    atime: [u8; 12],
    ctime: [u8; 12],
    _unused: [u8; 8],
    trailer: [u8; 4],
}

/// The tail of an old GNU header.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct GnuTail {
    atime: [u8; 12],
    ctime: [u8; 12],
    _unused: [u8; 17],
    pub(super) sparse: [SparseSlot; 4],
    pub(super) extended: u8,
    pub(super) real_size: [u8; 12],
    _padding: [u8; 17],
}

/// A block that continues the sparse map of an old GNU header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SparseBlock {
    pub(super) slots: [SparseSlot; 21],
    pub(super) extended: u8,
    _padding: [u8; 7],
}
const _: () = assert!(size_of::<SparseBlock>() == BLOCK);

/// One run of an old GNU sparse map.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SparseSlot {
    pub(super) offset: [u8; 12],
    pub(super) len: [u8; 12],
}

/// The dialects that differ in the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// Every number of a header, as written; ranges are checked once pax records had their say.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
    pub(super) major: i64,
    pub(super) minor: i64,
}

impl Header {
    pub(super) fn is_zero(&self) -> bool {
        self.as_bytes() == [0; BLOCK]
    }

    /// Whether the checksum is right, summed over unsigned bytes as POSIX says or over signed ones as the
    /// tar of SunOS did.
    pub(super) fn checksum_matches(&self) -> bool {
        let Some(stored) = octal(&self.checksum) else { return false };
        let unsigned = i64::try_from(self.sum()).unwrap_or(0);
        if stored == unsigned {
            return true;
        }
        let high = |bytes: &[u8]| bytes.iter().filter(|b| **b >= 0x80).count();
        let negative = high(self.as_bytes()).saturating_sub(high(&self.checksum));
        // A signed byte with the high bit is 256 less.
        let surplus = i64::try_from(negative).unwrap_or(0) << 8;
        stored == unsigned.saturating_sub(surplus)
    }

    /// Sum of all bytes, the checksum field counted as spaces.
    pub(super) fn sum(&self) -> u64 {
        // Four sums side by side in 16 bits each: 64 words of two bytes per lane stay below 2^15. Summing
        // bytes one by one is a third of the time that a small member takes.
        const LANES: u64 = 0x00ff_00ff_00ff_00ff;
        let (words, _) = self.as_bytes().as_chunks::<8>();
        let lanes = words.iter().fold(0_u64, |lanes, word| {
            let word = u64::from_le_bytes(*word);
            lanes.wrapping_add(word & LANES).wrapping_add((word >> 8) & LANES)
        });
        let sum: u64 = [0, 16, 32, 48].map(|lane| (lanes >> lane) & 0xffff).iter().sum();
        let field: u64 = self.checksum.iter().map(|byte| u64::from(*byte)).sum();
        let spaces = u64::from(b' ') << 3;
        sum.saturating_sub(field).saturating_add(spaces)
    }

    pub(super) fn format(&self) -> Format {
        let star: &StarTail = transmute_ref!(&self.tail);
        match (&self.magic, &self.version) {
            (b"ustar\0", _) if star.trailer == *b"tar\0" => Format::Star,
            (b"ustar\0", _) => Format::Ustar,
            (b"ustar ", b" \0") => Format::Gnu,
            _ => Format::V7,
        }
    }

    pub(super) fn ustar_mut(&mut self) -> &mut UstarTail {
        transmute_mut!(&mut self.tail)
    }

    pub(super) fn gnu(&self) -> &GnuTail {
        transmute_ref!(&self.tail)
    }

    /// Reads every number. Go refuses a header for any field that is none, used or not.
    pub(super) fn numbers(&self, format: Format) -> Result<Numbers, Problem> {
        let posix = format != Format::V7;
        if format == Format::Star {
            let star: &StarTail = transmute_ref!(&self.tail);
            field("atime", &star.atime)?;
            field("ctime", &star.ctime)?;
        }
        Ok(Numbers {
            mode: field("mode", &self.mode)?,
            uid: field("uid", &self.uid)?,
            gid: field("gid", &self.gid)?,
            size: field("size", &self.size)?,
            mtime: field("mtime", &self.mtime)?,
            major: if posix { field("devmajor", &self.major)? } else { 0 },
            minor: if posix { field("devminor", &self.minor)? } else { 0 },
        })
    }

    /// The part of the name in front of `name`; empty when there is none.
    pub(super) fn prefix(&self, format: Format) -> &[u8] {
        let ustar: &UstarTail = transmute_ref!(&self.tail);
        match format {
            Format::V7 => &[],
            Format::Ustar => c_string(&ustar.prefix),
            Format::Star => {
                let star: &StarTail = transmute_ref!(&self.tail);
                c_string(&star.prefix)
            }
            // Go before 1.8 wrote a prefix under GNU magic, where the times belong. As Go does: what is no
            // time is a prefix if it is ASCII (golang.org/issue/12594).
            Format::Gnu => {
                let is_time = |f: &[u8; 12]| f.starts_with(&[0]) || numeric(f).is_some();
                let prefix = c_string(&ustar.prefix);
                let gnu = self.gnu();
                if is_time(&gnu.atime) && is_time(&gnu.ctime) || !prefix.is_ascii() {
                    return &[];
                }
                prefix
            }
        }
    }
}

/// The bytes of a field up to its first NUL.
pub(super) fn c_string(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// [`numeric`], with the field's name in the error.
pub(super) fn field(name: &'static str, bytes: &[u8]) -> Result<i64, Problem> {
    numeric(bytes).ok_or(Problem::BadNumber { field: name })
}

/// A number of a header: octal digits, or two's complement when the first bit is set (GNU, star).
/// `None` when it is neither or exceeds 64 bits.
pub(super) fn numeric(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

/// Octal digits between any number of spaces and NULs; nothing but those is 0.
fn octal(mut field: &[u8]) -> Option<i64> {
    while let [b' ' | 0, rest @ ..] = field {
        field = rest;
    }
    while let [rest @ .., b' ' | 0] = field {
        field = rest;
    }
    let mut value = 0_i64;
    for byte in field {
        match byte {
            b'0'..=b'7' if value >> 60 == 0 => value = (value << 3) | i64::from(byte & 7),
            0 => break,
            _ => return None,
        }
    }
    Some(value)
}

fn base256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    // Bit 7 marks the encoding, bit 6 is the sign; a negative number is read inverted.
    let invert = if first & 0x40 == 0 { 0 } else { 0xff };
    let mut value = i64::from((first ^ invert) & 0x7f);
    for byte in rest {
        if value >> 55 != 0 {
            return None;
        }
        value = (value << 8) | i64::from(byte ^ invert);
    }
    Some(if invert == 0 { value } else { !value })
}
