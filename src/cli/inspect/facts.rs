//! One walk over an image, and everything worth knowing that was met on it.

use std::collections::{BTreeMap, BTreeSet};

use erolith_mkfs::format::{FileType, Layout};
use erolith_mkfs::image::{Coding, Data, Error, Extent, ExtentLocation, Inode, Space, WalkEntry};
use erolith_mkfs::io::ReadAt as _;
use erolith_mkfs::protect;
use erolith_verity::dmverity::{self, Header, RootHash};

use super::grid::{Grid, Kind};
use crate::ranges::Ranges;
use crate::source::Opened;
use erolith_differ::path_index::{NameInDir, PathIndex};

/// Inodes, and the bytes of their content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) inodes: u64,
    pub(super) bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.inodes += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// A regular file, under the first of its names.
#[derive(Debug)]
pub(super) struct File {
    pub(super) name: NameInDir,
    pub(super) nid: u64,
    /// Bytes of content.
    pub(super) size: u64,
    /// Bytes it takes in the image or on its devices, shared ones counted in full.
    pub(super) stored: u64,
}

/// A directory.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) name: NameInDir,
    pub(super) nid: u64,
    /// Its place in [`Facts::dirs`]; that of the root is its own.
    pub(super) parent: usize,
    /// Below the root.
    pub(super) depth: usize,
    /// Files below it, at any depth.
    pub(super) files: u64,
    /// Bytes of content below it.
    pub(super) size: u64,
    /// Bytes stored for it and all below it.
    pub(super) stored: u64,
    /// Bytes stored for itself and for the files in it.
    pub(super) own: u64,
}

/// What extended attributes there are, and how they are stored.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    pub(super) inodes: u64,
    /// Entries behind their inode.
    pub(super) inline: u64,
    /// References to shared entries.
    pub(super) references: u64,
    /// Shared entries by byte offset, with their bytes.
    pub(super) shared: BTreeMap<u64, u64>,
    /// Inodes by name.
    pub(super) names: BTreeMap<Vec<u8>, u64>,
}

/// A run of stored bytes and the file it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub(super) device: u16,
    pub(super) start: u64,
    pub(super) len: u64,
    /// Its place in [`Facts::files`].
    pub(super) file: usize,
}

/// Everything known of an image.
#[derive(Debug)]
pub(super) struct Facts {
    /// Bytes of the image file.
    pub(super) image_bytes: u64,
    /// Bytes by kind, and where they are.
    pub(super) grid: Grid,
    pub(super) types: BTreeMap<u8, (FileType, Tally)>,
    pub(super) layouts: BTreeMap<Layout, Tally>,
    pub(super) compact: u64,
    pub(super) extended: u64,
    /// Bytes of content of regular files.
    pub(super) content: u64,
    /// Of those, bytes that are not stored because they are zero.
    pub(super) holes: u64,
    /// Of those, bytes of content that is compressed, and what it takes.
    pub(super) compressed: (u64, u64),
    /// Bytes of content on other devices.
    pub(super) on_devices: u64,
    pub(super) xattrs: Xattrs,
    /// Every file, in the order of the walk.
    pub(super) files: Vec<File>,
    /// Every directory, each behind its parent; the first is the root.
    pub(super) dirs: Vec<Dir>,
    pub(super) names: PathIndex,
    /// Every run of stored data of files, in the order of the devices.
    pub(super) runs: Vec<Run>,
    /// The hash tree behind the image, and the root hash that it has; or why it cannot be used.
    pub(super) verity: Option<Result<(Header, RootHash), dmverity::Error>>,
}

/// Walks the image.
pub(super) fn gather(image: &Opened) -> Result<Facts, Error> {
    let sb = image.superblock();
    let image_bytes = image.device(0).map_or(0, |device| device.size());
    let mut gather = Gather {
        image,
        facts: Facts {
            image_bytes,
            grid: Grid::new(image_bytes, sb.block_size()),
            types: BTreeMap::new(),
            layouts: BTreeMap::new(),
            compact: 0,
            extended: 0,
            content: 0,
            holes: 0,
            compressed: (0, 0),
            on_devices: 0,
            xattrs: Xattrs::default(),
            files: Vec::new(),
            dirs: Vec::new(),
            names: PathIndex::default(),
            runs: Vec::new(),
            verity: None,
        },
        linked: BTreeSet::new(),
        dir_index: BTreeMap::new(),
        data: Ranges::default(),
        packed: (0, 1),
    };
    gather.fixed()?;
    gather.verity();
    let mut walk = image.walk();
    while let Some(entry) = walk.next_entry()? {
        gather.entry(&entry)?;
    }
    Ok(gather.finish())
}

