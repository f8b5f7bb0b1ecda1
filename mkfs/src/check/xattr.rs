//! Extended attributes of every inode.

use std::collections::BTreeMap;

use super::reached::Name;
use super::{Check, CheckStop, sort};
use crate::format::{compat, filter_bit};
use crate::image::{
    Corruption, CorruptionKind, Inode, RawXattr, full_name, parse_xattr, split_index,
};
use crate::interpreted;

/// What an inode needs to know of an entry.
#[derive(Debug, Clone)]
struct Seen {
    /// The name in full; `None` when Linux does not show it.
    name: Option<Box<[u8]>>,
    /// It is the fingerprint that page cache sharing goes by, which is hidden on purpose.
    fingerprint: bool,
    /// Its bit of the name filter.
    bit: u32,
    /// The value, where the kernel interprets it.
    value: Option<Box<[u8]>>,
}

/// The shared entries met so far: each is read once. A faulty one is `None`, and was reported.
#[derive(Debug, Default)]
pub(super) struct Shared {
    entries: BTreeMap<u32, Option<Seen>>,
}

impl Check<'_> {
    pub(super) fn check_xattrs(&mut self, inode: &Inode, name: &Name) -> Result<(), CheckStop> {
        self.spend(inode.xattr_len())?;
        let area = match sort(self.image.xattr_area(inode))? {
            Ok(Some(area)) => area,
            Ok(None) => return Ok(()),
            Err(c) => return self.find_named(c, name),
        };
        let bad = |c: Corruption| c.nid(inode.nid).at(inode.xattr_offset());
        if area.header.reserved != [0; 7] {
            self.find_named(bad(Corruption::new(CorruptionKind::XattrReserved)), name)?;
        }
        let mut seen = Vec::new();
        for entry in area.entries() {
            // Zeros at the end of the area are room to grow.
            match entry {
                Ok(raw) if raw.index == 0 && raw.suffix.is_empty() && raw.value.is_empty() => {}
                Ok(raw) => match self.look_at(&raw) {
                    Ok(entry) => seen.push(entry),
                    Err(c) => self.find_named(bad(c), name)?,
                },
                Err(c) => self.find_named(bad(c), name)?,
            }
        }
        for id in area.shared() {
            seen.extend(self.shared_entry(id, inode, name)?);
        }
        self.check_set(seen, area.header.name_filter.get(), inode, name)
    }

    /// What must hold of all xattrs of an inode together.
    fn check_set(
        &mut self,
        mut seen: Vec<Seen>,
        filter: u32,
        inode: &Inode,
        name: &Name,
    ) -> Result<(), CheckStop> {
        let bad = |fault| Corruption::new(fault).nid(inode.nid).at(inode.xattr_offset());
        for entry in &seen {
            let (Some(text), Some(value)) = (&entry.name, &entry.value) else { continue };
            if let Some(why) = interpreted::stored(text, value, inode.file_type()) {
                let detail = format!("{}: {why}", text.escape_ascii());
                self.find_named(bad(CorruptionKind::XattrValue).detail(detail), name)?;
            }
        }
        let sb = self.sb();
        let filtered = sb.has_compat(compat::XATTR_FILTER) && sb.raw.xattr_filter_reserved == 0;
        seen.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut before: Option<&[u8]> = None;
        for entry in &seen {
            let Some(text) = entry.name.as_deref() else {
                if !entry.fingerprint {
                    self.find_named(bad(CorruptionKind::XattrHidden), name)?;
                }
                continue;
            };
            if before == Some(text) {
                self.find_named(
                    bad(CorruptionKind::XattrDuplicate).detail(text.escape_ascii()),
                    name,
                )?;
            }
            before = Some(text);
            if filtered && filter & entry.bit != 0 {
                self.find_named(
                    bad(CorruptionKind::XattrFilter).detail(text.escape_ascii()),
                    name,
                )?;
            }
        }
        Ok(())
    }

    fn look_at(&self, raw: &RawXattr<'_>) -> Result<Seen, Corruption> {
        let prefixes = self.image.prefixes();
        let (base, infix) = split_index(prefixes, raw.index)?;
        let bit = if infix.is_empty() {
            filter_bit(base, raw.suffix)
        } else {
            filter_bit(base, &[infix, raw.suffix].concat())
        };
        let name: Option<Box<[u8]>> = full_name(prefixes, raw)?.map(Into::into);
        let is_interpreted = name.as_deref().is_some_and(interpreted::is_interpreted);
        let value = is_interpreted.then(|| raw.value.into());
        let sb = self.sb();
        let fingerprint = sb.has_compat(compat::ISHARE_XATTRS)
            && raw.index == sb.raw.ishare_xattr_prefix_id | 0x80;
        Ok(Seen { name, fingerprint, bit, value })
    }

    fn shared_entry(
        &mut self,
        id: u32,
        inode: &Inode,
        name: &Name,
    ) -> Result<Option<Seen>, CheckStop> {
        if let Some(seen) = self.shared.entries.get(&id) {
            return Ok(seen.clone());
        }
        let looked = match sort(self.image.shared_xattr(id))? {
            Ok(bytes) => {
                self.spend(bytes.len() as u64)?;
                let raw =
                    parse_xattr(&bytes).ok_or_else(|| Corruption::new(CorruptionKind::XattrEntry));
                raw.and_then(|(raw, _)| self.look_at(&raw))
            }
            Err(c) => Err(c),
        };
        let seen = match looked {
            Ok(seen) => Some(seen),
            Err(c) => {
                self.find_named(c.nid(inode.nid).at(inode.xattr_offset()), name)?;
                None
            }
        };
        self.shared.entries.insert(id, seen.clone());
        Ok(seen)
    }
}
