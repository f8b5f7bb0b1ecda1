//! Inodes with several names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::change::{Change, ChangeKind, Differences};
use super::index::walk;
use super::{Node, OverlayLayer, Shown, Stack};
use crate::Error;

/// Names that are looked at although they are not in the upper directory: they show a file that a name in there shows, or
/// one in its index.
#[derive(Debug, Default)]
pub(super) struct Aliases(BTreeSet<Vec<u8>>);

impl Aliases {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, path: &[u8]) -> bool {
        self.0.contains(path)
    }

    /// Whether there is one in this directory, or further down.
    pub(super) fn are_below(&self, path: &[u8]) -> bool {
        self.below(path).next().is_some()
    }

    /// The names in this directory that are one, or lead to one.
    pub(super) fn names_in(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let name = |rest: &[u8]| rest.split(|&b| b == b'/').next().map(<[u8]>::to_vec);
        self.below(path).filter_map(name).collect()
    }

    fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter_map(move |alias| match path {
            b"" => Some(alias.as_slice()),
            _ => alias.strip_prefix(path)?.strip_prefix(b"/"),
        })
    }
}

/// The aliases of what was found in the upper directory, in a directory that was renamed there, and in the index. Without
/// any file of several names no layer is looked at; else each that has such files is walked once, for nothing in it
/// leads from an inode to its names.
///
/// # Errors
/// What `go_on` says; what the storage reports, and any fault of an image.
pub(super) fn aliases<E: From<Error>>(
    new: &Stack,
    list: &[Change],
    go_on: &mut dyn FnMut() -> Result<(), E>,
) -> Result<Aliases, E> {
    let mut names: Vec<(Vec<u8>, Node)> =
        new.index().names().map(|(path, copy)| (path.to_vec(), copy.clone())).collect();
    // By their layers: what a name shows that is not where it was, and that other names show where they were.
    let mut wanted: BTreeMap<usize, BTreeSet<(u64, u64)>> = BTreeMap::new();
    let shown = list.iter().filter_map(|change| change.new.as_ref());
    for (layer, node) in shown.filter_map(|new| Some((new.layer(), new.node()?))) {
        if !new.is_upper(layer) && node.has_other_names() {
            wanted.entry(layer).or_default().insert(node.id());
        }
    }
    for (number, layer) in new.lowers() {
        let Some(ids) = wanted.get(&number) else { continue };
        walk(layer, go_on, &mut |path, node| {
            if ids.contains(&node.id()) {
                names.push((path.to_vec(), node.clone()));
            }
            Ok(())
        })?;
    }
    let mut aliases = Aliases::default();
    for (path, node) in names {
        let shown = lookup(new, &path)?;
        if shown.as_ref().and_then(Shown::node).is_some_and(|shown| shown.is_same(&node)) {
            aliases.0.insert(path);
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

/// Which changes are of inodes that they share with others, by their numbers in a list.
#[derive(Default)]
struct Groups {
    members: BTreeMap<Key, Vec<usize>>,
    keys: BTreeMap<usize, Key>,
}

/// A layer, and an inode in it.
type Key = (*const OverlayLayer, (u64, u64));

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
    let mut changed: Vec<bool> =
        list.iter().map(|change| change.what != ChangeKind::Kept).collect();
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
        if changed && change.what == ChangeKind::Kept {
            change.what =
                ChangeKind::Modified(Differences { links: true, ..Differences::default() });
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
