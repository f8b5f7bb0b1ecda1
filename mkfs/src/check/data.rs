//! Checks where the data of every inode lies: flat blocks, chunk tables and compression maps.

use super::reached::Name;
use super::{Check, CheckStop, sort};
use crate::format::{ChunkIndex, incompat};
use crate::image::{
    Chunks, Coding, Corruption, CorruptionKind, Data, Extent, ExtentLocation, Inode, Map, Metadata,
    Space,
};
use crate::io::is_zero;
use zerocopy::FromBytes;

/// Chunk entries looked at together.
const BATCH: u64 = 512;

impl Check<'_> {
    /// Checks the data of one inode, and notes the bytes that it and its metadata take.
    pub(super) fn check_data(&mut self, inode: &Inode, name: &Name) -> Result<(), CheckStop> {
        let mut end = inode.body_end();
        match inode.data {
            Data::Chunks { bits, indexes, wide } => {
                let chunks = Chunks { bits, indexes, wide };
                let count = inode.size.div_ceil(1 << bits);
                end = chunks.entry_offset(inode, count);
                if end > self.space_size(inode.space()) {
                    let c = Corruption::new(CorruptionKind::ChunkOutside)
                        .nid(inode.nid)
                        .at(inode.offset);
                    return self.find_named(c, name);
                }
                if let Err(c) = self.check_chunks(inode, &chunks, count)? {
                    return self.find_named(c, name);
                }
            }
            Data::Compressed if inode.size != 0 => match sort(Map::read(self.image, inode))? {
                Ok(map) => {
                    end = map.table_end();
                    if end > self.space_size(inode.space()) {
                        let c = Corruption::new(CorruptionKind::MapOutside)
                            .nid(inode.nid)
                            .at(map.start);
                        return self.find_named(c, name);
                    }
                    self.spend(end.saturating_sub(map.start))?;
                    if let Err(c) = sort(map.verify_order(self.image))? {
                        return self.find_named(c, name);
                    }
                }
                Err(c) => return self.find_named(c, name),
            },
            _ => {}
        }
        if let Err(c) = self.check_extents(inode, &mut end)? {
            self.find_named(c, name)?;
        }
        if inode.space() == Space::Primary {
            self.places.inode(inode.offset, end, inode.nid);
        }
        Ok(())
    }

    /// Bytes in a metadata stream.
    fn space_size(&self, space: Space) -> u64 {
        match space {
            Space::Primary => self.size(0),
            Space::Metabox => self.image.metabox_size(),
        }
    }

    /// Checks every extent; `end` moves behind data that lies among the metadata.
    fn check_extents(
        &mut self,
        inode: &Inode,
        end: &mut u64,
    ) -> Result<Result<(), Corruption>, CheckStop> {
        for extent in self.image.extents(inode) {
            let extent = match sort(extent)? {
                Ok(extent) => extent,
                Err(c) => return Ok(Err(c.nid(inode.nid).at(inode.offset))),
            };
            self.report.stats.extents = self.report.stats.extents.saturating_add(1);
            if self.report.stats.extents > self.limits.extents {
                return self.stop(CorruptionKind::LimitInodes).map(Ok);
            }
            if let Err(c) = self.check_extent(inode, &extent, end)? {
                return Ok(Err(c.nid(inode.nid).at(inode.offset)));
            }
        }
        Ok(Ok(()))
    }

    fn check_extent(
        &mut self,
        inode: &Inode,
        extent: &Extent,
        end: &mut u64,
    ) -> Result<Result<(), Corruption>, CheckStop> {
        Ok(match extent.place {
            ExtentLocation::Hole if inode.data == Data::Compressed => {
                self.check_hole(inode, extent)?
            }
            ExtentLocation::Hole => Ok(()),
            ExtentLocation::Device { device, offset } => {
                self.place_on_device(inode, device, offset, extent.len, false)
            }
            ExtentLocation::Encoded { device, offset, len, coding } => {
                let pcluster = matches!(coding, Coding::Compressed { .. });
                self.place_on_device(inode, device, offset, len, pcluster)
            }
            ExtentLocation::Inline { space, offset } => {
                *end = (*end).max(offset.saturating_add(extent.len));
                self.check_inline(space, offset, extent.len)?
            }
            ExtentLocation::EncodedInline { space, offset, len, .. } => {
                *end = (*end).max(offset.saturating_add(len));
                self.check_inline(space, offset, len)?
            }
            ExtentLocation::Fragment { offset } => {
                let size = self.image.packed_size();
                match offset.checked_add(extent.len) {
                    Some(end) if end <= size => Ok(()),
                    _ => Err(Corruption::new(CorruptionKind::FragmentOutside)
                        .detail(format_args!("{} bytes at {offset} of {size}", extent.len))),
                }
            }
        })
    }

    /// Kernels before Linux 7.2 know no holes in compressed files, and decode what a head leads to. It must be zeros, so
    /// that the file is the same for all of them. One cluster stands for many holes, and is decoded once.
    fn check_hole(
        &mut self,
        inode: &Inode,
        extent: &Extent,
    ) -> Result<Result<(), Corruption>, CheckStop> {
        let stand_in = match sort(self.image.stand_in(inode, extent.start))? {
            Ok(Some(stand_in)) => stand_in,
            Ok(None) => return Ok(Ok(())),
            Err(c) => return Ok(Err(c)),
        };
        let ExtentLocation::Encoded { device, offset, len, .. } = stand_in.place else {
            return Ok(Ok(()));
        };
        if self.zeros.contains(&(stand_in.place, stand_in.len)) {
            return Ok(Ok(()));
        }
        if let Err(c) = self.place_on_device(inode, device, offset, len, true) {
            return Ok(Err(c));
        }
        // What is remembered of it counts as well.
        self.spend(stand_in.len.max(self.sb().block_size()))?;
        let is_zero = match sort(self.image.decode(&stand_in))? {
            Ok(bytes) => is_zero(&bytes),
            Err(c) => return Ok(Err(c)),
        };
        if !is_zero {
            return Ok(Err(Corruption::new(CorruptionKind::MapHole).at(offset)));
        }
        self.zeros.insert((stand_in.place, stand_in.len));
        Ok(Ok(()))
    }

    fn place_on_device(
        &mut self,
        inode: &Inode,
        device: u16,
        offset: u64,
        len: u64,
        pcluster: bool,
    ) -> Result<(), Corruption> {
        let size = self.size(device);
        match offset.checked_add(len) {
            Some(end) if end <= size => {
                self.places.data(device, offset, end, inode.nid, pcluster);
                if let Some(used) =
                    usize::from(device).checked_sub(1).and_then(|i| self.devices_used.get_mut(i))
                {
                    *used = true;
                }
                Ok(())
            }
            _ => Err(Corruption::new(CorruptionKind::DataOutside).detail(format_args!(
                "{len} bytes at {offset} of device {device}, which has {size}"
            ))),
        }
    }

    /// Data among metadata must be there to its last byte.
    fn check_inline(
        &mut self,
        space: Space,
        offset: u64,
        len: u64,
    ) -> Result<Result<(), Corruption>, CheckStop> {
        let Some(last) = len.checked_sub(1) else { return Ok(Ok(())) };
        let read = self.image.read_meta(space, offset.saturating_add(last), &mut [0]);
        Ok(sort(read)?.map_err(|c| {
            Corruption::new(CorruptionKind::DataOutside).at(c.offset.unwrap_or(offset))
        }))
    }

    /// What resolving an entry hides: the kernel masks device numbers, and ignores high address bits where
    /// they have no meaning.
    fn check_chunks(
        &mut self,
        inode: &Inode,
        chunks: &Chunks,
        count: u64,
    ) -> Result<Result<(), Corruption>, CheckStop> {
        if !self.sb().has_incompat(incompat::CHUNKED_FILE) {
            self.chunk_bit_missed = true;
        }
        self.spend(count.saturating_mul(chunks.unit()))?;
        if !chunks.indexes {
            return Ok(Ok(()));
        }
        let devices = self.sb().devices.len();
        let mut raw = [0; 8 * 512];
        let mut index = 0u64;
        while index < count {
            let batch = count.saturating_sub(index).min(BATCH);
            let part = raw.get_mut(..usize::try_from(batch).unwrap_or(0).saturating_mul(8));
            let part = part.unwrap_or_default();
            let at = chunks.entry_offset(inode, index);
            let outside = |_| Corruption::new(CorruptionKind::ChunkOutside).nid(inode.nid).at(at);
            if let Err(c) = sort(self.image.read_meta(inode.space(), at, part))? {
                return Ok(Err(outside(c)));
            }
            for entry in <[ChunkIndex]>::ref_from_bytes(part).unwrap_or_default() {
                let stored = entry.startblk_lo.get() != u32::MAX;
                let bad = |fault| Corruption::new(fault).nid(inode.nid).at(at);
                if stored && usize::from(entry.device_id.get()) > devices {
                    let detail = format!("device {} of {devices}", entry.device_id.get());
                    return Ok(Err(bad(CorruptionKind::DataDevice).detail(detail)));
                }
                if stored && !chunks.wide && entry.startblk_hi.get() != 0 {
                    let detail = format!("high bits {:#x}", entry.startblk_hi.get());
                    return Ok(Err(bad(CorruptionKind::ChunkFormat).detail(detail)));
                }
            }
            index = index.saturating_add(batch);
        }
        Ok(Ok(()))
    }
}
