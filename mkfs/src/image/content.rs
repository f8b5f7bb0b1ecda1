//! Reading what files contain.

use std::io;
use std::sync::Arc;

use super::Image;
use super::corruption::{Corruption, CorruptionKind, Error};
use super::extent::{Extent, ExtentLocation};
use super::inode::{Data, Inode, Space};
use super::zmap::{Coding, Metadata};
use crate::codec::Share;
use crate::format::compression::PCLUSTER_MAX;
use crate::io::ReadAt;

impl<R: ReadAt> Image<R> {
    /// Reads up to `buf.len()` bytes of the content of `inode` at `offset`; fewer only at the end of the
    /// file. Takes inodes of regular files, symbolic links and directories.
    ///
    /// # Errors
    /// A fault of the image or of its storage. What `buf` holds then is not defined.
    pub fn read_at(&self, inode: &Inode, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let left = inode.size.saturating_sub(offset);
        let want = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let mut rest = buf.get_mut(..want).unwrap_or_default();
        let mut pos = offset;
        while !rest.is_empty() {
            if let Some(n) = self.read_cached(inode, rest, pos) {
                rest = rest.get_mut(n..).unwrap_or_default();
                pos = pos.saturating_add(n as u64);
                continue;
            }
            let extent = self.extent_at(inode, pos)?;
            let room = usize::try_from(extent.end().saturating_sub(pos)).unwrap_or(usize::MAX);
            if room == 0 || extent.start > pos {
                return Err(Corruption::new(CorruptionKind::DataOutside)
                    .nid(inode.nid)
                    .at(pos)
                    .into());
            }
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            self.read_extent(inode, &extent, now, pos).map_err(|e| e.in_inode(inode.nid))?;
            pos = pos.saturating_add(now.len() as u64);
            rest = later;
        }
        Ok(want)
    }

    /// All of the content of a small file, `limit` bytes at most.
    pub(crate) fn read_small(&self, inode: &Inode, limit: u64) -> Result<Vec<u8>, Error> {
        let len = usize::try_from(inode.size.min(limit)).unwrap_or(0);
        let mut bytes = vec![0; len];
        self.read_at(inode, &mut bytes, 0)?;
        Ok(bytes)
    }

