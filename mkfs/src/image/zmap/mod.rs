//! Compression maps: which bytes of a file are in which compressed cluster.
//!
//! A file is cut into logical clusters (lclusters) of one size. An index entry for each says whether a new
//! extent starts in it (a head) or how far back its head is. Two table forms hold the same entries, full
//! (8 bytes each) and compact (2 or 4 bytes); a third form of 48-bit images lists extents directly. The
//! rules are those of the kernel's `fs/erofs/zmap.c`; unlike the kernel, an extent is always followed to
//! its end, so that both ends are known before anything is decoded.

mod index;
mod records;
#[cfg(test)]
mod tests;

use zerocopy::{FromZeros, IntoBytes};

use super::corruption::{Corruption, CorruptionKind, Error};
use super::inode::{Inode, Space};
use super::superblock::Super;
use crate::format::compression::{
    ALGORITHM_MASK, ALGORITHM_SHIFT, CLUSTER_BITS_MASK, DECODED_MAX, FullIndex, MapHeader,
    PCLUSTER_MAX, WHOLE_FRAGMENT, advise,
};
use crate::format::{Algorithm, Layout, incompat};

pub(crate) use records::Hint;

/// Where metadata comes from: the image and its metabox.
pub(crate) trait Metadata {
    /// Fills `buf` from byte `offset` of a metadata stream.
    fn read_meta(&self, space: Space, offset: u64, buf: &mut [u8]) -> Result<(), Error>;
    /// The superblock.
    fn superblock(&self) -> &Super;
}

/// How the bytes of an extent are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coding {
    /// As they are, from the start of the cluster.
    Stored,
    /// As they are, each at its file offset modulo the block size.
    Interlaced,
    /// Compressed.
    Compressed {
        /// How.
        algorithm: Algorithm,
        /// Only the first bytes of what decodes belong to the extent.
        partial: bool,
    },
}

/// Where the bytes of a piece of a compressed file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MappedSource {
    /// Nowhere: zeros.
    Hole,
    /// In the packed inode, from this offset of its content.
    Fragment { offset: u64 },
    /// At a byte address of the unified address space.
    Blocks { address: u64, len: u64, coding: Coding },
    /// In a metadata stream, behind the index table.
    Inline { offset: u64, len: u64, coding: Coding },
}

/// One extent of a compressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First byte in the file.
    pub(crate) start: u64,
    /// First byte behind it.
    pub(crate) end: u64,
    /// Where it is.
    pub(crate) source: MappedSource,
}

/// The form of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// No table: the whole file is a fragment at this offset.
    Fragment { offset: u64 },
    /// 8 bytes an lcluster.
    Full,
    /// 4-byte entries, then `pairs` 2-byte entries, then 4-byte entries again.
    Compact { initial: u64, pairs: u64 },
    /// `count` extent records of `size` bytes.
    Records { size: u64, count: u64 },
}

/// What is special about the extent with the last byte of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing.
    Plain,
    /// Its compressed bytes are behind the table.
    Inline { len: u16 },
    /// It is in the packed inode; the low half of the offset.
    Fragment { low: u32 },
}

/// The compression map of one inode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Map {
    pub(crate) nid: u64,
    pub(crate) space: Space,
    /// Bytes of the file.
    pub(crate) size: u64,
    /// Offset of the first index entry.
    pub(crate) start: u64,
    pub(crate) form: Form,
    pub(crate) tail: Tail,
    /// log2 of the lcluster size.
    pub(crate) cluster_bits: u8,
    block_bits: u8,
    advise: u16,
    algorithms: u8,
}

impl Map {
    /// Reads the map header of a compressed inode.
    pub(crate) fn read(meta: &dyn Metadata, inode: &Inode) -> Result<Self, Error> {
        let at = inode.body_end().checked_next_multiple_of(8).ok_or(CorruptionKind::MapOutside)?;
        let mut header = MapHeader::new_zeroed();
        meta.read_meta(inode.space(), at, header.as_mut_bytes())
            .map_err(|e| outside(e, inode, at))?;
        Self::parse(meta.superblock(), inode, at, &header)
            .map_err(|c| c.nid(inode.nid).at(at).into())
    }

