//! Extended attributes: entries behind the inode, shared entries, and long prefixes.

use std::collections::BTreeSet;

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::Image;
use super::corruption::{Corruption, CorruptionKind, Error};
use super::inode::{Inode, Space};
use super::prefix::LongPrefix;
use super::superblock::Super;
use super::zmap::Metadata;
use crate::format::{NAME_MAX, XattrEntry, XattrHeader, compat, incompat, prefix_text};
use crate::io::ReadAt;
use crate::meta::Xattr;

/// Most long prefixes there can be: 7 bits number them.
const PREFIXES_MAX: u8 = 128;
/// Set in a name index that numbers a long prefix.
const LONG: u8 = 0x80;
/// Linux has no handler for this namespace.
const LUSTRE: u8 = 5;

/// An entry as it is stored, with the place it was found at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawXattr<'a> {
    pub(crate) index: u8,
    pub(crate) suffix: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// The xattr area of one inode.
#[derive(Debug)]
pub(crate) struct Area {
    pub(crate) header: XattrHeader,
    bytes: Vec<u8>,
}

impl Area {
    /// The ids of shared entries.
    pub(crate) fn shared(&self) -> impl Iterator<Item = u32> {
        let len = usize::from(self.header.shared_count).saturating_mul(4);
        let ids = self.bytes.get(size_of::<XattrHeader>()..).and_then(|b| b.get(..len));
        let ids = ids.and_then(|ids| <[U32]>::ref_from_bytes(ids).ok()).unwrap_or_default();
        ids.iter().map(|id| id.get())
    }

    /// The entries behind the ids, one after another; after an error it ends.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<RawXattr<'_>, Corruption>> {
        let skip = usize::from(self.header.shared_count)
            .saturating_mul(4)
            .saturating_add(size_of::<XattrHeader>());
        let mut rest = self.bytes.get(skip..).unwrap_or_default();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let Some((raw, used)) = parse_entry(rest) else {
                rest = &[];
                return Some(Err(Corruption::new(CorruptionKind::XattrEntry)));
            };
            rest = rest.get(used.next_multiple_of(4)..).unwrap_or_default();
            Some(Ok(raw))
        })
    }
}

/// The entry at the start of `bytes` and its length without padding.
pub(crate) fn parse_entry(bytes: &[u8]) -> Option<(RawXattr<'_>, usize)> {
    let (head, rest) = XattrEntry::read_from_prefix(bytes).ok()?;
    let (suffix, rest) = rest.split_at_checked(usize::from(head.name_len))?;
    let value = rest.get(..usize::from(head.value_size.get()))?;
    let used = size_of::<XattrEntry>().saturating_add(suffix.len()).saturating_add(value.len());
    Some((RawXattr { index: head.name_index, suffix, value }, used))
}

/// A name in full, `None` for one that Linux does not show.
pub(crate) fn full_name(
    prefixes: &[LongPrefix],
    raw: &RawXattr<'_>,
) -> Result<Option<Vec<u8>>, Corruption> {
    let (base, infix) = split_index(prefixes, raw.index)?;
    let Some(prefix) = prefix_text(base).filter(|_| base != LUSTRE) else { return Ok(None) };
    let name = [prefix, infix, raw.suffix].concat();
    let whole = matches!(base, 2 | 3);
    let rest_is_empty = name.len() == prefix.len();
    if name.len() > NAME_MAX || name.contains(&0) || whole != rest_is_empty {
        let seen = name.get(..name.len().min(NAME_MAX)).unwrap_or_default().escape_ascii();
        return Err(Corruption::new(CorruptionKind::XattrName).detail(seen));
    }
    Ok(Some(name))
}

/// The short prefix and the infix that a name index stands for.
pub(crate) fn split_index(prefixes: &[LongPrefix], index: u8) -> Result<(u8, &[u8]), Corruption> {
    if index & LONG == 0 {
        return Ok((index, &[]));
    }
    let long = prefixes.get(usize::from(index & !LONG));
    let long =
        long.ok_or_else(|| Corruption::new(CorruptionKind::XattrPrefix).detail(index & !LONG))?;
    Ok((long.base, &long.infix))
}