    /// A stream over the content of `inode`.
    #[must_use]
    pub fn reader(&self, inode: &Inode) -> Reader<'_, R> {
        Reader { image: self, inode: *inode, pos: 0 }
    }

    /// Fills `buf` with the bytes at `pos` of the file, all of which are in `extent`.
    fn read_extent(
        &self,
        inode: &Inode,
        extent: &Extent,
        buf: &mut [u8],
        pos: u64,
    ) -> Result<(), Error> {
        let skip = pos.saturating_sub(extent.start);
        match extent.place {
            ExtentLocation::Hole => buf.fill(0),
            ExtentLocation::Device { device, offset } => {
                let offset = offset.saturating_add(skip);
                // Directory blocks lie among the metadata, and are read again and again.
                if device == 0 && inode.is_dir() {
                    return self.read_meta(Space::Primary, offset, buf);
                }
                self.read_device(device, offset, buf)?;
            }
            ExtentLocation::Inline { space, offset } => {
                self.read_meta(space, offset.saturating_add(skip), buf)?;
            }
            ExtentLocation::Fragment { offset } => {
                self.read_fragment(offset.saturating_add(skip), buf)?
            }
            ExtentLocation::Encoded { device, offset, coding: Coding::Stored, .. } => {
                self.read_device(device, offset.saturating_add(skip), buf)?;
            }
            ExtentLocation::EncodedInline { space, offset, coding: Coding::Stored, .. } => {
                self.read_meta(space, offset.saturating_add(skip), buf)?;
            }
            ExtentLocation::Encoded { .. } | ExtentLocation::EncodedInline { .. } => {
                let decoded = self.decoded(inode.nid, extent)?;
                let from = usize::try_from(skip).ok().and_then(|skip| decoded.get(skip..));
                let from =
                    from.and_then(|from| from.get(..buf.len())).ok_or(CorruptionKind::Decode)?;
                buf.copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// Takes what it can from an extent that was decoded before; without even looking at the map, which is
    /// what makes many small reads of a metabox or a packed inode bearable.
    fn read_cached(&self, inode: &Inode, buf: &mut [u8], pos: u64) -> Option<usize> {
        if inode.data != Data::Compressed {
            return None;
        }
        let (start, bytes) = self.decoded_cache().get(inode.nid, pos)?;
        let from = bytes.get(usize::try_from(pos.checked_sub(start)?).ok()?..)?;
        let n = from.len().min(buf.len());
        buf.get_mut(..n)?.copy_from_slice(from.get(..n)?);
        Some(n)
    }

    /// Decodes an extent, and keeps it.
    fn decoded(&self, nid: u64, extent: &Extent) -> Result<Arc<Vec<u8>>, Error> {
        let bytes = Arc::new(self.decode(extent)?);
        self.decoded_cache().put(nid, extent.start, Arc::clone(&bytes));
        Ok(bytes)
    }

    pub(crate) fn decode(&self, extent: &Extent) -> Result<Vec<u8>, Error> {
        let (ExtentLocation::Encoded { offset, len, coding, .. }
        | ExtentLocation::EncodedInline { offset, len, coding, .. }) = extent.place
        else {
            return Err(CorruptionKind::Decode.into());
        };
        if len > PCLUSTER_MAX {
            return Err(CorruptionKind::MapTooLarge.into());
        }
        let len = usize::try_from(len).map_err(|_| CorruptionKind::MapTooLarge)?;
        let mut cluster = vec![0; len];
        match extent.place {
            ExtentLocation::EncodedInline { space, .. } => {
                self.read_meta(space, offset, &mut cluster)?;
            }
            ExtentLocation::Encoded { device, .. } => {
                self.read_device(device, offset, &mut cluster)?;
            }
            _ => {}
        }
        match coding {
            Coding::Stored | Coding::Interlaced => {
                let block = self.superblock().block_size();
                unrotate(&cluster, extent, block)
                    .ok_or_else(|| Corruption::new(CorruptionKind::Decode).at(offset).into())
            }
            Coding::Compressed { algorithm, partial } => {
                let share = if partial { Share::Prefix } else { Share::Whole };
                let codec = self.superblock().codec(algorithm);
                codec.decode(&cluster, share, extent.len).map_err(|e| {
                    let detail = format!("{}: {e}", algorithm.name());
                    Corruption::new(CorruptionKind::Decode).at(offset).detail(detail).into()
                })
            }
        }
    }

    /// Bytes of the packed inode. It has no fragments itself, so that this goes one level deep.
    fn read_fragment(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let packed = self.packed().ok_or(CorruptionKind::MapFeature)?;
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > packed.size) {
            return Err(Corruption::new(CorruptionKind::FragmentOutside).detail(offset).into());
        }
        self.read_at(&packed, buf, offset)?;
        Ok(())
    }

    pub(super) fn read_device(
        &self,
        device: u16,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), Error> {
        let file = self.device(device).ok_or(CorruptionKind::DataDeviceMissing)?;
        let len = buf.len();
        file.read_exact_at(buf, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                let detail = format!("{len} bytes of device {device}");
                Corruption::new(CorruptionKind::DataOutside).at(offset).detail(detail).into()
            }
            _ => Error::Io { device, offset, len, source },
        })
    }
}

/// Undoes the rotation of a stored cluster: the bytes up to the first block border of the file are in its
/// last block, each at its place in a block, and the rest starts at its front.
fn unrotate(cluster: &[u8], extent: &Extent, block: u64) -> Option<Vec<u8>> {
    let len = usize::try_from(extent.len).ok()?;
    let block = usize::try_from(block).ok()?;
    let within = usize::try_from(extent.start).ok()? & block.saturating_sub(1);
    let head = block.saturating_sub(within).min(len);
    let last = cluster.get(cluster.len().saturating_sub(block)..)?;
    let front = last.get(within..)?.get(..head)?;
    let back = cluster.get(..len.saturating_sub(head))?;
    Some([front, back].concat())
}

/// A stream over the content of one inode.
#[derive(Debug)]
pub struct Reader<'a, R: ReadAt> {
    image: &'a Image<R>,
    inode: Inode,
    pos: u64,
}

impl<R: ReadAt> Reader<'_, R> {
    /// Goes on reading at byte `pos` of the content.
    pub fn seek_to(&mut self, pos: u64) {
        self.pos = pos;
    }
}

impl<R: ReadAt> io::Read for Reader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.image.read_at(&self.inode, buf, self.pos)?;
        self.pos = self.pos.saturating_add(n as u64);
        Ok(n)
    }
}