    fn parse(sb: &Super, inode: &Inode, at: u64, header: &MapHeader) -> Result<Self, Corruption> {
        let behind = at.saturating_add(size_of::<MapHeader>() as u64);
        let mut map = Self {
            nid: inode.nid,
            space: inode.space(),
            size: inode.size,
            start: behind,
            form: Form::Full,
            tail: Tail::Plain,
            cluster_bits: sb.block_bits.saturating_add(header.cluster_bits & CLUSTER_BITS_MASK),
            block_bits: sb.block_bits,
            advise: header.advise.get(),
            algorithms: header.algorithms,
        };
        if let Some(offset) = header.whole_fragment() {
            map.form = Form::Fragment { offset };
            return Ok(map);
        }
        let compact = inode.layout == Layout::CompressedCompact;
        if !compact && map.advise & advise::EXTENTS != 0 {
            map.parse_records(header)?;
        } else {
            map.check_header(sb, compact, header)?;
            map.tail = map.parse_tail(sb, header)?;
            if compact {
                map.place_compact()?;
            } else {
                map.start = behind.saturating_add(FullIndex::RESERVED);
            }
        }
        Ok(map)
    }

    fn check_header(
        &self,
        sb: &Super,
        compact: bool,
        header: &MapHeader,
    ) -> Result<(), Corruption> {
        use advise::{BIG_1, BIG_2, COMPACTED_2B, FRAGMENT, INLINE, INTERLACED};
        let all = BIG_1 | BIG_2 | INLINE | INTERLACED | FRAGMENT;
        let known = if compact { all | COMPACTED_2B } else { all };
        let big = [self.advise & BIG_1 != 0, self.advise & BIG_2 != 0];
        let bad = |fault| Err(Corruption::new(fault).detail(format_args!("{:#x}", self.advise)));
        if self.advise & !known != 0
            || header.cluster_bits & !(CLUSTER_BITS_MASK | WHOLE_FRAGMENT) != 0
            || (compact && big == [false, true])
            || (compact && big == [true, false])
        {
            return bad(CorruptionKind::MapHeader);
        }
        if (big != [false, false] && !sb.has_incompat(incompat::COMPR_CFGS))
            || (self.advise & INLINE != 0 && !sb.has_incompat(incompat::ZTAILPACKING))
            || (self.advise & (FRAGMENT | INTERLACED) != 0 && !sb.has_incompat(incompat::FRAGMENTS))
        {
            return bad(CorruptionKind::MapFeature);
        }
        Ok(())
    }

    fn parse_tail(&self, sb: &Super, header: &MapHeader) -> Result<Tail, Corruption> {
        if self.advise & advise::FRAGMENT != 0 {
            return Ok(Tail::Fragment { low: header.low.get() });
        }
        if self.advise & advise::INLINE == 0 {
            return Ok(Tail::Plain);
        }
        let len = header.inline_size();
        if u64::from(len) > sb.block_size() {
            return Err(Corruption::new(CorruptionKind::DataInlineCrosses).detail(len));
        }
        Ok(if len == 0 { Tail::Plain } else { Tail::Inline { len } })
    }

    /// Number of lclusters.
    pub(crate) fn lclusters(&self) -> u64 {
        self.size.div_ceil(1 << self.cluster_bits)
    }

    /// First byte behind the table.
    pub(crate) fn table_end(&self) -> u64 {
        match self.form {
            Form::Fragment { .. } => self.start,
            Form::Records { size, count } => self.records_end(size, count),
            Form::Full | Form::Compact { .. } => self.index_end(),
        }
    }

