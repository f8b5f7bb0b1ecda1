//! What goes on when the power is cut: several callers make layers, run containers and remove, each its own things.

use std::collections::{BTreeMap, BTreeSet};

use crate::content::Random;
use crate::model::Op;
use crate::world::World;

/// Layers on each other, at most.
const DEPTH: usize = 6;

/// One caller's snapshots, and those of earlier lives that may be their parents, with their depth by name.
pub(crate) struct Worker {
    pub(crate) world: World,
    pub(crate) random: Random,
    /// These are never removed.
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
            let done = match self.random.below(10) {
                0 => self.cleanup(),
                1 => self.view(),
                2 | 3 => self.remove(),
                _ => self.layer(),
            };
            // Of a server that may fail: what is left there still has it for a parent.
            if let Err(parent) = done {
                self.left.insert(parent);
            }
        }
    }

    /// Makes a call for a child of `parent`, which is the error.
    fn act(&self, op: &Op, parent: &str) -> Result<(), String> {
        self.world.act(op).ok_or_else(|| parent.to_owned())
    }

    fn cleanup(&self) -> Result<(), String> {
        if self.world.server.has_cleanup() {
            self.world.client.cleanup().unwrap_or_else(|s| panic!("cleanup: {s}"));
        }
        Ok(())
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

    fn layer(&mut self) -> Result<(), String> {
        let (key, (parent, depth)) = (self.world.name("k"), self.parent());
        self.act(&Op::Prepare { key: key.clone(), parent: parent.clone() }, &parent)?;
        let seed = self.seed();
        let fill = if self.random.one_in(3) {
            Op::Write { key: key.clone(), seed }
        } else {
            Op::Apply { key: key.clone(), seed }
        };
        self.act(&fill, &parent)?;
        match self.random.below(8) {
            0 => self.act(&Op::Remove { key }, &parent)?,
            // The next life finds it so.
            1 => drop(self.left.insert(parent)),
            _ => {
                let name = self.world.name("c");
                self.act(&Op::Commit { name: name.clone(), key }, &parent)?;
                self.own.push((name, parent, depth + 1));
            }
        }
        Ok(())
    }

    fn view(&mut self) -> Result<(), String> {
        let (parent, _) = self.parent();
        if !parent.is_empty() {
            let key = self.world.name("v");
            self.act(&Op::View { key: key.clone(), parent: parent.clone() }, &parent)?;
            self.act(&Op::Remove { key }, &parent)?;
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<(), String> {
        let is_parent = |name: &String| {
            self.left.contains(name) || self.own.iter().any(|(_, parent, _)| parent == name)
        };
        let at = self.own.iter().position(|(name, _, _)| !is_parent(name));
        if let Some(at) = at.filter(|_| self.own.len() > 2) {
            let (key, parent, _) = self.own.remove(at);
            self.act(&Op::Remove { key }, &parent)?;
        }
        Ok(())
    }
}
