//! What is in a layer: it follows from a number, so that a layer can be compared long after it was made.

use std::collections::BTreeMap;

use erolith_tests::tarball::Tarball;

/// Regular files and what is in them.
pub(crate) type Tree = BTreeMap<String, Vec<u8>>;

/// Numbers that look random and follow from the first one (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut out: Vec<u8> = (0..n.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        out.truncate(n);
        out
    }
}

/// The files of a layer; `None` for one that it removes. Layers share names, so that they replace each other's files.
pub(crate) fn layer(seed: u64) -> Vec<(String, Option<Vec<u8>>)> {
    let mut random = Random(seed);
    let mut out = vec![(format!("d/own-{seed:016x}"), Some(random.bytes(1000)))];
    for i in 0..8 {
        let content = match random.below(4) {
            0 => None,
            1 | 2 => {
                let n = random.below(20_000);
                Some(random.bytes(n))
            }
            _ => continue,
        };
        out.push((format!("d/n{i}"), content));
    }
    // Now and then much data is on its way.
    if random.one_in(4) {
        let n = random.below(1 << 20);
        out.push(("d/large".to_owned(), Some(random.bytes(n))));
    }
    out
}

/// The same as an archive.
pub(crate) fn archive(seed: u64) -> Vec<u8> {
    let mut tar = Tarball::new().dir("d");
    for (path, content) in layer(seed) {
        tar = match content {
            Some(content) => tar.file(path, content),
            None => tar.file(path.replace("d/", "d/.wh."), b""),
        };
    }
    tar.end()
}

/// What is seen of layers, the lowest first.
pub(crate) fn tree(seeds: &[u64]) -> Tree {
    let mut out = Tree::new();
    for (path, content) in seeds.iter().flat_map(|&seed| layer(seed)) {
        match content {
            Some(content) => out.insert(path, content),
            None => out.remove(&path),
        };
    }
    out
}