    /// The extent that holds byte `pos`, which is below the size.
    ///
    /// `hint` speeds up maps that can only be read from their start; keep one for each map.
    pub(crate) fn find(
        &self,
        meta: &dyn Metadata,
        pos: u64,
        hint: &mut Hint,
    ) -> Result<Piece, Error> {
        let mut piece = match self.form {
            Form::Fragment { offset } => {
                Piece { start: 0, end: self.size, source: MappedSource::Fragment { offset } }
            }
            Form::Full | Form::Compact { .. } => self.find_index(meta, pos)?,
            Form::Records { .. } => self.find_record(meta, pos, hint)?,
        };
        self.check_piece(meta.superblock(), &piece).map_err(|c| c.nid(self.nid).at(self.start))?;
        // A cluster without blocks is a hole (Linux 7.2), within the bounds of any other cluster.
        if matches!(piece.source, MappedSource::Blocks { len: 0, .. }) {
            piece.source = MappedSource::Hole;
        }
        Ok(piece)
    }

    /// What the kernel demands of any extent.
    fn check_piece(&self, sb: &Super, piece: &Piece) -> Result<(), Corruption> {
        let decoded = piece.end.saturating_sub(piece.start);
        let (len, coding) = match piece.source {
            MappedSource::Hole => return Ok(()),
            MappedSource::Fragment { .. } if sb.packed.is_none() => {
                return Err(Corruption::new(CorruptionKind::MapFeature).detail("fragment"));
            }
            MappedSource::Fragment { .. } if sb.packed == Some(self.nid) => {
                return Err(Corruption::new(CorruptionKind::FragmentRecursion));
            }
            MappedSource::Fragment { .. } => return Ok(()),
            MappedSource::Blocks { len, coding, .. } | MappedSource::Inline { len, coding, .. } => {
                (len, coding)
            }
        };
        let bad = |fault| {
            let detail = format_args!("{len} bytes encoded, {decoded} decoded");
            Err(Corruption::new(fault).detail(detail))
        };
        if len > PCLUSTER_MAX || decoded > DECODED_MAX {
            return bad(CorruptionKind::MapTooLarge);
        }
        match coding {
            Coding::Compressed { algorithm, .. } if !sb.compression.has(algorithm) => {
                Err(Corruption::new(CorruptionKind::ComprAlgorithm).detail(algorithm.name()))
            }
            Coding::Stored | Coding::Interlaced if decoded > len => bad(CorruptionKind::MapStored),
            // In a cluster of less than a block there is nothing to wrap around.
            Coding::Interlaced if len < sb.block_size() => {
                let within = piece.start & sb.block_size().saturating_sub(1);
                if within.saturating_add(decoded) > len {
                    return bad(CorruptionKind::MapInterlaced);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn algorithm(&self, second: bool) -> Result<Algorithm, Corruption> {
        let id = if second {
            self.algorithms >> ALGORITHM_SHIFT
        } else {
            self.algorithms & ALGORITHM_MASK
        };
        Algorithm::from_id(id)
            .ok_or_else(|| Corruption::new(CorruptionKind::ComprAlgorithm).detail(id))
    }

    fn stored(&self) -> Coding {
        if self.advise & advise::INTERLACED != 0 { Coding::Interlaced } else { Coding::Stored }
    }

    fn fault(&self, fault: CorruptionKind, offset: u64, detail: impl std::fmt::Display) -> Error {
        Corruption::new(fault).nid(self.nid).at(offset).detail(detail).into()
    }

    fn read_index(&self, meta: &dyn Metadata, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        meta.read_meta(self.space, offset, buf).map_err(|e| match e {
            Error::Corrupt(c) if c.fault == CorruptionKind::DataOutside => {
                self.fault(CorruptionKind::MapOutside, offset, "")
            }
            other => other.in_inode(self.nid),
        })
    }
}

fn outside(e: Error, inode: &Inode, offset: u64) -> Error {
    match e {
        Error::Corrupt(c) if c.fault == CorruptionKind::DataOutside => {
            Corruption::new(CorruptionKind::MapOutside).nid(inode.nid).at(offset).into()
        }
        other => other.in_inode(inode.nid),
    }
}
