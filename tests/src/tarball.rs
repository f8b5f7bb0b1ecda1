//! Archives built byte by byte, so that every header field can be wrong on purpose.
//!
//! [`Header`] is one 512-byte block whose fields can be set to numbers or to raw bytes; [`Tarball`] strings blocks
//! together. Nothing here checks anything: an archive comes out exactly as it was asked for.

use std::ops::Range;

/// The modification time of members that do not say otherwise: 2023-11-14 22:13:20 UTC.
pub const MTIME: i64 = 1_700_000_000;

/// Bytes of a block; headers fill one, data is padded to whole ones.
pub const BLOCK: usize = 512;

/// Where the fields of a header are.
pub mod field {
    use std::ops::Range;

    /// Name, or its last part when there is a prefix.
    pub const NAME: Range<usize> = 0..100;
    /// Permission bits, octal.
    pub const MODE: Range<usize> = 100..108;
    /// Owner.
    pub const UID: Range<usize> = 108..116;
    /// Group.
    pub const GID: Range<usize> = 116..124;
    /// Bytes of data that follow.
    pub const SIZE: Range<usize> = 124..136;
    /// Modification time in seconds.
    pub const MTIME: Range<usize> = 136..148;
    /// Sum of all bytes of the header with this field as spaces.
    pub const CHECKSUM: Range<usize> = 148..156;
    /// Type of member.
    pub const KIND: Range<usize> = 156..157;
    /// Link target.
    pub const LINK: Range<usize> = 157..257;
    /// Magic and version.
    pub const MAGIC: Range<usize> = 257..265;
    /// Name of the owner.
    pub const UNAME: Range<usize> = 265..297;
    /// Name of the group.
    pub const GNAME: Range<usize> = 297..329;
    /// Major device number.
    pub const MAJOR: Range<usize> = 329..337;
    /// Minor device number.
    pub const MINOR: Range<usize> = 337..345;
    /// Directory part of a long name (POSIX).
    pub const PREFIX: Range<usize> = 345..500;
    /// Sparse map of four slots (old GNU).
    pub const SPARSE: Range<usize> = 386..482;
    /// Whether extended sparse blocks follow (old GNU).
    pub const IS_EXTENDED: Range<usize> = 482..483;
    /// Expanded size of a sparse file (old GNU).
    pub const REAL_SIZE: Range<usize> = 483..495;
}

/// How the checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sum {
    Unsigned,
    Signed,
    AsIs,
}

/// One header block.
#[derive(Debug, Clone)]
pub struct Header {
    block: [u8; BLOCK],
    sum: Sum,
}

