//! gzip (RFC 1952): any number of members, nothing else before, between or after them.
//!
//! Stricter than gzip(1), which warns about trailing bytes, and as strict as Go's reader, which containerd uses.

use flate2::Crc;

use super::inflate::{InflateProgress, RawInflate};
use super::{CompressedFormat, DecodeStep, Decoder, Defect};
use crate::blob_kind::GZIP_MAGIC;
use crate::error::LayerError;
use crate::{Error, Result};

const HCRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
/// Bits of the flag byte that no version of gzip has given a meaning; a reader must refuse them (section 2.3.1.2).
const RESERVED: u8 = 0xe0;

/// A gzip decoder over some raw inflater.
pub(crate) struct Gzip {
    inflate: Box<dyn RawInflate>,
    state: GzipState,
    /// Bytes of the blob used.
    offset: u64,
    /// Complete members.
    members: u64,
    /// Output of this member, modulo 2^32 as the trailer has it.
    size: u32,
}

enum GzipState {
    /// At the first byte of a member, or at the end.
    Between,
    Header(GzipHeader),
    Body,
    Trailer {
        at: u64,
        bytes: [u8; 8],
        have: usize,
    },
}

impl Gzip {
    pub(crate) fn new(inflate: Box<dyn RawInflate>) -> Self {
        Self { inflate, state: GzipState::Between, offset: 0, members: 0, size: 0 }
    }

    fn bad<T>(offset: u64, defect: Defect) -> Result<T> {
        Err(Error::Layer(LayerError::Corrupt { format: CompressedFormat::Gzip, offset, defect }))
    }

    /// A byte that does not begin a member.
    fn no_member<T>(&self, start: u64) -> Result<T> {
        let defect = if self.members == 0 { Defect::BadMagic } else { Defect::TrailingGarbage };
        Self::bad(start, defect)
    }

    fn header(&mut self, mut header: GzipHeader, input: &[u8]) -> Result<usize> {
        for (i, &byte) in input.iter().enumerate() {
            match header.feed(byte) {
                FeedResult::More => {}
                FeedResult::Done => {
                    self.inflate.reset();
                    self.size = 0;
                    self.state = GzipState::Body;
                    return Ok(i + 1);
                }
                FeedResult::NoMagic => return self.no_member(header.start),
                FeedResult::Bad => return Self::bad(header.start, Defect::BadHeader),
            }
        }
        self.state = GzipState::Header(header);
        Ok(input.len())
    }

    fn body(&mut self, input: &[u8], out: &mut [u8]) -> Result<DecodeStep> {
        let Some(InflateProgress { used, made, end }) = self.inflate.inflate(input, out) else {
            return Self::bad(self.offset, Defect::BadData);
        };
        let wrapped = u32::try_from(made & 0xffff_ffff).unwrap_or(u32::MAX);
        self.size = self.size.wrapping_add(wrapped);
        if let Some(beyond) = end {
            let at = (self.offset + used as u64).saturating_sub(beyond.len as u64);
            self.state = GzipState::Trailer { at, bytes: beyond.bytes, have: beyond.len };
        } else if used == 0 && made == 0 && !input.is_empty() && !out.is_empty() {
            // A decoder that can neither go on nor says why: never loop on it.
            return Self::bad(self.offset, Defect::BadData);
        }
        Ok(DecodeStep { used, made })
    }

    fn trailer(
        &mut self,
        at: u64,
        mut bytes: [u8; 8],
        mut have: usize,
        input: &[u8],
    ) -> Result<usize> {
        let mut used = 0;
        for (slot, byte) in bytes.iter_mut().skip(have).zip(input) {
            *slot = *byte;
            used += 1;
        }
        have += used;
        if have < 8 {
            self.state = GzipState::Trailer { at, bytes, have };
            return Ok(used);
        }
        let [c0, c1, c2, c3, s0, s1, s2, s3] = bytes;
        if u32::from_le_bytes([c0, c1, c2, c3]) != self.inflate.crc() {
            return Self::bad(at, Defect::BadChecksum);
        }
        if u32::from_le_bytes([s0, s1, s2, s3]) != self.size {
            return Self::bad(at, Defect::BadLength);
        }
        self.members += 1;
        self.state = GzipState::Between;
        Ok(used)
    }
}

