//! Where the bytes of a file are.

use super::Image;
use super::corruption::{Corruption, CorruptionKind, Error};
use super::inode::{Data, Inode, Space};
use super::map_state::MapState;
use super::superblock::Super;
use super::zmap::{Coding, Hint, Map, MappedSource, Metadata, Piece};
use crate::format::{ChunkIndex, HOLE_BLOCK, HOLE_BLOCK_48};
use crate::io::ReadAt;
use zerocopy::FromBytes;

/// Chunk entries read at a time.
const CHUNK_BATCH: u64 = 512;

/// Where the bytes of an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExtentLocation {
    /// Nowhere: they are zeros.
    Hole,
    /// As they are, on a device.
    Device {
        /// 0 for the image itself, k for slot k - 1 of the device table.
        device: u16,
        /// Byte offset in the device.
        offset: u64,
    },
    /// As they are, behind the inode.
    Inline {
        /// Which metadata stream.
        space: Space,
        /// Byte offset in it.
        offset: u64,
    },
    /// Compressed, or rotated, on a device.
    Encoded {
        /// As for [`ExtentLocation::Device`].
        device: u16,
        /// Byte offset in the device.
        offset: u64,
        /// Bytes there.
        len: u64,
        /// How they are encoded.
        coding: Coding,
    },
    /// Compressed, behind the inode's index.
    EncodedInline {
        /// Which metadata stream.
        space: Space,
        /// Byte offset in it.
        offset: u64,
        /// Bytes there.
        len: u64,
        /// How they are encoded.
        coding: Coding,
    },
    /// In the packed inode.
    Fragment {
        /// Byte offset in its content.
        offset: u64,
    },
}

/// A run of a file's bytes in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub start: u64,
    /// Bytes of the file.
    pub len: u64,
    /// Where they are.
    pub place: ExtentLocation,
}

impl Extent {
    /// First byte behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

impl<R: ReadAt> Image<R> {
    /// The extent that holds byte `pos` of `inode`, and as much around it as is known to belong together.
    /// `pos` is below the size.
    pub(crate) fn extent_at(&self, inode: &Inode, pos: u64) -> Result<Extent, Error> {
        match inode.data {
            Data::Hole => Ok(Extent { start: 0, len: inode.size, place: ExtentLocation::Hole }),
            Data::Flat { block } => self.flat_extent(inode, block, pos),
            Data::Chunks { bits, indexes, wide } => {
                self.chunk_extent(inode, &Chunks { bits, indexes, wide }, pos)
            }
            Data::Compressed => self.compressed_extent(inode, pos),
            Data::Device { .. } | Data::None => Err(Error::NoContent { nid: inode.nid }),
        }
    }

    fn flat_extent(&self, inode: &Inode, block: u64, pos: u64) -> Result<Extent, Error> {
        let sb = self.superblock();
        let (tail, start) = inode.inline_tail(sb.block_bits);
        if tail != 0 && pos >= start {
            let offset = inode.body_end();
            check_inline(sb, inode, tail)?;
            let place = ExtentLocation::Inline { space: inode.space(), offset };
            return Ok(Extent { start, len: tail, place });
        }
        let address = (block << sb.block_bits).checked_add(pos);
        let address =
            address.ok_or_else(|| Corruption::new(CorruptionKind::DataOutside).nid(inode.nid))?;
        // Without a device table the whole file is one run; with one it may have to be cut.
        let (device, offset, room) = self.resolve(0, address).map_err(|e| e.in_inode(inode.nid))?;
        let len = start.saturating_sub(pos).min(room);
        if self.devices_attached() == 0 {
            let offset = offset.saturating_sub(pos);
            return Ok(Extent {
                start: 0,
                len: start,
                place: ExtentLocation::Device { device, offset },
            });
        }
        Ok(Extent { start: pos, len, place: ExtentLocation::Device { device, offset } })
    }

    fn compressed_extent(&self, inode: &Inode, pos: u64) -> Result<Extent, Error> {
        let mut state = match self.recent_map(inode.nid) {
            Some(state) => state,
            None => MapState { map: Map::read(self, inode)?, hint: Hint::default() },
        };
        let piece = state.map.find(self, pos, &mut state.hint)?;
        self.keep_map(state);
        self.extent_of(inode, &piece)
    }

