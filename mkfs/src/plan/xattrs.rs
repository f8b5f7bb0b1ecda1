//! Which extended attributes are shared, and the bytes behind an inode for every set.

use std::collections::BTreeMap;

use zerocopy::IntoBytes;

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

fn append(out: &mut Vec<u8>, xattr: &Xattr) {
    // Names were split when the set was made; one that cannot be split is not in any set.
    let (name_index, rest) = prefix_of(&xattr.name).unwrap_or((0, &xattr.name));
    let entry = XattrEntry {
        name_len: u8::try_from(rest.len()).unwrap_or(u8::MAX),
        name_index,
        value_size: u16::try_from(xattr.value.len()).unwrap_or(u16::MAX).into(),
    };
    out.extend_from_slice(entry.as_bytes());
    out.extend_from_slice(rest);
    out.extend_from_slice(&xattr.value);
    out.resize(out.len().next_multiple_of(4), 0);
}

impl XattrPlan {
    /// Plans for `sets`, each with the number of inodes that use it. Attributes on more than `share_above`
    /// inodes go to the shared area; `None` shares nothing.
    pub(crate) fn new(sets: &[(&[Xattr], u64)], share_above: Option<u64>) -> Self {
        let mut plan = Self::default();
        if let Some(limit) = share_above {
            let mut uses: BTreeMap<&Xattr, u64> = BTreeMap::new();
            for (set, count) in sets {
                for xattr in *set {
                    *uses.entry(xattr).or_default() += count;
                }
            }
            for (xattr, _) in uses.into_iter().filter(|&(_, count)| count > limit) {
                let id = u32::try_from(plan.area.len() / 4).unwrap_or(u32::MAX);
                append(&mut plan.area, xattr);
                plan.shared.insert(xattr.clone(), id);
            }
        }
        plan.sizes = sets.iter().map(|(set, _)| plan.body(set).len() as u64).collect();
        plan
    }

    /// Bytes behind an inode with the set `index`.
    pub(crate) fn size(&self, index: u32) -> u64 {
        self.sizes.get(index as usize).copied().unwrap_or(0)
    }

    /// The bytes behind an inode with this set.
    pub(crate) fn body(&self, set: &[Xattr]) -> Vec<u8> {
        if set.is_empty() {
            return Vec::new();
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
                None => append(&mut inline, xattr),
            }
        }
        let header = XattrHeader {
            name_filter: (!filter).into(),
            shared_count: u8::try_from(ids.len()).unwrap_or(u8::MAX),
            reserved: [0; 7],
        };
        let mut out = Vec::with_capacity(12 + ids.len() * SHARED_ID_SIZE + inline.len());
        out.extend_from_slice(header.as_bytes());
        for id in ids {
            out.extend_from_slice(&id.to_le_bytes());
        }
        out.extend_from_slice(&inline);
        out
    }
}
