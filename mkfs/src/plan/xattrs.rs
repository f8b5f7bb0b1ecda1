//! Which extended attributes are shared, and the bytes behind an inode for every set.

use std::collections::BTreeMap;

use zerocopy::IntoBytes;

use crate::Error;
use crate::exact::exact;
use crate::format::{SHARED_ID_SIZE, XattrEntry, XattrHeader, filter_bit, prefix_of};
use crate::meta::Xattr;

/// Most shared attributes of one inode: `h_shared_count` has 8 bits.
const SHARED_MAX: usize = 255;

/// The attributes of an image, by set.
#[derive(Debug, Default)]
pub(crate) struct XattrPlan {
    /// Bytes behind an inode, by set id.
    sizes: Vec<u64>,
    /// Offsets in the shared area, divided by 4.
    shared: BTreeMap<Xattr, u32>,
    /// The shared area.
    pub(crate) area: Vec<u8>,
}

fn append(out: &mut Vec<u8>, xattr: &Xattr) -> Result<(), Error> {
    // Names were split when the set was made; one that cannot be split is not in any set.
    let (name_index, rest) = prefix_of(&xattr.name).ok_or(Error::Internal("an xattr prefix"))?;
    let entry = XattrEntry {
        name_len: exact(rest.len(), "the length of an xattr name")?,
        name_index,
        value_size: exact::<u16, _>(xattr.value.len(), "the size of an xattr value")?.into(),
    };
    out.extend_from_slice(entry.as_bytes());
    out.extend_from_slice(rest);
    out.extend_from_slice(&xattr.value);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

impl XattrPlan {
    /// Plans for `sets`, each with the number of inodes that use it. Attributes on more than `share_above`
    /// inodes go to the shared area; `None` shares nothing.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub(crate) fn new(sets: &[(&[Xattr], u64)], share_above: Option<u64>) -> Result<Self, Error> {
        let mut plan = Self::default();
        if let Some(limit) = share_above {
            let mut uses: BTreeMap<&Xattr, u64> = BTreeMap::new();
            for (set, count) in sets {
                for xattr in *set {
                    *uses.entry(xattr).or_default() += count;
                }
            }
            for (xattr, _) in uses.into_iter().filter(|&(_, count)| count > limit) {
                let id = exact(plan.area.len() / 4, "the number of a shared xattr")?;
                append(&mut plan.area, xattr)?;
                plan.shared.insert(xattr.clone(), id);
            }
        }
        let sizes = sets.iter().map(|(set, _)| Ok(plan.body(set)?.len() as u64));
        plan.sizes = sizes.collect::<Result<_, Error>>()?;
        Ok(plan)
    }

    /// Bytes behind an inode with the set `index`.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub(crate) fn size(&self, index: u32) -> Result<u64, Error> {
        let size = self.sizes.get(index as usize).copied();
        size.ok_or(Error::Internal("a set of xattrs"))
    }

    /// The bytes behind an inode with this set.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub(crate) fn body(&self, set: &[Xattr]) -> Result<Vec<u8>, Error> {
        if set.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = Vec::new();
        let mut inline = Vec::new();
        let mut filter = 0;
        for xattr in set {
            if let Some((index, rest)) = prefix_of(&xattr.name) {
                filter |= filter_bit(index, rest);
            }
            match self.shared.get(xattr).filter(|_| ids.len() < SHARED_MAX) {
                Some(id) => ids.push(*id),
                None => append(&mut inline, xattr)?,
            }
        }
        let header = XattrHeader {
            name_filter: (!filter).into(),
            shared_count: exact(ids.len(), "the number of shared xattrs")?,
            reserved: [0; 7],
        };
        let mut out = Vec::with_capacity(12 + ids.len() * SHARED_ID_SIZE + inline.len());
        out.extend_from_slice(header.as_bytes());
        for id in ids {
            out.extend_from_slice(&id.to_le_bytes());
        }
        out.extend_from_slice(&inline);
        Ok(out)
    }
}