    /// The extent that kernels before Linux 7.2 decode in the place of a hole at `pos` of a compressed file: see
    /// [`Map::stand_in`].
    pub(crate) fn stand_in(&self, inode: &Inode, pos: u64) -> Result<Option<Extent>, Error> {
        let piece = Map::read(self, inode)?.stand_in(self, pos)?;
        piece.map(|piece| self.extent_of(inode, &piece)).transpose()
    }

    fn extent_of(&self, inode: &Inode, piece: &Piece) -> Result<Extent, Error> {
        let place = match piece.source {
            MappedSource::Hole => ExtentLocation::Hole,
            MappedSource::Fragment { offset } => ExtentLocation::Fragment { offset },
            MappedSource::Inline { offset, len, coding } => {
                ExtentLocation::EncodedInline { space: inode.space(), offset, len, coding }
            }
            MappedSource::Blocks { address, len, coding } => {
                let (device, offset, room) =
                    self.resolve(0, address).map_err(|e| e.in_inode(inode.nid))?;
                if len > room {
                    return Err(Corruption::new(CorruptionKind::DataCrossesDevice)
                        .nid(inode.nid)
                        .into());
                }
                ExtentLocation::Encoded { device, offset, len, coding }
            }
        };
        Ok(Extent { start: piece.start, len: piece.end.saturating_sub(piece.start), place })
    }

    /// Chunks that follow each other on a device, or holes that follow each other, become one extent.
    fn chunk_extent(&self, inode: &Inode, chunks: &Chunks, pos: u64) -> Result<Extent, Error> {
        let size = 1u64 << chunks.bits;
        let first = pos >> chunks.bits;
        let count = inode.size.div_ceil(size);
        let batch = count.saturating_sub(first).min(CHUNK_BATCH);
        let mut raw = [0; 8 * 512];
        let used = usize::try_from(batch.saturating_mul(chunks.unit())).unwrap_or(0);
        let raw = raw.get_mut(..used).unwrap_or_default();
        let at = chunks.entry_offset(inode, first);
        self.read_chunk_entries(inode, at, raw)?;
        let mut run: Option<(ExtentLocation, u64)> = None;
        for entry in raw.chunks_exact(usize::try_from(chunks.unit()).unwrap_or(8)) {
            let (place, room) = match chunks.address(self.superblock(), entry) {
                None => (ExtentLocation::Hole, u64::MAX),
                Some((device, block)) => {
                    let address = block << self.superblock().block_bits;
                    let (device, offset, room) =
                        self.resolve(device, address).map_err(|e| e.in_inode(inode.nid))?;
                    (ExtentLocation::Device { device, offset }, room)
                }
            };
            // The last chunk of a file stores only what is needed of it.
            let (start_place, len) = match run {
                None => (place, 0),
                Some((before, len)) if follows(before, len, place) => (before, len),
                Some(_) => break,
            };
            let logical = (first << chunks.bits).saturating_add(len);
            let want = size.min(inode.size.saturating_sub(logical));
            if want > room {
                return Err(Corruption::new(CorruptionKind::DataCrossesDevice)
                    .nid(inode.nid)
                    .at(at)
                    .into());
            }
            run = Some((start_place, len.saturating_add(want)));
        }
        let (place, len) =
            run.ok_or_else(|| Corruption::new(CorruptionKind::ChunkOutside).nid(inode.nid))?;
        Ok(Extent { start: first << chunks.bits, len, place })
    }

    fn read_chunk_entries(&self, inode: &Inode, at: u64, raw: &mut [u8]) -> Result<(), Error> {
        self.read_meta(inode.space(), at, raw).map_err(|e| match e {
            Error::Corrupt(c) if c.fault == CorruptionKind::DataOutside => {
                Corruption::new(CorruptionKind::ChunkOutside).nid(inode.nid).at(at).into()
            }
            other => other.in_inode(inode.nid),
        })
    }