impl Decoder for Gzip {
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<DecodeStep> {
        let mut total = DecodeStep::default();
        loop {
            let rest = input.get(total.used..).unwrap_or_default();
            let step = match std::mem::replace(&mut self.state, GzipState::Between) {
                GzipState::Between if rest.is_empty() => return Ok(total),
                GzipState::Between => {
                    let used = self.header(GzipHeader::new(self.offset), rest)?;
                    DecodeStep { used, made: 0 }
                }
                GzipState::Header(header) => {
                    DecodeStep { used: self.header(header, rest)?, made: 0 }
                }
                GzipState::Body => {
                    self.state = GzipState::Body;
                    self.body(rest, out.get_mut(total.made..).unwrap_or_default())?
                }
                GzipState::Trailer { at, bytes, have } => {
                    DecodeStep { used: self.trailer(at, bytes, have, rest)?, made: 0 }
                }
            };
            self.offset += step.used as u64;
            total.used += step.used;
            total.made += step.made;
            let starved = total.used == input.len() && step.made == 0;
            if starved || total.made == out.len() {
                return Ok(total);
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        match self.state {
            GzipState::Between if self.members > 0 => Ok(()),
            _ => Self::bad(self.offset, Defect::Truncated),
        }
    }
}

/// A member's header, parsed byte by byte: it may be split anywhere.
struct GzipHeader {
    /// Offset of the member.
    start: u64,
    phase: Phase,
    flags: u8,
    /// Of the bytes before a header checksum.
    crc: Crc,
}

#[derive(Clone, Copy)]
enum Phase {
    /// The fixed part; how many bytes of it were seen.
    Fixed(u8),
    ExtraLow,
    ExtraHigh(u8),
    Extra(u16),
    Name,
    Comment,
    CrcLow,
    CrcHigh(u8),
}

enum FeedResult {
    More,
    Done,
    NoMagic,
    Bad,
}

impl GzipHeader {
    fn new(start: u64) -> Self {
        Self { start, phase: Phase::Fixed(0), flags: 0, crc: Crc::new() }
    }

    fn feed(&mut self, byte: u8) -> FeedResult {
        if !matches!(self.phase, Phase::CrcLow | Phase::CrcHigh(_)) {
            self.crc.update(&[byte]);
        }
        let next = match self.phase {
            Phase::Fixed(0) if byte != GZIP_MAGIC[0] => return FeedResult::NoMagic,
            Phase::Fixed(1) if byte != GZIP_MAGIC[1] => return FeedResult::NoMagic,
            // Method 8 is deflate; there is no other.
            Phase::Fixed(2) if byte != 8 => return FeedResult::Bad,
            Phase::Fixed(3) if byte & RESERVED != 0 => return FeedResult::Bad,
            Phase::Fixed(at) => {
                if at == 3 {
                    self.flags = byte;
                }
                if at < 9 { Some(Phase::Fixed(at + 1)) } else { self.after(EXTRA) }
            }
            Phase::ExtraLow => Some(Phase::ExtraHigh(byte)),
            Phase::ExtraHigh(low) => match u16::from_le_bytes([low, byte]) {
                0 => self.after(NAME),
                n => Some(Phase::Extra(n)),
            },
            Phase::Extra(1) => self.after(NAME),
            Phase::Extra(n) => Some(Phase::Extra(n - 1)),
            Phase::Name if byte == 0 => self.after(COMMENT),
            Phase::Comment if byte == 0 => self.after(HCRC),
            Phase::Name | Phase::Comment => Some(self.phase),
            Phase::CrcLow => Some(Phase::CrcHigh(byte)),
            Phase::CrcHigh(low) => {
                let expect = self.crc.sum() & 0xffff;
                if u32::from(u16::from_le_bytes([low, byte])) != expect {
                    return FeedResult::Bad;
                }
                None
            }
        };
        match next {
            Some(phase) => {
                self.phase = phase;
                FeedResult::More
            }
            None => FeedResult::Done,
        }
    }

    /// The first field that is present among `field` and those behind it.
    fn after(&self, field: u8) -> Option<Phase> {
        [
            (EXTRA, Phase::ExtraLow),
            (NAME, Phase::Name),
            (COMMENT, Phase::Comment),
            (HCRC, Phase::CrcLow),
        ]
        .into_iter()
        .skip_while(|(bit, _)| *bit != field)
        .find(|(bit, _)| self.flags & bit != 0)
        .map(|(_, phase)| phase)
    }
}
