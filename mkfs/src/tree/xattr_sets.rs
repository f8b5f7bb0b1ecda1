//! Each distinct set of extended attributes of a tree, stored once.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::meta::Xattr;

/// Index of a set of xattrs in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XattrSetId(pub(crate) u32);

impl XattrSetId {
    /// No xattrs.
    pub const EMPTY: Self = Self(0);
}

/// The distinct sets of a tree. Most inodes have none and the rest share few.
#[derive(Debug)]
pub(super) struct XattrSets {
    sets: Vec<Arc<[Xattr]>>,
    index: BTreeMap<Arc<[Xattr]>, XattrSetId>,
}

impl Default for XattrSets {
    fn default() -> Self {
        let empty: Arc<[Xattr]> = Arc::from([]);
        Self { sets: vec![Arc::clone(&empty)], index: BTreeMap::from([(empty, XattrSetId::EMPTY)]) }
    }
}

impl XattrSets {
    pub(super) fn get(&self, id: XattrSetId) -> &[Xattr] {
        &self.sets[id.0 as usize]
    }

    /// The id of a set: sorted by name, names unique.
    pub(super) fn intern(&mut self, set: Vec<Xattr>) -> XattrSetId {
        if let Some(&id) = self.index.get(set.as_slice()) {
            return id;
        }
        let set: Arc<[Xattr]> = set.into();
        // There are fewer sets than nodes, and those are counted with 32 bits.
        let id = XattrSetId(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        self.sets.push(Arc::clone(&set));
        self.index.insert(set, id);
        id
    }
}
