//! LZ4 blocks, by the crate `lz4_flex` where a block is decoded to its end.

use super::{CodecError, Share};

/// The shortest match.
const MIN_MATCH: usize = 4;
/// A length of a token that goes on in the bytes behind it.
const LONG: u8 = 15;

/// Decodes a block that ends with `input`.
pub(super) fn decode(input: &[u8], out: &mut [u8], share: Share) -> Result<(), CodecError> {
    if share == Share::Prefix {
        return decode_prefix(input, out);
    }
    let written = lz4_flex::block::decompress_into(input, out);
    let written =
        written.map_err(|error| CodecError::corrupt(format!("invalid LZ4 data: {error}")))?;
    if written != out.len() {
        return Err(CodecError::corrupt("LZ4 decoded length mismatch"));
    }
    Ok(())
}

/// Decodes the first bytes of a block, wherever it ends. The crate decodes whole blocks only.
pub(super) fn decode_prefix(input: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
    Prefix { input, out, written: 0 }
        .fill()
        .ok_or_else(|| CodecError::corrupt("invalid LZ4 prefix"))
}

struct Prefix<'a> {
    input: &'a [u8],
    out: &'a mut [u8],
    written: usize,
}

impl Prefix<'_> {
    /// Sequences of literals and matches until the output is full; `None` for anything that LZ4 does not write.
    fn fill(&mut self) -> Option<()> {
        while self.room() > 0 {
            let token = self.byte()?;
            self.literals(token >> 4)?;
            if self.room() == 0 {
                break;
            }
            self.repeat(token & LONG)?;
        }
        Some(())
    }

    fn room(&self) -> usize {
        self.out.len().saturating_sub(self.written)
    }

    fn literals(&mut self, length: u8) -> Option<()> {
        let count = self.length(length)?.min(self.room());
        let (literals, rest) = self.input.split_at_checked(count)?;
        self.input = rest;
        self.out.get_mut(self.written..)?.get_mut(..count)?.copy_from_slice(literals);
        self.written = self.written.checked_add(count)?;
        Some(())
    }

    /// Repeats what was written some bytes ago; the copy may overlap what it copies.
    fn repeat(&mut self, length: u8) -> Option<()> {
        let distance = usize::from(u16::from_le_bytes([self.byte()?, self.byte()?]));
        let count = self.length(length)?.checked_add(MIN_MATCH)?.min(self.room());
        let from = self.written.checked_sub(distance).filter(|_| distance != 0)?;
        let end = self.written.checked_add(count)?;
        while self.written < end {
            // The bytes since `from` repeat themselves.
            let part = self.written.checked_sub(from)?.min(end.checked_sub(self.written)?);
            self.out.copy_within(from..from.checked_add(part)?, self.written);
            self.written = self.written.checked_add(part)?;
        }
        Some(())
    }

    fn length(&mut self, of_token: u8) -> Option<usize> {
        let mut length = usize::from(of_token);
        if of_token == LONG {
            loop {
                let byte = self.byte()?;
                length = length.checked_add(usize::from(byte))?;
                if byte != u8::MAX {
                    break;
                }
            }
        }
        Some(length)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.input.split_first()?;
        self.input = rest;
        Some(*first)
    }
}
