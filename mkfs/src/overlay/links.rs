//! Inodes with several names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::changes::{Change, Differences, What};
use super::{Layer, Node, Shown, Stack};
use crate::Error;
use crate::names;

/// Names that show a file of the upper directory which has another name there (`index=on`): the kernel finds it by the
/// inode below that both names have.
#[derive(Debug, Default)]
pub(super) struct Aliases(BTreeMap<Vec<u8>, Shown>);

impl Aliases {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<&Shown> {
        self.0.get(path)
    }

    /// Is there one in this directory, or further down?
    pub(super) fn are_below(&self, path: &[u8]) -> bool {
        self.below(path).next().is_some()
    }

    /// The names in this directory that are one, or lead to one.
    pub(super) fn names_in(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let name = |rest: &[u8]| rest.split(|&b| b == b'/').next().map(<[u8]>::to_vec);
        self.below(path).filter_map(name).collect()
    }

    fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.0.keys().filter_map(move |alias| match path {
            b"" => Some(alias.as_slice()),
            _ => alias.strip_prefix(path)?.strip_prefix(b"/"),
        })
    }
}

/// The aliases of what was found in the upper directory. Without any, nothing is looked at; else each layer that has the
/// inodes is walked, for nothing in it leads from an inode to its names.
pub(super) fn aliases<E: From<Error>>(
    old: &Stack,
    new: &Stack,
    list: &[Change],
    go_on: &mut dyn FnMut() -> Result<(), E>,
) -> Result<Aliases, E> {
    let mut aliases = Aliases::default();
    let indexed = list.iter().filter_map(|change| {
        let shown = change.new.as_ref().filter(|new| new.is_indexed())?;
        let below = change.old.as_ref().filter(|old| old.has_other_names())?;
        Some((shown, below))
    });
    for (shown, below) in indexed {
        for path in names_of(below, go_on)? {
            let sees = |stack: &Stack| -> Result<bool, Error> {
                let at = lookup(stack, &path)?;
                Ok(at.as_ref().and_then(Shown::node).is_some_and(|node| node.is_same(below)))
            };
            if sees(old)? && sees(new)? {
                aliases.0.insert(path, shown.clone());
            }
        }
    }
    Ok(aliases)
}

/// What a stack shows at a path.
fn lookup(stack: &Stack, path: &[u8]) -> Result<Option<Shown>, Error> {
    let mut at = stack.root()?;
    let ends = path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(end, _)| end);
    for end in ends.chain([path.len()]) {
        let Some(dir) = at.filter(Shown::is_dir) else { return Ok(None) };
        at = stack.child(&dir, path.get(..end).unwrap_or_default())?;
    }
    Ok(at)
}

/// All names of an inode in its layer.
fn names_of<E: From<Error>>(
    node: &Node,
    go_on: &mut dyn FnMut() -> Result<(), E>,
) -> Result<Vec<Vec<u8>>, E> {
    let (layer, mut names): (&Arc<Layer>, _) = (node.layer(), Vec::new());
    let mut todo = vec![(Vec::new(), layer.root()?)];
    // A directory has one name, but nothing makes sure that this one has.
    let mut seen = BTreeSet::new();
    while let Some((path, dir)) = todo.pop() {
        go_on()?;
        for name in dir.names()? {
            let path = names::join(&path, &name);
            match dir.child(&name)? {
                Some(child) if child.is_dir() && seen.insert(child.id()) => {
                    todo.push((path, child));
                }
                Some(child) if child.is_same(node) => names.push(path),
                _ => {}
            }
        }
    }
    Ok(names)
}

/// Which changes are of inodes that they share with others, by their numbers in a list.
#[derive(Default)]
struct Groups {
    members: BTreeMap<Key, Vec<usize>>,
    keys: BTreeMap<usize, Key>,
}

/// A layer, and an inode in it.
type Key = (*const Layer, (u64, u64));

impl Groups {
    fn new(list: &[Change], node: impl Fn(&Change) -> Option<&Node>) -> Self {
        let mut groups = Self::default();
        for (index, change) in list.iter().enumerate() {
            if let Some(node) = node(change).filter(|node| node.has_other_names()) {
                let key = (Arc::as_ptr(node.layer()), node.id());
                groups.members.entry(key).or_default().push(index);
                groups.keys.insert(index, key);
            }
        }
        groups
    }

    /// Those that share the inode of this one, itself included; nothing if there are no others.
    fn with(&self, index: usize) -> &[usize] {
        let members = self.keys.get(&index).and_then(|key| self.members.get(key));
        members.map(Vec::as_slice).filter(|members| members.len() > 1).unwrap_or_default()
    }
}

/// Makes further names of one inode links to the first. They go out together, or not at all: a link needs what it leads
/// to in the same layer. With `is_upper`, names that are not in the list still have the old inode.
pub(super) fn settle(list: &mut [Change], is_upper: bool) {
    let olds = Groups::new(list, |change| change.old.as_ref());
    let news = Groups::new(list, |change| change.new.as_ref().and_then(Shown::node));
    let mut changed: Vec<bool> = list.iter().map(|change| change.what != What::Kept).collect();
    for (index, (change, changed)) in list.iter().zip(&mut changed).enumerate() {
        let known = olds.with(index).len().max(1) as u64;
        let is_parted = is_upper && change.old.as_ref().is_some_and(|old| old.links() > known);
        *changed |= olds.with(index) != news.with(index) || is_parted;
    }
    for group in news.members.values().filter(|group| group.len() > 1) {
        let is_changed = |index: &usize| changed.get(*index).copied().unwrap_or_default();
        if group.iter().any(is_changed) {
            link(list, group);
            for &index in group {
                changed.get_mut(index).into_iter().for_each(|changed| *changed = true);
            }
        }
    }
    for (change, changed) in list.iter_mut().zip(changed) {
        if changed && change.what == What::Kept {
            change.what = What::Modified(Differences { links: true, ..Differences::default() });
        }
    }
}

fn link(list: &mut [Change], group: &[usize]) {
    let mut first = None;
    for &index in group {
        let Some(change) = list.get_mut(index) else { continue };
        match &first {
            None => first = Some(change.path.clone()),
            Some(_) => change.first.clone_from(&first),
        }
    }
}
