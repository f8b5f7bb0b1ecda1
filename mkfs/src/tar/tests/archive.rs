//! Builds archives byte by byte, the wrong ones too.

use zerocopy::{FromZeros, IntoBytes};

use crate::tar::header::{Header, SparseBlock, SparseSlot};
use crate::tar::{BLOCK, padding};

/// A header under construction, followed by its data.
pub(super) struct Block(pub(super) Header);

/// A header of POSIX ustar with mode 0644.
pub(super) fn ustar(kind: u8, name: &str) -> Block {
    let mut header = Header::new_zeroed();
    header.magic = *b"ustar\0";
    header.version = *b"00";
    header.kind = kind;
    Block(header).name(name.as_bytes()).mode(b"0000644\0")
}

/// A header of old GNU tar with mode 0644.
pub(super) fn gnu(kind: u8, name: &str) -> Block {
    ustar(kind, name).with(|h| (h.magic, h.version) = (*b"ustar ", *b" \0"))
}

/// A header of Unix V7: no magic.
pub(super) fn v7(kind: u8, name: &str) -> Block {
    ustar(kind, name).with(|h| (h.magic, h.version) = ([0; 6], [0; 2]))
}

/// Copies to the front of a field that is zero so far.
pub(super) fn put(field: &mut [u8], bytes: &[u8]) {
    field[..bytes.len()].copy_from_slice(bytes);
}

/// A number in octal, as wide as the field allows, with a NUL.
pub(super) fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    put(field, format!("{value:0width$o}\0").as_bytes());
}

/// A number in two's complement, the first bit set.
pub(super) fn base256(field: &mut [u8], value: i128) {
    let bytes: Vec<u8> =
        (0..field.len()).rev().map(|i| (value >> (8 * i)).to_le_bytes()[0]).collect();
    field.copy_from_slice(&bytes);
    field[0] |= 0x80;
}

impl Block {
    pub(super) fn with(mut self, change: impl FnOnce(&mut Header)) -> Self {
        change(&mut self.0);
        self
    }

    pub(super) fn name(self, name: &[u8]) -> Self {
        self.with(|h| put(&mut h.name, name))
    }

    pub(super) fn link(self, target: &str) -> Self {
        self.with(|h| put(&mut h.link, target.as_bytes()))
    }

    pub(super) fn mode(self, digits: &[u8; 8]) -> Self {
        self.with(|h| h.mode = *digits)
    }

    pub(super) fn size(self, size: u64) -> Self {
        self.with(|h| octal(&mut h.size, size))
    }

    /// The block, with its checksum.
    pub(super) fn header(self) -> Vec<u8> {
        let sum = self.0.sum();
        self.with(|h| octal(&mut h.checksum[..7], sum)).raw()
    }

    /// The block as it stands.
    pub(super) fn raw(self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }

    /// The block and padded data, the size set to fit.
    pub(super) fn data(self, data: &[u8]) -> Vec<u8> {
        let mut bytes = self.size(data.len() as u64).header();
        bytes.extend(padded(data));
        bytes
    }
}

/// Data up to a block boundary.
pub(super) fn padded(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(data.len() + usize::try_from(padding(data.len() as u64)).unwrap(), 0);
    bytes
}

/// One pax record with its true length.
pub(super) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let len = (body..).find(|len| body + len.to_string().len() == *len).unwrap();
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// An extended header with these records.
pub(super) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let records = records.iter().flat_map(|(k, v)| record(k.as_bytes(), v.as_bytes()));
    ustar(b'x', "PaxHeaders/x").data(&records.collect::<Vec<_>>())
}

/// A GNU header for a long name (`L`) or link (`K`).
pub(super) fn long(kind: u8, name: &[u8]) -> Vec<u8> {
    gnu(kind, "././@LongLink").data(&[name, b"\0"].concat())
}

/// A run of an old GNU sparse map.
pub(super) fn slot(offset: u64, len: u64) -> SparseSlot {
    let mut slot = SparseSlot::new_zeroed();
    octal(&mut slot.offset, offset);
    octal(&mut slot.len, len);
    slot
}

/// A block with more runs of an old GNU sparse map.
pub(super) fn slots(runs: &[(u64, u64)], extended: bool) -> Vec<u8> {
    let mut block = SparseBlock::new_zeroed();
    for (to, (offset, len)) in block.slots.iter_mut().zip(runs) {
        *to = slot(*offset, *len);
    }
    block.extended = u8::from(extended);
    block.as_bytes().to_vec()
}

/// The end of an archive.
pub(super) fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

/// Parts and the end.
pub(super) fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.extend(end());
    bytes
}