impl<R: ReadAt> Image<R> {
    /// The extended attributes of an inode that Linux shows, in name order, with their full names.
    ///
    /// # Errors
    /// A fault in the area, in a shared entry or in a name, and the same name twice.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        let mut found = BTreeSet::new();
        let Some(area) = self.xattr_area(inode)? else { return Ok(Vec::new()) };
        let at = inode.xattr_offset();
        let bad = |c: Corruption| c.nid(inode.nid).at(at);
        let mut names = BTreeSet::new();
        let mut take = |raw: &RawXattr<'_>| -> Result<(), Corruption> {
            if let Some(name) = full_name(self.prefixes(), raw)? {
                if !names.insert(name.clone()) {
                    let seen = name.escape_ascii();
                    return Err(Corruption::new(CorruptionKind::XattrDuplicate).detail(seen));
                }
                found.insert(Xattr { name, value: raw.value.to_vec() });
            }
            Ok(())
        };
        for entry in area.entries() {
            take(&entry.map_err(bad)?).map_err(bad)?;
        }
        for id in area.shared() {
            let bytes = self.shared_xattr(id).map_err(|e| e.in_inode(inode.nid))?;
            let (raw, _) = parse_entry(&bytes).ok_or(CorruptionKind::XattrEntry)?;
            take(&raw).map_err(bad)?;
        }
        Ok(found.into_iter().collect())
    }

    /// The xattr area of an inode, `None` when it has none.
    pub(crate) fn xattr_area(&self, inode: &Inode) -> Result<Option<Area>, Error> {
        let len = usize::try_from(inode.xattr_len()).unwrap_or(0);
        let at = inode.xattr_offset();
        let bad = |fault| Corruption::new(fault).nid(inode.nid).at(at);
        if len == 0 {
            return Ok(None);
        }
        // The kernel answers every question about such an inode with an error.
        if len == size_of::<XattrHeader>() {
            return Err(bad(CorruptionKind::XattrHeader).into());
        }
        let mut bytes = vec![0; len];
        self.read_meta(inode.space(), at, &mut bytes).map_err(|e| match e {
            Error::Corrupt(c) if c.fault == CorruptionKind::DataOutside => {
                bad(CorruptionKind::XattrOutside).into()
            }
            other => other.in_inode(inode.nid),
        })?;
        let (header, rest) =
            XattrHeader::read_from_prefix(&bytes).map_err(|_| bad(CorruptionKind::XattrHeader))?;
        if usize::from(header.shared_count).saturating_mul(4) > rest.len() {
            return Err(bad(CorruptionKind::XattrEntry).detail("shared ids").into());
        }
        Ok(Some(Area { header, bytes }))
    }

    /// The bytes of a shared entry.
    pub(crate) fn shared_xattr(&self, id: u32) -> Result<Vec<u8>, Error> {
        let sb = self.superblock();
        let space = if sb.has_compat(compat::SHARED_EA_IN_METABOX) {
            Space::Metabox
        } else {
            Space::Primary
        };
        let at = u64::from(id).saturating_mul(4).saturating_add(sb.xattr_start);
        let bad = |e: Error| match e {
            Error::Corrupt(_) => Corruption::new(CorruptionKind::XattrShared)
                .at(at)
                .detail(format_args!("id {id}"))
                .into(),
            other => other,
        };
        let mut bytes = vec![0; size_of::<XattrEntry>()];
        self.read_meta(space, at, &mut bytes).map_err(bad)?;
        let (head, _) = XattrEntry::read_from_prefix(&bytes)
            .map_err(|_| Corruption::new(CorruptionKind::XattrShared))?;
        let body = usize::from(head.name_len).saturating_add(usize::from(head.value_size.get()));
        let start = bytes.len();
        bytes.resize(start.saturating_add(body), 0);
        let rest = bytes.get_mut(start..).unwrap_or_default();
        self.read_meta(space, at.saturating_add(start as u64), rest).map_err(bad)?;
        Ok(bytes)
    }

    /// Reads the table of long prefixes, once, when the image is opened.
    pub(super) fn read_prefixes(&self) -> Result<Vec<LongPrefix>, Error> {
        let sb = self.superblock();
        let count = sb.raw.xattr_prefix_count;
        if count == 0 || !sb.has_incompat(incompat::XATTR_PREFIXES) {
            return Ok(Vec::new());
        }
        let mut at = u64::from(sb.raw.xattr_prefix_start.get()).saturating_mul(4);
        let bad = |at: u64| Corruption::new(CorruptionKind::PrefixTable).at(at);
        if count > PREFIXES_MAX {
            return Err(bad(at).detail(count).into());
        }
        let mut table = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let mut len = [0; 2];
            self.read_prefix_bytes(sb, at, &mut len)?;
            let len = u16::from_le_bytes(len);
            // A base index, and an infix that can be part of a name.
            if len == 0 || usize::from(len) > NAME_MAX.saturating_add(1) {
                return Err(bad(at).detail(len).into());
            }
            let mut entry = vec![0; usize::from(len)];
            self.read_prefix_bytes(sb, at.saturating_add(2), &mut entry)?;
            let base = entry.remove(0);
            table.push(LongPrefix { base, infix: entry });
            at = at.saturating_add(2).saturating_add(u64::from(len)).next_multiple_of(4);
        }
        Ok(table)
    }

    /// The table is in the metabox, else in the packed inode, else in the image, unless a flag says that it
    /// is in the image in any case.
    fn read_prefix_bytes(&self, sb: &Super, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        let plain = sb.has_compat(compat::PLAIN_XATTR_PFX);
        let result = match self.packed() {
            _ if plain => self.read_meta(Space::Primary, at, buf),
            _ if sb.metabox.is_some() => self.read_meta(Space::Metabox, at, buf),
            Some(packed) => match self.read_at(&packed, buf, at) {
                Ok(n) if n == buf.len() => Ok(()),
                Ok(_) => Err(CorruptionKind::PrefixTable.into()),
                Err(e) => Err(e),
            },
            None => self.read_meta(Space::Primary, at, buf),
        };
        result.map_err(|e| match e {
            Error::Corrupt(_) => Corruption::new(CorruptionKind::PrefixTable).at(at).into(),
            other => other,
        })
    }
}
