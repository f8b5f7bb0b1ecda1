//! Directories: every block of every one, level by level from the root.

use super::reached::{Dir, NO_DIR, Name};
use super::{Check, CheckStop, sort};
use crate::format::{FileType, incompat};
use crate::image::{Corruption, CorruptionKind, DirBlock, Inode};

/// What is remembered while the blocks of one directory are read.
struct Reading {
    index: u32,
    inode: Inode,
    parent: u64,
    previous: Vec<u8>,
    dot: bool,
    dotdot: bool,
}

impl Check<'_> {
    /// Reads all directories, and notes all names.
    pub(super) fn walk_directories(&mut self) -> Result<(), CheckStop> {
        let sb = self.sb();
        let (root, special) = (sb.root, [sb.packed, sb.metabox]);
        for nid in special.into_iter().flatten().chain([root]) {
            let name = Name { nid, dir: NO_DIR, block: 0, index: 0, file_type: 0 };
            self.tree.names.push(name);
        }
        let inode = match sort(self.image.root())? {
            Ok(inode) => inode,
            // A root that cannot be read is reported with the other inodes.
            Err(c) if c.fault != CorruptionKind::RootType => return Ok(()),
            Err(c) => return self.find(c),
        };
        self.tree.by_nid.insert(root, 0);
        self.tree.dirs.push(Dir { inode, parent: 0, name: Box::default(), subdirs: 0 });
        let (mut from, mut depth) = (0usize, 0usize);
        while from < self.tree.dirs.len() {
            if depth >= self.limits.depth {
                let nid = self.tree.dirs.get(from).map_or(root, |dir| dir.inode.nid);
                return self.find(Corruption::new(CorruptionKind::DirDeep).nid(nid));
            }
            let to = self.tree.dirs.len();
            for index in from..to {
                self.read_directory(u32::try_from(index).unwrap_or(NO_DIR))?;
            }
            from = to;
            depth = depth.saturating_add(1);
        }
        Ok(())
    }

    fn read_directory(&mut self, index: u32) -> Result<(), CheckStop> {
        let Some(dir) = self.tree.at(index) else { return Ok(()) };
        let inode = dir.inode;
        let parent = self.tree.at(dir.parent).map_or(inode.nid, |parent| parent.inode.nid);
        let mut reading =
            Reading { index, inode, parent, previous: Vec::new(), dot: false, dotdot: false };
        let size = self.sb().block_size();
        let mut bytes = Vec::new();
        let mut offset = 0u64;
        while offset < inode.size {
            self.spend(size)?;
            let read = sort(self.image.read_dir_block(&inode, offset, &mut bytes))?;
            if let Err(c) = read.and_then(|()| parse_all(offset, &bytes)) {
                // What cannot be parsed has no rest to look at.
                return self.find_in_dir(index, c.nid(inode.nid));
            }
            self.check_new_names(&mut reading, &bytes, offset)?;
            offset = offset.saturating_add(size);
        }
        self.check_dots(&reading)
    }

    fn check_new_names(
        &mut self,
        reading: &mut Reading,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), CheckStop> {
        let Ok(block) = DirBlock::parse(bytes) else { return Ok(()) };
        for index in 0..block.len() {
            let Ok((entry, name)) = block.entry(index) else { continue };
            let bad =
                |fault| Corruption::new(fault).nid(reading.inode.nid).detail(name.escape_ascii());
            if name <= &*reading.previous && !(offset == 0 && index == 0) {
                let twice = name == reading.previous;
                let fault =
                    if twice { CorruptionKind::DirDuplicate } else { CorruptionKind::DirOrder };
                self.find_in_dir(reading.index, bad(fault))?;
            }
            if entry.reserved != 0 {
                self.find_in_dir(reading.index, bad(CorruptionKind::DirReserved))?;
            }
            if entry.file_type > FileType::Symlink as u8 {
                self.find_in_dir(reading.index, bad(CorruptionKind::DirEntryType))?;
            }
            reading.previous.clear();
            reading.previous.extend_from_slice(name);
            let nid = entry.nid.get();
            let is_dir = entry.file_type == FileType::Directory as u8;
            match name {
                b"." => {
                    reading.dot = true;
                    if nid != reading.inode.nid || !is_dir {
                        self.find_in_dir(reading.index, bad(CorruptionKind::DirDot))?;
                    }
                }
                b".." => {
                    reading.dotdot = true;
                    if nid != reading.parent || !is_dir {
                        self.find_in_dir(reading.index, bad(CorruptionKind::DirDotDot))?;
                    }
                }
                _ => {
                    let block = offset >> self.sb().block_bits;
                    let index = u16::try_from(index).unwrap_or(u16::MAX);
                    let file_type = entry.file_type;
                    let at = Name { nid, dir: reading.index, block, index, file_type };
                    self.add_name(at, name)?;
                }
            }
        }
        Ok(())
    }

    fn add_name(&mut self, at: Name, name: &[u8]) -> Result<(), CheckStop> {
        self.report.stats.names = self.report.stats.names.saturating_add(1);
        if self.report.stats.names > self.limits.names {
            return self.stop(CorruptionKind::LimitInodes);
        }
        self.tree.names.push(at);
        // An entry without a type may be a directory as well.
        if at.file_type != FileType::Directory as u8 && at.file_type != 0 {
            return Ok(());
        }
        let bad = |fault| Corruption::new(fault).nid(at.nid).detail(name.escape_ascii());
        if self.tree.by_nid.contains_key(&at.nid) {
            let cycle = self.tree.is_above(at.nid, at.dir);
            let fault = if cycle { CorruptionKind::DirCycle } else { CorruptionKind::DirTwice };
            return self.find_in_dir(at.dir, bad(fault));
        }
        // What is wrong with the inode is reported when inodes are checked.
        let Ok(inode) = sort(self.image.stat(at.nid))? else { return Ok(()) };
        if !inode.is_dir() {
            return Ok(());
        }
        let index = u32::try_from(self.tree.dirs.len()).unwrap_or(NO_DIR);
        if let Some(parent) = usize::try_from(at.dir).ok().and_then(|i| self.tree.dirs.get_mut(i)) {
            parent.subdirs = parent.subdirs.saturating_add(1);
        }
        self.tree.by_nid.insert(at.nid, index);
        self.tree.dirs.push(Dir { inode, parent: at.dir, name: name.into(), subdirs: 0 });
        Ok(())
    }

    fn check_dots(&mut self, reading: &Reading) -> Result<(), CheckStop> {
        let bad = |fault| Corruption::new(fault).nid(reading.inode.nid).at(reading.inode.offset);
        if reading.inode.size == 0 {
            self.find_in_dir(reading.index, bad(CorruptionKind::DirSize).detail(0))?;
        }
        if !reading.dot && !reading.inode.dot_omitted {
            self.find_in_dir(reading.index, bad(CorruptionKind::DirDot))?;
        }
        if !reading.dotdot {
            self.find_in_dir(reading.index, bad(CorruptionKind::DirDotDot))?;
        }
        if reading.inode.dot_omitted && !self.sb().has_incompat(incompat::LAYOUT_48BIT) {
            self.find_in_dir(reading.index, bad(CorruptionKind::InodeDotOmitted))?;
        }
        Ok(())
    }

    fn find_in_dir(&mut self, index: u32, corruption: Corruption) -> Result<(), CheckStop> {
        let path = self.tree.dir_path(index);
        self.find_at(corruption, || path)
    }
}

/// Says in which block of the directory a fault is.
fn in_block(c: Corruption, offset: u64) -> Corruption {
    let detail = format!("{}, directory byte {offset}", c.detail);
    c.detail(detail)
}

/// Parses every entry, so that a broken block is refused as a whole.
fn parse_all(offset: u64, bytes: &[u8]) -> Result<(), Corruption> {
    let block = DirBlock::parse(bytes).map_err(|c| in_block(c, offset))?;
    (0..block.len()).try_for_each(|i| block.entry(i).map(drop).map_err(|c| in_block(c, offset)))
}
