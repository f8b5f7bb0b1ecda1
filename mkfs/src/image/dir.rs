//! Directories: blocks of entries, entries, and looking one up.

use std::cmp::Ordering;

use zerocopy::FromBytes;

use super::Image;
use super::corruption::{Corruption, CorruptionKind, Error};
use super::inode::Inode;
use crate::format::{Dirent, NAME_MAX};
use crate::io::ReadAt;

/// Bytes of an entry without its name.
const ENTRY: usize = size_of::<Dirent>();

/// One block of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirBlock<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> DirBlock<'a> {
    /// Takes the used bytes of one directory block.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Corruption> {
        let bad = |seen: usize| {
            Corruption::new(CorruptionKind::DirTable)
                .detail(format_args!("{seen} in a block of {} bytes", bytes.len()))
        };
        let (first, _) = Dirent::read_from_prefix(bytes).map_err(|_| bad(0))?;
        let table = usize::from(first.nameoff.get());
        if table < ENTRY || !table.is_multiple_of(ENTRY) || table >= bytes.len() {
            return Err(bad(table));
        }
        Ok(Self { bytes, count: table / ENTRY })
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Entry `index` without its name; `None` behind the last.
    pub(crate) fn dirent(&self, index: usize) -> Option<Dirent> {
        if index >= self.count {
            return None;
        }
        let at = index.checked_mul(ENTRY)?;
        Dirent::read_from_prefix(self.bytes.get(at..)?).ok().map(|(entry, _)| entry)
    }

    /// Name and entry `index`, which is below [`DirBlock::len`].
    pub(crate) fn entry(&self, index: usize) -> Result<(Dirent, &'a [u8]), Corruption> {
        let entry = self.dirent(index).ok_or_else(|| Corruption::new(CorruptionKind::DirTable))?;
        let start = usize::from(entry.nameoff.get());
        let next = self.dirent(index.saturating_add(1)).map(|next| usize::from(next.nameoff.get()));
        let table = self.count.saturating_mul(ENTRY);
        let name = match self.bytes.get(start..next.unwrap_or(self.bytes.len())) {
            Some(name) if start >= table => name,
            _ => {
                return Err(Corruption::new(CorruptionKind::DirNameOffset)
                    .detail(format_args!("entry {index}: {start}")));
            }
        };
        // Only the last name may be followed by padding.
        let name = if next.is_none() { until_nul(name) } else { name };
        check_name(name)?;
        Ok((entry, name))
    }
}

fn until_nul(name: &[u8]) -> &[u8] {
    let len = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    name.get(..len).unwrap_or_default()
}

/// What must hold of any name, so that it can be used as a file name elsewhere.
fn check_name(name: &[u8]) -> Result<(), Corruption> {
    let bad = |fault| {
        let seen = name.get(..name.len().min(NAME_MAX)).unwrap_or_default().escape_ascii();
        Err(Corruption::new(fault).detail(seen))
    };
    if name.is_empty() {
        return bad(CorruptionKind::DirNameEmpty);
    }
    if name.len() > NAME_MAX {
        return bad(CorruptionKind::DirNameLong);
    }
    if name.iter().any(|&b| b == b'/' || b == 0) {
        return bad(CorruptionKind::DirNameByte);
    }
    Ok(())
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name: 1 to 255 bytes without slash and NUL.
    pub name: Vec<u8>,
    /// Its inode.
    pub nid: u64,
    /// The type the entry claims, as in `linux/fs_types.h`; the inode knows better.
    pub file_type: u8,
}

/// The entries of a directory in the order they are stored, which is that of their bytes, without `.` and
/// `..`. After an error it ends.
#[derive(Debug)]
pub struct ReadDir<'a, R: ReadAt> {
    image: &'a Image<R>,
    inode: Inode,
    /// File offset behind the block at hand.
    next: u64,
    block: Vec<u8>,
    index: usize,
    failed: bool,
}

impl<'a, R: ReadAt> ReadDir<'a, R> {
    pub(super) fn new(image: &'a Image<R>, inode: Inode) -> Self {
        Self { image, inode, next: 0, block: Vec::new(), index: 0, failed: false }
    }

    /// The directory.
    #[must_use]
    pub fn inode(&self) -> &Inode {
        &self.inode
    }

