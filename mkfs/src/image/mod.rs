//! Reading images: every layout, every compression, extra devices, metabox and fragments.
//!
//! # What reads what
//!
//! Decompression is in `codec`, by one crate for each algorithm. All other reading is our own, over [`crate::format`], and
//! the crate `erofs-rs` 0.3.0 judges it in tests. That crate was measured and attacked before it became the judge
//! (30,302 inodes, 257 MB; thousands of images with a few bytes changed; its source read):
//!
//! - It is right: it agreed with the kernel on every variant that mkfs.erofs makes. It did not panic, and its
//!   allocations stay below 1 MiB encoded and 12 MiB decoded for an extent.
//! - Its reader wants the whole image as one slice, for a file a memory map. A map of a file that another
//!   process truncates kills the reader with a signal, which a daemon cannot have; `unsafe` is not ours to
//!   promise. Its other reader is asynchronous and copies one block at a time.
//! - It does not verify the superblock checksum, and reads the directory block size field not at all.
//! - It reads flat and chunked files one block at a time, and the table of long xattr prefixes and the
//!   compression parameters again for each inode and each extent. Inodes in a metabox decode the same
//!   extent of the metabox again and again: 4.1 s for a walk that takes 0.2 s without.
//! - A position in a map of 4-byte extent records is found from its start each time, so that reading such a
//!   file takes time in the square of its size.
//! - It refuses an image with a device table when no devices are given, where the kernel takes the devices to
//!   follow the image on the same storage; and one inode with an xattr of an unknown namespace cannot be read.
//! - It cuts the high address bits of extended inodes in images without the 48-bit feature; the kernel keeps them.
//!
//! # Bounds
//!
//! No read is larger than its structure allows, and no allocation larger than the bytes that were asked for,
//! except: 1 MiB of metadata pages, 32 MiB of decoded extents and 13 MiB while one is decoded, all for each open
//! image; one block for each directory that is being read; 300 KiB for the xattrs of one inode.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod cache;
mod content;
mod corruption;
mod dir;
mod extent;
mod footprint;
mod inode;
mod map_state;
mod pages;
mod prefix;
mod superblock;
mod walk;
mod xattr;
mod zmap;

use std::sync::{Arc, Mutex, PoisonError};

use cache::Cache;
use map_state::MapState;
use pages::Pages;
use prefix::LongPrefix;

pub(crate) use dir::DirBlock;
pub(crate) use extent::Chunks;
pub(crate) use xattr::{RawXattr, full_name, parse_entry as parse_xattr, split_index};
pub(crate) use zmap::{Map, Metadata};

pub use crate::format::Algorithm;
pub use content::Reader;
pub use corruption::{Corruption, CorruptionKind, Error};
pub use dir::{DirEntry, ReadDir};
pub use extent::{Extent, ExtentLocation};
pub use footprint::Footprint;
pub use inode::{Data, Inode, Space};
pub use superblock::{Compression, Device, Super};
pub use walk::{DEPTH_MAX, Walk, WalkEntry};
pub use zmap::Coding;

use crate::io::ReadAt;

/// Longest symbolic link, in bytes: Linux cuts longer ones.
const SYMLINK_MAX: u64 = 4095;

/// Compression maps kept: one each for the metabox, the packed inode, and a few files.
const MAPS_KEPT: usize = 8;

/// An image that is open for reading. It can be shared between threads.
#[derive(Debug)]
pub struct Image<R: ReadAt = Arc<dyn ReadAt>> {
    primary: R,
    devices: Vec<R>,
    sb: Super,
    pages: Pages,
    decoded: Cache,
    /// The compression maps used last, the latest at the end.
    maps: Mutex<Vec<MapState>>,
    metabox: Option<Inode>,
    packed: Option<Inode>,
    prefixes: Vec<LongPrefix>,
}

impl<R: ReadAt> Image<R> {
    /// Opens an image. `devices` are the devices of its table, in order; with none, the devices are taken to
    /// follow the image on the same storage, as the kernel does, and what is not there cannot be read.
    ///
    /// # Errors
    /// A superblock that the kernel would refuse, [`CorruptionKind::DeviceCount`], a fault in an inode or table that
    /// all others depend on.
    pub fn open(primary: R, devices: Vec<R>) -> Result<Self, Error> {
        let sb = Super::read(&primary)?;
        if !devices.is_empty() && devices.len() != sb.devices.len() {
            let detail = format!("{} given, {} in the table", devices.len(), sb.devices.len());
            return Err(Corruption::new(CorruptionKind::DeviceCount).detail(detail).into());
        }
        let mut image = Self {
            primary,
            devices,
            sb,
            pages: Pages::new(),
            decoded: Cache::default(),
            maps: Mutex::default(),
            metabox: None,
            packed: None,
            prefixes: Vec::new(),
        };
        image.metabox = image.sb.metabox.map(|nid| image.special(nid)).transpose()?;
        image.packed = image.sb.packed.map(|nid| image.special(nid)).transpose()?;
        image.prefixes = image.read_prefixes()?;
        Ok(image)
    }

    /// An inode that holds data for others.
    fn special(&self, nid: u64) -> Result<Inode, Error> {
        let inode = self.stat(nid)?;
        if !inode.is_file() {
            return Err(Corruption::new(CorruptionKind::InodeType)
                .nid(nid)
                .at(inode.offset)
                .into());
        }
        Ok(inode)
    }

    /// The superblock and what follows from it.
    #[must_use]
    pub fn superblock(&self) -> &Super {
        &self.sb
    }

    /// The storage of device `id`: 0 is the image itself.
    #[must_use]
    pub fn device(&self, id: u16) -> Option<&R> {
        match usize::from(id).checked_sub(1) {
            None => Some(&self.primary),
            Some(slot) => self.devices.get(slot),
        }
    }

