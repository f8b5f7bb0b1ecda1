//! What goes on when the power is cut: several callers make layers, run containers and remove, each its own things.

use std::collections::{BTreeMap, BTreeSet};

use crate::content::Random;
use crate::model::Op;
use crate::world::World;

/// Layers on each other, at most.
const DEPTH: usize = 6;

/// One caller's snapshots, and those of earlier lives that it may stand on: their depth by name.
pub(crate) struct Worker {
    pub(crate) world: World,
    pub(crate) random: Random,
    /// Nobody removes these.
    pub(crate) kept: BTreeMap<String, usize>,
    /// Name, parent and depth.
    pub(crate) own: Vec<(String, String, usize)>,
    /// Parents of what is neither committed nor removed.
    pub(crate) left: BTreeSet<String>,
}

impl Worker {
    /// Until the power is cut.
    pub(crate) fn run(mut self) {
        loop {
            match self.random.below(10) {
                0 => self.world.client.cleanup().unwrap_or_else(|s| panic!("cleanup: {s}")),
                1 => self.view(),
                2 | 3 => self.remove(),
                _ => self.layer(),
            }
        }
    }

    /// A number for a layer: now and then of one that there was before, which is reused.
    fn seed(&mut self) -> u64 {
        if self.random.one_in(4) { 2 * (self.random.next() % 8) + 1 } else { self.random.next() }
    }

    fn parent(&mut self) -> (String, usize) {
        let own = self.own.iter().map(|(name, _, depth)| (name, *depth));
        let kept = self.kept.iter().map(|(name, depth)| (name, *depth));
        let all: Vec<_> = own.chain(kept).filter(|(_, depth)| *depth < DEPTH).collect();
        // As often as any other: nothing.
        match all.get(self.random.below(all.len() + 1)) {
            Some((name, depth)) => ((*name).clone(), *depth),
            None => (String::new(), 0),
        }
    }

    fn layer(&mut self) {
        let (key, (parent, depth)) = (self.world.name("k"), self.parent());
        self.world.act(&Op::Prepare { key: key.clone(), parent: parent.clone() });
        let seed = self.seed();
        let fill = if self.random.one_in(3) {
            Op::Write { key: key.clone(), seed }
        } else {
            Op::Apply { key: key.clone(), seed }
        };
        self.world.act(&fill);
        match self.random.below(8) {
            0 => self.world.act(&Op::Remove { key }),
            // The next life finds it so.
            1 => drop(self.left.insert(parent)),
            _ => {
                let name = self.world.name("c");
                self.world.act(&Op::Commit { name: name.clone(), key });
                self.own.push((name, parent, depth + 1));
            }
        }
    }

    fn view(&mut self) {
        let (parent, _) = self.parent();
        if !parent.is_empty() {
            let key = self.world.name("v");
            self.world.act(&Op::View { key: key.clone(), parent });
            self.world.act(&Op::Remove { key });
        }
    }

    fn remove(&mut self) {
        let is_parent = |name: &String| {
            self.left.contains(name) || self.own.iter().any(|(_, parent, _)| parent == name)
        };
        let at = self.own.iter().position(|(name, _, _)| !is_parent(name));
        if let Some(at) = at.filter(|_| self.own.len() > 2) {
            let (key, _, _) = self.own.remove(at);
            self.world.act(&Op::Remove { key });
        }
    }
}