struct Gather<'a> {
    image: &'a Opened,
    facts: Facts,
    /// Inodes with several names that were met.
    linked: BTreeSet<u64>,
    dir_index: BTreeMap<u64, usize>,
    /// Data that is in the grid already.
    data: Ranges,
    /// Bytes the packed inode takes, and bytes of its content.
    packed: (u64, u64),
}

impl Gather<'_> {
    /// The superblock, its tables, and the inodes that hold what belongs to others.
    fn fixed(&mut self) -> Result<(), Error> {
        let sb = self.image.superblock();
        self.facts.grid.add(0, sb.end(), Kind::Fixed);
        let (start, end) = sb.device_table();
        if start < end {
            self.facts.grid.add(start, end, Kind::Fixed);
        }
        for (nid, kind) in [(sb.packed, Kind::Data), (sb.metabox, Kind::Inodes)] {
            let Some(nid) = nid else { continue };
            let inode = self.image.stat(nid)?;
            let stored = self.inode(&inode, kind, None)?;
            if kind == Kind::Data {
                self.packed = (stored, inode.size.max(1));
            }
        }
        Ok(())
    }

    /// The hash tree. One that cannot be used does not keep anybody from looking at the image.
    fn verity(&mut self) {
        let Some(file) = self.image.device(0) else { return };
        let found = protect::find_tree(file, self.image.superblock()).transpose();
        self.facts.verity = found.map(|header| {
            let header = header?;
            let (start, end) = (header.geometry().hash_offset(), header.geometry().end());
            self.facts.grid.add(start, end, Kind::Verity);
            let root = header.root(file)?;
            Ok((header, root))
        });
    }

    fn entry(&mut self, entry: &WalkEntry<'_>) -> Result<(), Error> {
        let inode = &entry.inode;
        if inode.is_dir() && !entry.path.is_empty() {
            self.facts.names.note(inode.nid, NameInDir::new(entry.parent, entry.name()));
        }
        let parent = self.dir_index.get(&entry.parent).copied().unwrap_or(0);
        if !inode.is_dir() && inode.nlink != 1 && !self.linked.insert(inode.nid) {
            return Ok(());
        }
        let kind = inode.file_type();
        self.facts.types.entry(kind as u8).or_insert((kind, Tally::default())).1.add(inode.size);
        if inode.extended {
            self.facts.extended += 1;
        } else {
            self.facts.compact += 1;
        }
        if !matches!(inode.data, Data::Device { .. } | Data::None) {
            self.facts.layouts.entry(inode.layout).or_default().add(inode.size);
        }
        self.xattrs(inode)?;
        match kind {
            FileType::Directory => {
                let stored = self.inode(inode, Kind::Directories, None)?;
                self.dir_index.insert(inode.nid, self.facts.dirs.len());
                let depth = self.facts.dirs.get(parent).map_or(0, |dir| dir.depth + 1);
                let name = NameInDir::new(entry.parent, entry.name());
                let (files, size) = (0, 0);
                let nid = inode.nid;
                let dir = Dir { name, nid, parent, depth, files, size, stored, own: stored };
                self.facts.dirs.push(dir);
            }
            FileType::Regular => {
                let index = self.facts.files.len();
                let stored = self.inode(inode, Kind::Data, Some(index))?;
                self.facts.content = self.facts.content.saturating_add(inode.size);
                let name = NameInDir::new(entry.parent, entry.name());
                self.facts.files.push(File { name, nid: inode.nid, size: inode.size, stored });
                self.count_in(parent, inode.size, stored);
            }
            _ => {
                let stored = self.inode(inode, Kind::Inline, None)?;
                self.count_in(parent, 0, stored);
            }
        }
        Ok(())
    }

    fn count_in(&mut self, dir: usize, size: u64, stored: u64) {
        if let Some(dir) = self.facts.dirs.get_mut(dir) {
            dir.files += 1;
            dir.size = dir.size.saturating_add(size);
            dir.stored = dir.stored.saturating_add(stored);
            dir.own = dir.own.saturating_add(stored);
        }
    }

    fn xattrs(&mut self, inode: &Inode) -> Result<(), Error> {
        let xattrs = self.image.xattrs(inode)?;
        if !xattrs.is_empty() {
            self.facts.xattrs.inodes += 1;
        }
        for xattr in xattrs {
            *self.facts.xattrs.names.entry(xattr.name).or_default() += 1;
        }
        Ok(())
    }

    /// Puts an inode and its data into the grid, and returns the bytes its content takes. `kind` is what its
    /// blocks hold; `file` is its place among the files.
    fn inode(&mut self, inode: &Inode, kind: Kind, file: Option<usize>) -> Result<u64, Error> {
        let footprint = self.image.footprint(inode)?;
        let grid = &mut self.facts.grid;
        if inode.space() == Space::Primary {
            grid.add(inode.offset, inode.xattr_offset(), Kind::Inodes);
            grid.add(inode.xattr_offset(), inode.body_end(), Kind::Xattrs);
            grid.add(inode.body_end(), footprint.index_end, Kind::Indexes);
        }
        self.facts.xattrs.inline += footprint.inline_xattrs;
        for (start, len) in footprint.shared_xattrs {
            self.facts.xattrs.references += 1;
            if self.facts.xattrs.shared.insert(start, len).is_none() {
                grid.add(start, start.saturating_add(len), Kind::Xattrs);
            }
        }
        let mut stored = 0u64;
        for extent in self.image.extents(inode) {
            stored = stored.saturating_add(self.extent(inode, &extent?, kind, file));
        }
        Ok(stored)
    }

    /// Returns the bytes that an extent takes.
    fn extent(&mut self, inode: &Inode, extent: &Extent, kind: Kind, file: Option<usize>) -> u64 {
        let content = extent.len.min(inode.size.saturating_sub(extent.start));
        let inline = if kind == Kind::Data { Kind::Inline } else { kind };
        let (device, start, len) = match extent.place {
            ExtentLocation::Hole => {
                if file.is_some() {
                    self.facts.holes = self.facts.holes.saturating_add(content);
                }
                return 0;
            }
            ExtentLocation::Inline { space, offset } => {
                return self.inline(space, offset, content, inline);
            }
            ExtentLocation::EncodedInline { space, offset, len, coding } => {
                self.encoded(content, len, coding, kind);
                return self.inline(space, offset, len, inline);
            }
            ExtentLocation::Fragment { .. } => {
                // Its share of what the packed inode takes.
                let (taken, whole) = self.packed;
                let share = u128::from(content) * u128::from(taken) / u128::from(whole);
                return u64::try_from(share).unwrap_or(u64::MAX);
            }
            ExtentLocation::Device { device, offset } => (device, offset, content),
            ExtentLocation::Encoded { device, offset, len, coding } => {
                self.encoded(content, len, coding, kind);
                (device, offset, len)
            }
        };
        for (from, to) in self.data.insert(device, start, len) {
            if device == 0 {
                self.facts.grid.add(from, to, kind);
            } else {
                self.facts.on_devices += to - from;
            }
        }
        if let Some(file) = file {
            self.facts.runs.push(Run { device, start, len, file });
        }
        len
    }

    fn inline(&mut self, space: Space, offset: u64, len: u64, kind: Kind) -> u64 {
        if space == Space::Primary {
            self.facts.grid.add(offset, offset.saturating_add(len), kind);
        }
        len
    }

    fn encoded(&mut self, content: u64, len: u64, coding: Coding, kind: Kind) {
        if kind == Kind::Data && matches!(coding, Coding::Compressed { .. }) {
            let (before, after) = self.facts.compressed;
            self.facts.compressed = (before.saturating_add(content), after.saturating_add(len));
        }
    }

    /// Adds every directory to its parent, the deepest first.
    fn finish(mut self) -> Facts {
        for index in (1..self.facts.dirs.len()).rev() {
            let (before, rest) = self.facts.dirs.split_at_mut(index);
            let Some((dir, parent)) =
                rest.first().and_then(|d| Some((d, before.get_mut(d.parent)?)))
            else {
                continue;
            };
            parent.files += dir.files;
            parent.size = parent.size.saturating_add(dir.size);
            parent.stored = parent.stored.saturating_add(dir.stored);
        }
        self.facts.runs.sort_unstable();
        self.facts
    }
}