    /// The root directory.
    ///
    /// # Errors
    /// [`CorruptionKind::RootType`], and what [`Image::stat`] reports.
    pub fn root(&self) -> Result<Inode, Error> {
        let inode = self.stat(self.sb.root)?;
        if !inode.is_dir() {
            return Err(Corruption::new(CorruptionKind::RootType)
                .nid(inode.nid)
                .at(inode.offset)
                .into());
        }
        Ok(inode)
    }

    /// The inode with number `nid`.
    ///
    /// # Errors
    /// [`CorruptionKind::InodeOutside`], and any fault in the inode itself.
    pub fn stat(&self, nid: u64) -> Result<Inode, Error> {
        let outside = || Corruption::new(CorruptionKind::InodeOutside).nid(nid);
        let space =
            if nid & superblock::NID_METABOX == 0 { Space::Primary } else { Space::Metabox };
        if space == Space::Metabox && self.metabox.is_none() {
            return Err(Corruption::new(CorruptionKind::MetaboxNid).nid(nid).into());
        }
        let offset = self.sb.inode_offset(nid).ok_or_else(outside)?;
        let mut raw = [0; 64];
        let read = |part: &mut [u8]| {
            self.read_meta(space, offset, part).map_err(|e| match e {
                Error::Corrupt(c) if c.fault == CorruptionKind::DataOutside => {
                    outside().at(offset).into()
                }
                other => other.in_inode(nid),
            })
        };
        // Most of the time both forms are inside; at the end of the image only the short one may be.
        let (head, _) = raw.split_at_mut(32);
        read(head)?;
        let size = Inode::header_size(head).unwrap_or(32);
        if size > head.len() {
            read(&mut raw)?;
        }
        Inode::decode(&self.sb, nid, offset, raw.get(..size).unwrap_or_default())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::NotASymlink`], [`CorruptionKind::SymlinkEmpty`], [`CorruptionKind::SymlinkLong`], [`CorruptionKind::SymlinkNul`], and
    /// any fault in its data.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        if !inode.is_symlink() {
            return Err(Error::NotASymlink { nid: inode.nid });
        }
        let bad = |fault| Corruption::new(fault).nid(inode.nid).at(inode.offset);
        if inode.size == 0 {
            return Err(bad(CorruptionKind::SymlinkEmpty).into());
        }
        if inode.size > SYMLINK_MAX {
            return Err(bad(CorruptionKind::SymlinkLong).detail(inode.size).into());
        }
        let target = self.read_small(inode, SYMLINK_MAX)?;
        if target.contains(&0) {
            return Err(bad(CorruptionKind::SymlinkNul).into());
        }
        Ok(target)
    }

    /// Where the content of `inode` is, in file order.
    pub fn extents<'a>(&'a self, inode: &Inode) -> Extents<'a, R> {
        Extents { image: self, inode: *inode, pos: 0 }
    }

    /// A walk over the whole tree.
    #[must_use]
    pub fn walk(&self) -> Walk<'_, R> {
        self.walk_from(self.sb.root)
    }

    /// A walk over the tree below `nid`.
    #[must_use]
    pub fn walk_from(&self, nid: u64) -> Walk<'_, R> {
        Walk::new(self, nid)
    }

    fn devices_attached(&self) -> usize {
        self.devices.len()
    }

    fn decoded_cache(&self) -> &Cache {
        &self.decoded
    }

    /// Bytes in the packed inode.
    pub(crate) fn packed_size(&self) -> u64 {
        self.packed.map_or(0, |packed| packed.size)
    }

    /// Bytes in the metabox.
    pub(crate) fn metabox_size(&self) -> u64 {
        self.metabox.map_or(0, |metabox| metabox.size)
    }

    fn packed(&self) -> Option<Inode> {
        self.packed
    }

    pub(crate) fn prefixes(&self) -> &[LongPrefix] {
        &self.prefixes
    }

    fn recent_map(&self, nid: u64) -> Option<MapState> {
        let maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.iter().rfind(|state| state.map.nid == nid).copied()
    }

    fn keep_map(&self, state: MapState) {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.retain(|kept| kept.map.nid != state.map.nid);
        if maps.len() >= MAPS_KEPT {
            maps.remove(0);
        }
        maps.push(state);
    }
}

impl<R: ReadAt> Metadata for Image<R> {
    fn read_meta(&self, space: Space, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        if space == Space::Primary {
            return self.pages.read(&self.primary, buf, offset);
        }
        let metabox = self.metabox.ok_or(CorruptionKind::MetaboxNid)?;
        if self.read_at(&metabox, buf, offset)? != buf.len() {
            return Err(Corruption::new(CorruptionKind::DataOutside).at(offset).into());
        }
        Ok(())
    }

    fn superblock(&self) -> &Super {
        &self.sb
    }
}

/// The extents of one inode, in file order; after an error it ends.
#[derive(Debug)]
pub struct Extents<'a, R: ReadAt> {
    image: &'a Image<R>,
    inode: Inode,
    pos: u64,
}

impl<R: ReadAt> Iterator for Extents<'_, R> {
    type Item = Result<Extent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let stored = !matches!(self.inode.data, Data::Device { .. } | Data::None);
        if self.pos >= self.inode.size || !stored {
            return None;
        }
        let extent = self.image.extent_at(&self.inode, self.pos);
        // An extent reaches past the position it was asked for; the end is where an error leads.
        self.pos = extent.as_ref().map_or(u64::MAX, |e| e.end().max(self.pos.saturating_add(1)));
        Some(extent)
    }
}