    fn step(&mut self) -> Result<Option<DirEntry>, Error> {
        loop {
            if self.block.is_empty() {
                if self.next >= self.inode.size {
                    return Ok(None);
                }
                self.image.read_dir_block(&self.inode, self.next, &mut self.block)?;
                self.next = self.next.saturating_add(self.block.len() as u64);
                self.index = 0;
            }
            let block = DirBlock::parse(&self.block)?;
            if self.index >= block.len() {
                self.block.clear();
                continue;
            }
            let (entry, name) = block.entry(self.index)?;
            self.index = self.index.saturating_add(1);
            if name != b"." && name != b".." {
                let (nid, file_type) = (entry.nid.get(), entry.file_type);
                return Ok(Some(DirEntry { name: name.to_vec(), nid, file_type }));
            }
        }
    }
}

impl<R: ReadAt> Iterator for ReadDir<'_, R> {
    type Item = Result<DirEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step().map_err(|e| e.in_inode(self.inode.nid));
        self.failed = step.is_err();
        step.transpose()
    }
}

impl<R: ReadAt> Image<R> {
    /// The entries of a directory.
    ///
    /// # Errors
    /// [`Error::NotADirectory`], and what [`Image::stat`] reports.
    pub fn read_dir(&self, nid: u64) -> Result<ReadDir<'_, R>, Error> {
        let inode = self.stat(nid)?;
        if !inode.is_dir() {
            return Err(Error::NotADirectory { nid });
        }
        Ok(ReadDir::new(self, inode))
    }

    /// The inode of a path, from the root. Symbolic links are not followed; empty components and `.` mean
    /// nothing, `..` leads to the parent.
    ///
    /// Names are found as the kernel finds them, by binary search: in a directory that is not sorted, some
    /// names are listed but not found.
    ///
    /// # Errors
    /// [`Error::NotADirectory`] for a path through something else, and any fault on the way.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Inode>, Error> {
        let mut inode = self.stat(self.superblock().root)?;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".") {
            match self.lookup_in(&inode, name)? {
                Some(nid) => inode = self.stat(nid)?,
                None => return Ok(None),
            }
        }
        Ok(Some(inode))
    }

    /// The nid of one name in a directory.
    ///
    /// # Errors
    /// [`Error::NotADirectory`], and any fault in the blocks looked at.
    pub fn lookup_in(&self, dir: &Inode, name: &[u8]) -> Result<Option<u64>, Error> {
        if !dir.is_dir() {
            return Err(Error::NotADirectory { nid: dir.nid });
        }
        let size = self.superblock().block_size();
        let (mut low, mut high) = (0, dir.size.div_ceil(size));
        let mut bytes = Vec::new();
        let in_dir = |c: Corruption| c.nid(dir.nid);
        while low < high {
            let middle = low.saturating_add(high.saturating_sub(low) / 2);
            self.read_dir_block(dir, middle.saturating_mul(size), &mut bytes)?;
            let block = DirBlock::parse(&bytes).map_err(in_dir)?;
            match find(&block, name).map_err(in_dir)? {
                Ok(nid) => return Ok(Some(nid)),
                Err(Ordering::Less) => high = middle,
                Err(_) => low = middle.saturating_add(1),
            }
        }
        Ok(None)
    }

    /// Reads the used bytes of the directory block at file offset `offset`.
    pub(crate) fn read_dir_block(
        &self,
        dir: &Inode,
        offset: u64,
        block: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let used = self.superblock().block_size().min(dir.size.saturating_sub(offset));
        block.resize(usize::try_from(used).unwrap_or(0), 0);
        self.read_at(dir, block, offset)?;
        Ok(())
    }
}

/// The nid of `name` in a block, or where to look on: `Less` before this block, `Equal` nowhere else,
/// `Greater` behind it.
fn find(block: &DirBlock<'_>, name: &[u8]) -> Result<Result<u64, Ordering>, Corruption> {
    let (mut low, mut high) = (0, block.len());
    while low < high {
        let middle = low.midpoint(high);
        let (entry, have) = block.entry(middle)?;
        match name.cmp(have) {
            Ordering::Equal => return Ok(Ok(entry.nid.get())),
            Ordering::Less => high = middle,
            Ordering::Greater => low = middle.saturating_add(1),
        }
    }
    Ok(Err(if low == 0 { Ordering::Less } else { Ordering::Greater }))
}
