//! Where the directories of a tree are, in memory proportional to their names.
//!
//! A path for each of them could be much longer than the image: a directory 2000 levels down that holds a
//! million others has paths of half a megabyte.

use std::collections::BTreeMap;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameInDir {
    /// The number of the directory: its nid, or what a walk over several layers gave it.
    pub parent: u64,
    /// The last component.
    pub name: Vec<u8>,
}

impl NameInDir {
    /// The name of something in a directory.
    #[must_use]
    pub fn new(parent: u64, name: &[u8]) -> Self {
        Self { parent, name: name.to_vec() }
    }
}

/// The directories met on a walk.
#[derive(Debug, Default)]
pub struct PathIndex {
    dirs: BTreeMap<u64, NameInDir>,
}

impl PathIndex {
    /// Notes the name of a directory. The start of a walk has none.
    pub fn note(&mut self, dir: u64, name: NameInDir) {
        self.dirs.insert(dir, name);
    }

    /// The components of the path of a directory, from the start of the walk. A walk enters every directory
    /// once, after its parent, so this ends.
    #[must_use]
    pub fn components(&self, mut dir: u64) -> Vec<&[u8]> {
        let mut components = Vec::new();
        while let Some(NameInDir { parent, name }) = self.dirs.get(&dir) {
            components.push(name.as_slice());
            dir = *parent;
        }
        components.reverse();
        components
    }

    /// The path of a name, without a leading slash.
    #[must_use]
    pub fn path(&self, name: &NameInDir) -> Vec<u8> {
        let mut components = self.components(name.parent);
        components.push(&name.name);
        components.join(&b'/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_from_the_start_of_the_walk() {
        let mut index = PathIndex::default();
        index.note(7, NameInDir::new(1, b"usr"));
        index.note(9, NameInDir::new(7, b"lib"));
        assert_eq!(index.components(1), Vec::<&[u8]>::new());
        assert_eq!(index.components(9), [b"usr", b"lib"]);
        assert_eq!(index.path(&NameInDir::new(9, b"libc.so")), b"usr/lib/libc.so");
        assert_eq!(index.path(&NameInDir::new(1, b"etc")), b"etc");
    }
}