impl Header {
    /// A POSIX header of a member of type `kind` (the type flag), owned by root, mode 0644, or 0755 for directories.
    ///
    /// # Panics
    /// When the name does not fit its field: long names are what [`Tarball::pax`] is for.
    pub fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        let header = Self { block: [0; BLOCK], sum: Sum::Unsigned };
        header
            .raw(field::KIND, [kind])
            .raw(field::NAME, name)
            .mode(match kind {
                b'5' => 0o755,
                b'2' => 0o777,
                _ => 0o644,
            })
            .owner(0, 0)
            .size(0)
            .mtime(MTIME)
            .raw(field::MAGIC, b"ustar\x0000")
    }

    /// The same with the magic of GNU tar.
    pub fn gnu(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Self::new(kind, name).raw(field::MAGIC, b"ustar  \0")
    }

    /// The same as version 7 of Unix wrote it: no magic at all.
    pub fn v7(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Self::new(kind, name).raw(field::MAGIC, [0; 8])
    }

    /// Sets a field to these bytes and clears the rest of it.
    ///
    /// # Panics
    /// When they do not fit.
    #[must_use]
    pub fn raw(mut self, field: Range<usize>, bytes: impl AsRef<[u8]>) -> Self {
        let (to, from) = (&mut self.block[field], bytes.as_ref());
        assert!(from.len() <= to.len(), "{} bytes in a field of {}", from.len(), to.len());
        to.fill(0);
        to[..from.len()].copy_from_slice(from);
        self
    }

    /// Sets a field to an octal number, zero-filled and NUL-terminated; in base 256 when octal has no room.
    #[must_use]
    pub fn number(self, field: Range<usize>, value: u64) -> Self {
        let digits = field.len() - 1;
        let text = format!("{value:0digits$o}");
        if text.len() > digits {
            return self.base256(field, i128::from(value));
        }
        self.raw(field, text)
    }

    /// Sets a field to a two's-complement number with the top bit as the mark, as GNU tar does.
    #[must_use]
    pub fn base256(self, field: Range<usize>, value: i128) -> Self {
        let mut out = value.to_le_bytes()[..field.len()].to_vec();
        out.reverse();
        out[0] = if value < 0 { 0xff } else { out[0] | 0x80 };
        self.raw(field, out)
    }

    /// Permission bits.
    #[must_use]
    pub fn mode(self, mode: u64) -> Self {
        self.number(field::MODE, mode)
    }

    /// Owner and group.
    #[must_use]
    pub fn owner(self, uid: u64, gid: u64) -> Self {
        self.number(field::UID, uid).number(field::GID, gid)
    }

    /// Bytes of data.
    #[must_use]
    pub fn size(self, size: u64) -> Self {
        self.number(field::SIZE, size)
    }

    /// Modification time; negative ones in base 256.
    #[must_use]
    pub fn mtime(self, sec: i64) -> Self {
        match u64::try_from(sec) {
            Ok(sec) => self.number(field::MTIME, sec),
            Err(_) => self.base256(field::MTIME, i128::from(sec)),
        }
    }

    /// Link target.
    #[must_use]
    pub fn link(self, target: impl AsRef<[u8]>) -> Self {
        self.raw(field::LINK, target)
    }

    /// Device number.
    #[must_use]
    pub fn device(self, major: u64, minor: u64) -> Self {
        self.number(field::MAJOR, major).number(field::MINOR, minor)
    }

    /// Checksum over signed bytes, as some old systems computed it.
    #[must_use]
    pub fn signed_sum(mut self) -> Self {
        self.sum = Sum::Signed;
        self
    }

    /// A checksum field with these bytes, right or wrong.
    #[must_use]
    pub fn with_sum(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.sum = Sum::AsIs;
        self.raw(field::CHECKSUM, bytes)
    }

    /// The finished block.
    pub fn block(&self) -> [u8; BLOCK] {
        let mut block = self.block;
        if self.sum != Sum::AsIs {
            block[field::CHECKSUM].fill(b' ');
            let sum: i64 = match self.sum {
                Sum::Signed => block.iter().map(|&b| i64::from(b.cast_signed())).sum(),
                _ => block.iter().map(|&b| i64::from(b)).sum(),
            };
            // A negative signed sum cannot be written in octal; no case needs one.
            let text = format!("{:06o}\0 ", sum.max(0));
            block[field::CHECKSUM].copy_from_slice(text.as_bytes());
        }
        block
    }
}

/// One record of a PAX header: `LENGTH KEY=VALUE\n`, the length counting itself.
pub fn record(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let (key, value) = (key.as_ref(), value.as_ref());
    let fixed = key.len() + value.len() + 3;
    let mut len = fixed + 1;
    while fixed + len.to_string().len() != len {
        len += 1;
    }
    let mut out = format!("{len} ").into_bytes();
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
    out
}

/// Several records, one after the other.
pub fn records<K: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(K, V)]) -> Vec<u8> {
    pairs.iter().flat_map(|(k, v)| record(k, v)).collect()
}

/// An archive in the making.
#[derive(Debug, Clone, Default)]
pub struct Tarball {
    bytes: Vec<u8>,
}

