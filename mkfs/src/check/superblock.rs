//! The superblock and the device table, beyond what opening an image demands.

use super::{Check, CheckStop};
use crate::format::{SUPER_OFFSET, compat};
use crate::image::{Corruption, CorruptionKind};

impl Check<'_> {
    pub(super) fn check_superblock(&mut self) -> Result<(), CheckStop> {
        let sb = self.sb().clone();
        let size = self.size(0);
        let at = |fault| Corruption::new(fault).at(SUPER_OFFSET);
        let claimed = sb.blocks.saturating_mul(sb.block_size());
        if claimed > size {
            let detail = format!("{claimed} bytes claimed, {size} there");
            self.find(at(CorruptionKind::SuperBlocks).detail(detail))?;
        }
        if sb.meta_start > size {
            self.find(at(CorruptionKind::SuperMetaStart).detail(sb.meta_start))?;
        }
        if sb.xattr_start > size && !sb.has_compat(compat::SHARED_EA_IN_METABOX) {
            self.find(at(CorruptionKind::SuperXattrStart).detail(sb.xattr_start))?;
        }
        if !sb.has_compat(compat::SB_CHKSUM) {
            self.find(at(CorruptionKind::SuperNoChecksum))?;
        }
        if sb.raw.reserved != [0; 2] || sb.raw.reserved2 != [0; 8] {
            self.find(at(CorruptionKind::SuperReserved))?;
        }
        self.places.metadata(SUPER_OFFSET, sb.end());
        self.check_device_table()
    }

    fn check_device_table(&mut self) -> Result<(), CheckStop> {
        let sb = self.sb().clone();
        if sb.devices.is_empty() {
            return Ok(());
        }
        let (start, end) = sb.device_table();
        self.places.metadata(start, end);
        let mut taken: Vec<(u64, u64, usize)> = vec![(0, sb.blocks, 0)];
        for (id, device) in (1usize..).zip(&sb.devices) {
            let bad = |fault| Corruption::new(fault).at(start).detail(format_args!("device {id}"));
            let storage = self.sizes.get(id).copied();
            let claimed = device.blocks.saturating_mul(sb.block_size());
            // The last block of a device need not be whole: a tar ends where it ends.
            let least = claimed.saturating_sub(sb.block_size().saturating_sub(1));
            if storage.is_some_and(|size| size < least) {
                self.find(bad(CorruptionKind::DeviceShort))?;
            }
            if device.uniaddr != 0 && device.blocks != 0 {
                let end = device.uniaddr.saturating_add(device.blocks);
                taken.push((device.uniaddr, end, id));
            }
        }
        taken.sort_unstable();
        for (before, after) in taken.iter().zip(taken.iter().skip(1)) {
            if before.1 > after.0 {
                let detail = format!("devices {} and {}", before.2, after.2);
                self.find(Corruption::new(CorruptionKind::DeviceOverlap).at(start).detail(detail))?;
            }
        }
        Ok(())
    }

    /// What can only be said when everything was seen.
    pub(super) fn check_totals(&mut self) -> Result<(), CheckStop> {
        let (table, _) = self.sb().device_table();
        let unused: Vec<usize> =
            (1..).zip(&self.devices_used).filter(|(_, used)| !**used).map(|(id, _)| id).collect();
        for id in unused {
            let detail = format!("device {id}");
            self.find(Corruption::new(CorruptionKind::DeviceUnused).at(table).detail(detail))?;
        }
        if self.chunk_bit_missed {
            self.find(Corruption::new(CorruptionKind::ChunkFeature).at(SUPER_OFFSET))?;
        }
        // mkfs.erofs counts the packed inode and the metabox, which have no names.
        let sb = self.sb();
        let hidden = [sb.raw.packed_nid.get(), sb.metabox.unwrap_or(0)];
        let hidden = hidden.iter().filter(|nid| **nid != 0).count() as u64;
        let (claimed, seen) = (sb.raw.inos.get(), self.report.stats.inodes);
        if claimed != 0 && !(seen..=seen.saturating_add(hidden)).contains(&claimed) {
            let detail = format!("{claimed} claimed, {seen} in the tree");
            self.find(
                Corruption::new(CorruptionKind::SuperInodes).at(SUPER_OFFSET).detail(detail),
            )?;
        }
        Ok(())
    }
}
