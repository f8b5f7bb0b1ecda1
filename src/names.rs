//! Where the directories of a tree are, in memory proportional to their names.
//!
//! A path for each of them could be much longer than the image: a directory 2000 levels down that holds a
//! million others has paths of half a megabyte.

use std::collections::BTreeMap;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    /// The number of the directory: its nid, or what a walk over several layers gave it.
    pub(crate) parent: u64,
    /// The last component.
    pub(crate) name: Vec<u8>,
}

impl Name {
    /// The name of something in a directory.
    pub(crate) fn new(parent: u64, name: &[u8]) -> Self {
        Self { parent, name: name.to_vec() }
    }
}

/// The directories met on a walk.
#[derive(Debug, Default)]
pub(crate) struct Names {
    dirs: BTreeMap<u64, Name>,
}

impl Names {
    /// Notes the name of a directory. The start of a walk has none.
    pub(crate) fn note(&mut self, dir: u64, name: Name) {
        self.dirs.insert(dir, name);
    }

    /// The components of the path of a directory, from the start of the walk. A walk enters every directory
    /// once, after its parent, so this ends.
    pub(crate) fn components(&self, mut dir: u64) -> Vec<&[u8]> {
        let mut components = Vec::new();
        while let Some(Name { parent, name }) = self.dirs.get(&dir) {
            components.push(name.as_slice());
            dir = *parent;
        }
        components.reverse();
        components
    }

    /// The path of a name, without a leading slash.
    pub(crate) fn path(&self, name: &Name) -> Vec<u8> {
        let mut components = self.components(name.parent);
        components.push(&name.name);
        components.join(&b'/')
    }
}