    /// Byte `address` of device `device`, or of the unified address space for device 0: the device it is
    /// on, the offset there, and how many bytes follow before another device begins.
    pub(crate) fn resolve(&self, device: u16, address: u64) -> Result<(u16, u64, u64), Error> {
        resolve(self.superblock(), self.devices_attached(), device, address)
    }
}

/// See [`Image::resolve`]; `attached` is the number of devices given.
pub(crate) fn resolve(
    sb: &Super,
    attached: usize,
    device: u16,
    address: u64,
) -> Result<(u16, u64, u64), Error> {
    let bits = sb.block_bits;
    if device != 0 {
        let missing = |fault| Corruption::new(fault).detail(format_args!("device {device}"));
        let slot = usize::from(device).saturating_sub(1);
        let info = sb.devices.get(slot).ok_or_else(|| missing(CorruptionKind::DataDevice))?;
        if slot < attached {
            return Ok((device, address, u64::MAX));
        }
        // Flattened: all devices follow each other on the primary one.
        if info.uniaddr == 0 {
            return Err(missing(CorruptionKind::DataDeviceMissing).into());
        }
        let address = (info.uniaddr << bits).checked_add(address);
        return Ok((0, address.ok_or_else(|| missing(CorruptionKind::DataOutside))?, u64::MAX));
    }
    if attached == 0 {
        return Ok((0, address, u64::MAX));
    }
    let mut room = u64::MAX;
    for (id, info) in (1u16..).zip(&sb.devices).filter(|(_, d)| d.uniaddr != 0) {
        let start = info.uniaddr << bits;
        let end = start.saturating_add(info.blocks << bits);
        if (start..end).contains(&address) {
            return Ok((id, address.saturating_sub(start), end.saturating_sub(address)));
        }
        if address < start {
            room = room.min(start.saturating_sub(address));
        }
    }
    Ok((0, address, room))
}

/// True when `next` continues `place` after `len` bytes.
fn follows(place: ExtentLocation, len: u64, next: ExtentLocation) -> bool {
    match (place, next) {
        (ExtentLocation::Hole, ExtentLocation::Hole) => true,
        (
            ExtentLocation::Device { device: a, offset: from },
            ExtentLocation::Device { device: b, offset },
        ) => a == b && from.saturating_add(len) == offset,
        _ => false,
    }
}

/// An inline tail must lie in one block.
pub(crate) fn check_inline(sb: &Super, inode: &Inode, tail: u64) -> Result<(), Corruption> {
    let offset = inode.body_end();
    let block = sb.block_size();
    if (offset & block.saturating_sub(1)).saturating_add(tail) > block {
        return Err(Corruption::new(CorruptionKind::DataInlineCrosses)
            .nid(inode.nid)
            .at(offset)
            .detail(format_args!("{tail} bytes")));
    }
    Ok(())
}

/// The chunk table of an inode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunks {
    pub(crate) bits: u8,
    pub(crate) indexes: bool,
    pub(crate) wide: bool,
}

impl Chunks {
    /// Bytes of an entry.
    pub(crate) fn unit(&self) -> u64 {
        if self.indexes { 8 } else { 4 }
    }

    /// Offset of entry `index` in the inode's metadata stream.
    pub(crate) fn entry_offset(&self, inode: &Inode, index: u64) -> u64 {
        let unit = self.unit();
        // Offsets come from 64-bit nids times 32 with checks; rounding may still wrap at the very end.
        let table = inode.body_end().checked_next_multiple_of(unit).unwrap_or(u64::MAX);
        table.saturating_add(index.saturating_mul(unit))
    }

    /// The device, masked as the kernel does, and the block of an entry; `None` for a hole.
    pub(crate) fn address(&self, sb: &Super, entry: &[u8]) -> Option<(u16, u64)> {
        let Ok(index) = ChunkIndex::read_from_bytes(entry) else {
            let block = entry.try_into().map(u32::from_le_bytes).unwrap_or(HOLE_BLOCK);
            return (block != HOLE_BLOCK).then_some((0, u64::from(block)));
        };
        let low = u64::from(index.startblk_lo.get());
        let (block, none) = if self.wide {
            (low | (u64::from(index.startblk_hi.get()) << 32), HOLE_BLOCK_48)
        } else {
            (low, u64::from(HOLE_BLOCK))
        };
        (block != none).then_some((index.device_id.get() & sb.device_mask(), block))
    }
}