impl Tarball {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.bytes.extend_from_slice(bytes.as_ref());
        self
    }

    /// A header block.
    #[must_use]
    pub fn header(self, header: &Header) -> Self {
        self.raw(header.block())
    }

    /// Data, padded with zeros to whole blocks.
    #[must_use]
    pub fn data(self, data: impl AsRef<[u8]>) -> Self {
        let mut out = self.raw(data);
        out.bytes.resize(out.bytes.len().next_multiple_of(BLOCK), 0);
        out
    }

    /// A header with the size of `data` set, and the data.
    #[must_use]
    pub fn member(self, header: Header, data: impl AsRef<[u8]>) -> Self {
        let data = data.as_ref();
        self.header(&header.size(data.len() as u64)).data(data)
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.member(Header::new(b'0', name), data)
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.header(&Header::new(b'5', name))
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(&Header::new(b'2', name).link(target))
    }

    /// A hard link.
    #[must_use]
    pub fn hardlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(&Header::new(b'1', name).link(target))
    }

    /// A PAX header for the next member.
    #[must_use]
    pub fn pax<K: AsRef<[u8]>, V: AsRef<[u8]>>(self, pairs: &[(K, V)]) -> Self {
        self.pax_raw(records(pairs))
    }

    /// A PAX header whose records are these bytes, well-formed or not.
    #[must_use]
    pub fn pax_raw(self, payload: impl AsRef<[u8]>) -> Self {
        self.member(Header::new(b'x', "PaxHeaders/x"), payload)
    }

    /// A global PAX header.
    #[must_use]
    pub fn global<K: AsRef<[u8]>, V: AsRef<[u8]>>(self, pairs: &[(K, V)]) -> Self {
        self.member(Header::new(b'g', "pax_global_header"), records(pairs))
    }

    /// A GNU long name (`L`) or long link target (`K`) for the next member, NUL-terminated as GNU tar writes it.
    #[must_use]
    pub fn gnu_long(self, kind: u8, text: impl AsRef<[u8]>) -> Self {
        let mut text = text.as_ref().to_vec();
        text.push(0);
        self.member(Header::gnu(kind, "././@LongLink"), text)
    }

    /// Cuts the last `n` bytes off.
    #[must_use]
    pub fn cut(mut self, n: usize) -> Self {
        self.bytes.truncate(self.bytes.len().saturating_sub(n));
        self
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The archive with the two zero blocks that end it.
    pub fn end(self) -> Vec<u8> {
        self.raw([0; 2 * BLOCK]).bytes
    }

    /// The archive as it stands, without an end.
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_length_counts_its_own_digits() {
        assert_eq!(record("path", "x"), b"9 path=x\n");
        // 97 bytes beside the digits: 99 with two of them.
        assert_eq!(record("k", "v".repeat(93)).len(), 99);
        assert!(record("k", "v".repeat(93)).starts_with(b"99 "));
        // One more needs a third digit, which makes it 101.
        assert!(record("k", "v".repeat(94)).starts_with(b"101 "));
    }

    #[test]
    fn base256_keeps_the_sign() {
        let block = Header::new(b'0', "f").base256(field::UID, -1).block();
        assert_eq!(block[field::UID], [0xff; 8]);
        let block = Header::new(b'0', "f").number(field::UID, 3_000_000_000).block();
        assert_eq!(block[field::UID], [0x80, 0, 0, 0, 0xb2, 0xd0, 0x5e, 0x00]);
    }

    #[test]
    fn crate_tar_reads_an_ordinary_archive() {
        let bytes = Tarball::new()
            .dir("d/")
            .pax(&[("path", "d/long")])
            .file("short", b"data")
            .symlink("l", "d")
            .end();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<_> =
            archive.entries().unwrap().map(|e| e.unwrap().path_bytes().into_owned()).collect();
        assert_eq!(names, [b"d/".to_vec(), b"d/long".to_vec(), b"l".to_vec()]);
    }
}
