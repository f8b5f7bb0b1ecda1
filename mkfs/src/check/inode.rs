//! Every inode that was reached, once, in the order in which inodes are stored.

use super::reached::Name;
use super::{Check, CheckStop, sort};
use crate::format::{FileType, Layout};
use crate::image::{Corruption, CorruptionKind, Data, Inode, Metadata};

impl Check<'_> {
    pub(super) fn check_inodes(&mut self) -> Result<(), CheckStop> {
        let mut names = std::mem::take(&mut self.tree.names);
        names.sort_unstable();
        let result = names.chunk_by(|a, b| a.nid == b.nid).try_for_each(|run| self.check_run(run));
        self.tree.names = names;
        result
    }

    /// Checks one inode against all its names.
    fn check_run(&mut self, run: &[Name]) -> Result<(), CheckStop> {
        let Some(first) = run.first() else { return Ok(()) };
        self.spend(64)?;
        let inode = match sort(self.image.stat(first.nid))? {
            Ok(inode) => inode,
            Err(c) => return self.find_named(c, first),
        };
        let named = run.iter().filter(|name| name.has_dir()).count();
        if named > 0 || inode.nid == self.sb().root {
            self.count(&inode);
        }
        for name in run.iter().filter(|name| name.has_dir()) {
            let claimed = name.file_type;
            // 0 says nothing; numbers without meaning were reported with the directory.
            if (1..=FileType::Symlink as u8).contains(&claimed)
                && claimed != inode.file_type() as u8
            {
                let detail = format!("entry {claimed}, inode {}", inode.file_type() as u8);
                let c = Corruption::new(CorruptionKind::DirTypeMismatch).detail(detail);
                self.find_named(c.nid(inode.nid).at(inode.offset), name)?;
            }
        }
        if let Err(c) = self.check_fields(&inode, named)? {
            self.find_named(c, first)?;
        }
        self.check_reserved(&inode, first)?;
        self.check_links(&inode, named, first)?;
        self.check_xattrs(&inode, first)?;
        self.check_data(&inode, first)?;
        if self.report.stats.bytes > self.limits.bytes {
            return self.stop(CorruptionKind::LimitBytes);
        }
        Ok(())
    }

    fn count(&mut self, inode: &Inode) {
        let stats = &mut self.report.stats;
        stats.inodes = stats.inodes.saturating_add(1);
        if inode.is_dir() {
            stats.directories = stats.directories.saturating_add(1);
        }
        if inode.is_file() {
            stats.bytes = stats.bytes.saturating_add(inode.size);
        }
        if inode.xattr_icount != 0 {
            stats.with_xattrs = stats.with_xattrs.saturating_add(1);
        }
        if let Some(count) = stats.layouts.get_mut(inode.layout as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// What must hold of the fields for the type of file.
    fn check_fields(
        &mut self,
        inode: &Inode,
        named: usize,
    ) -> Result<Result<(), Corruption>, CheckStop> {
        let bad = |fault| Corruption::new(fault).nid(inode.nid).at(inode.offset);
        let special = matches!(inode.data, Data::Device { .. } | Data::None);
        if special && inode.size != 0 {
            return Ok(Err(bad(CorruptionKind::InodeSpecialData).detail(inode.size)));
        }
        if inode.layout == Layout::ChunkBased && !inode.is_file() && !special {
            return Ok(Err(bad(CorruptionKind::ChunkType)));
        }
        if inode.is_dir() && named > 0 && self.tree.dir(inode.nid).is_none() {
            // Its entry gives another type, so it was not walked.
            return Ok(Err(bad(CorruptionKind::DirTypeMismatch)));
        }
        if inode.is_symlink() {
            return Ok(sort(self.image.read_link(inode))?.map(drop));
        }
        Ok(Ok(()))
    }

    fn check_reserved(&mut self, inode: &Inode, name: &Name) -> Result<(), CheckStop> {
        let (skip, len) = if inode.extended { (48, 16) } else { (28, 4) };
        let mut reserved = [0; 16];
        let part = reserved.get_mut(..len).unwrap_or_default();
        let at = inode.offset.saturating_add(skip);
        // It was read a moment ago, as part of the inode.
        let read = sort(self.image.read_meta(inode.space(), at, part))?;
        if read.is_ok() && reserved != [0; 16] {
            let c = Corruption::new(CorruptionKind::InodeReserved).nid(inode.nid).at(at);
            self.find_named(c, name)?;
        }
        Ok(())
    }

    fn check_links(&mut self, inode: &Inode, named: usize, name: &Name) -> Result<(), CheckStop> {
        let bad = |fault| Corruption::new(fault).nid(inode.nid).at(inode.offset);
        if inode.nlink == 0 {
            return self.find_named(bad(CorruptionKind::InodeNlinkZero), name);
        }
        let expected = match self.tree.dir(inode.nid) {
            Some(dir) => u64::from(dir.subdirs).saturating_add(2),
            // The packed inode and the metabox have no names.
            None if named == 0 => return Ok(()),
            None => named as u64,
        };
        // A compact inode has no room for more, and says 1 then.
        let overflow = inode.nlink == 1 && expected > u64::from(u16::MAX) && !inode.extended;
        if u64::from(inode.nlink) != expected && !overflow {
            let detail = format!("{} stored, {expected} expected", inode.nlink);
            return self.find_named(bad(CorruptionKind::InodeNlink).detail(detail), name);
        }
        Ok(())
    }

    pub(super) fn find_named(&mut self, c: Corruption, name: &Name) -> Result<(), CheckStop> {
        let path = self.tree.path(self.image, name);
        self.find_at(c, || path)
    }
}
