//! What an inode takes among the metadata, for those who count bytes.

use super::Image;
use super::corruption::{Corruption, CorruptionKind, Error};
use super::extent::Chunks;
use super::inode::{Data, Inode};
use super::xattr::parse_entry;
use super::zmap::Map;
use crate::format::SHARED_ID_SIZE;
use crate::io::ReadAt;

/// The xattrs and the index table of an inode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Xattrs stored behind the inode.
    pub inline_xattrs: u64,
    /// Xattrs stored elsewhere, for several inodes: byte offset in the shared area's metadata stream, and
    /// bytes, padding included.
    pub shared_xattrs: Vec<(u64, u64)>,
    /// First byte behind the chunk or compression index; [`Inode::body_end`] when there is none.
    pub index_end: u64,
}

impl<R: ReadAt> Image<R> {
    /// What an inode takes among the metadata besides itself.
    ///
    /// # Errors
    /// A fault in the xattrs or in the header of the compression index.
    pub fn footprint(&self, inode: &Inode) -> Result<Footprint, Error> {
        let mut found = Footprint { index_end: self.index_end(inode)?, ..Footprint::default() };
        let Some(area) = self.xattr_area(inode)? else { return Ok(found) };
        for entry in area.entries() {
            entry.map_err(|c| c.nid(inode.nid))?;
            found.inline_xattrs = found.inline_xattrs.saturating_add(1);
        }
        for id in area.shared() {
            let bytes = self.shared_xattr(id).map_err(|e| e.in_inode(inode.nid))?;
            let (_, len) = parse_entry(&bytes)
                .ok_or_else(|| Corruption::new(CorruptionKind::XattrEntry).nid(inode.nid))?;
            let unit = SHARED_ID_SIZE as u64;
            let start = u64::from(id).saturating_mul(unit);
            let start = start.saturating_add(self.superblock().xattr_start);
            found.shared_xattrs.push((start, len.next_multiple_of(SHARED_ID_SIZE) as u64));
        }
        Ok(found)
    }

    fn index_end(&self, inode: &Inode) -> Result<u64, Error> {
        Ok(match inode.data {
            Data::Chunks { bits, indexes, wide } => {
                let chunks = Chunks { bits, indexes, wide };
                chunks.entry_offset(inode, inode.size.div_ceil(1 << bits))
            }
            Data::Compressed if inode.size != 0 => Map::read(self, inode)?.table_end(),
            _ => inode.body_end(),
        })
    }
}
