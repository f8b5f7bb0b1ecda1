//! What must be there after a power cut, from what was said on the console before it.
//!
//! Lines: `+ ID OPERATION` before a call, `. ID` when it was answered, `x ID` when it was found not to have happened, and
//! `known NAME KIND PARENT LAYER` for what is there already.

use std::collections::BTreeMap;
use std::fmt;

use crate::console::NONE;
use crate::server::Finding;

/// A call that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Prepare {
        key: String,
        parent: String,
    },
    View {
        key: String,
        parent: String,
    },
    /// Our differ fills it with the layer of this number.
    Apply {
        key: String,
        seed: u64,
    },
    /// A container does. What it writes is durable when it is committed, and not before.
    Write {
        key: String,
        seed: u64,
    },
    Commit {
        name: String,
        key: String,
    },
    Remove {
        key: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    View,
    Active,
    Committed,
}

/// What is in a snapshot besides its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Nothing,
    /// Its Apply was not acknowledged.
    Begun(u64),
    Applied(u64),
    Written(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) kind: Kind,
    pub(crate) parent: String,
    pub(crate) layer: Layer,
}

/// What a snapshotter lists: the kind and the parent of each name.
pub(crate) type Rows = BTreeMap<String, (Kind, String)>;

/// What is there, and the calls that may have happened or not.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    pub(crate) pending: Vec<(String, Op)>,
}

fn or_none(name: &str) -> &str {
    if name.is_empty() { NONE } else { name }
}

fn from_none(word: &str) -> String {
    if word == NONE { String::new() } else { word.to_owned() }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare { key, parent } => write!(f, "prepare {key} {}", or_none(parent)),
            Self::View { key, parent } => write!(f, "view {key} {}", or_none(parent)),
            Self::Apply { key, seed } => write!(f, "apply {key} {seed}"),
            Self::Write { key, seed } => write!(f, "write {key} {seed}"),
            Self::Commit { name, key } => write!(f, "commit {name} {key}"),
            Self::Remove { key } => write!(f, "remove {key}"),
        }
    }
}

impl Op {
    fn parse(words: &[&str]) -> Option<Self> {
        let own = |word: &str| word.to_owned();
        Some(match *words {
            ["prepare", key, parent] => Self::Prepare { key: own(key), parent: from_none(parent) },
            ["view", key, parent] => Self::View { key: own(key), parent: from_none(parent) },
            ["apply", key, seed] => Self::Apply { key: own(key), seed: seed.parse().ok()? },
            ["write", key, seed] => Self::Write { key: own(key), seed: seed.parse().ok()? },
            ["commit", name, key] => Self::Commit { name: own(name), key: own(key) },
            ["remove", key] => Self::Remove { key: own(key) },
            _ => return None,
        })
    }

    /// The name that it is about.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Prepare { key, .. }
            | Self::View { key, .. }
            | Self::Apply { key, .. }
            | Self::Write { key, .. }
            | Self::Commit { key, .. }
            | Self::Remove { key } => key,
        }
    }

    /// Whether it happened. Only what is whole may be there.
    pub(crate) fn happened(&self, rows: &Rows) -> Result<bool, String> {
        match self {
            Self::Prepare { key, .. } | Self::View { key, .. } => Ok(rows.contains_key(key)),
            // Rows do not tell, and it is done again.
            Self::Apply { .. } | Self::Write { .. } => Ok(false),
            Self::Commit { name, key } => match (rows.get(name), rows.get(key)) {
                (Some((Kind::Committed, _)), None) => Ok(true),
                (None, Some((Kind::Active, _))) => Ok(false),
                found => Err(format!("{self}: half of it is there: {found:?}")),
            },
            Self::Remove { key } => Ok(!rows.contains_key(key)),
        }
    }
}

impl Snapshot {
    /// As `known` has it.
    pub(crate) fn line(&self, name: &str) -> String {
        let kind = match self.kind {
            Kind::View => "view",
            Kind::Active => "active",
            Kind::Committed => "committed",
        };
        let layer = match self.layer {
            Layer::Nothing => NONE.to_owned(),
            Layer::Begun(seed) => format!("begun:{seed}"),
            Layer::Applied(seed) => format!("applied:{seed}"),
            Layer::Written(seed) => format!("written:{seed}"),
        };
        format!("known {name} {kind} {} {layer}", or_none(&self.parent))
    }

    fn parse(words: &[&str]) -> Option<(String, Self)> {
        let [name, kind, parent, layer] = *words else { return None };
        let kind = match kind {
            "view" => Kind::View,
            "active" => Kind::Active,
            "committed" => Kind::Committed,
            _ => return None,
        };
        let layer = match layer.split_once(':') {
            None => Layer::Nothing,
            Some(("begun", seed)) => Layer::Begun(seed.parse().ok()?),
            Some(("applied", seed)) => Layer::Applied(seed.parse().ok()?),
            Some(("written", seed)) => Layer::Written(seed.parse().ok()?),
            Some(_) => return None,
        };
        Some((name.to_owned(), Self { kind, parent: from_none(parent), layer }))
    }
}

impl Model {
    /// Everything that was said, in order.
    pub(crate) fn replay(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            out.line(&words).ok_or_else(|| format!("not understood: {line}"))?;
        }
        Ok(out)
    }

    /// Whether there is nothing, and nothing that could be.
    pub(crate) fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.pending.is_empty()
    }

    fn line(&mut self, words: &[&str]) -> Option<()> {
        match words {
            [] => {}
            ["+", id, op @ ..] => {
                let op = Op::parse(op)?;
                self.begin(&op)?;
                self.pending.push(((*id).to_owned(), op));
            }
            [how @ ("." | "x"), id] => {
                let at = self.pending.iter().position(|(pending, _)| pending == id)?;
                let (_, op) = self.pending.remove(at);
                if *how == "." {
                    self.done(&op)?;
                }
            }
            ["known", snapshot @ ..] => {
                let (name, snapshot) = Snapshot::parse(snapshot)?;
                self.snapshots.insert(name, snapshot);
            }
            _ => return None,
        }
        Some(())
    }

    /// What is no longer sure once a call was sent.
    pub(crate) fn begin(&mut self, op: &Op) -> Option<()> {
        match op {
            Op::Apply { key, seed } => self.snapshots.get_mut(key)?.layer = Layer::Begun(*seed),
            Op::Write { key, seed } => self.snapshots.get_mut(key)?.layer = Layer::Written(*seed),
            _ => {}
        }
        Some(())
    }

    /// What an answered call changed.
    pub(crate) fn done(&mut self, op: &Op) -> Option<()> {
        let mut add = |key: &String, parent: &String, kind| {
            let snapshot = Snapshot { kind, parent: parent.clone(), layer: Layer::Nothing };
            self.snapshots.insert(key.clone(), snapshot);
        };
        match op {
            Op::Prepare { key, parent } => add(key, parent, Kind::Active),
            Op::View { key, parent } => add(key, parent, Kind::View),
            Op::Apply { key, seed } => self.snapshots.get_mut(key)?.layer = Layer::Applied(*seed),
            Op::Write { .. } => {}
            Op::Commit { name, key } => {
                let snapshot = self.snapshots.remove(key)?;
                let snapshot = Snapshot { kind: Kind::Committed, ..snapshot };
                self.snapshots.insert(name.clone(), snapshot);
            }
            Op::Remove { key } => drop(self.snapshots.remove(key)?),
        }
        Some(())
    }

    /// In what the rows differ from what must be there.
    pub(crate) fn differences(&self, rows: &Rows) -> Vec<(Finding, String)> {
        let mut out = Vec::new();
        for (name, wanted) in &self.snapshots {
            match rows.get(name) {
                None => out.push((Finding::Gone, format!("lost: {}", wanted.line(name)))),
                Some((kind, parent)) if (*kind, parent) != (wanted.kind, &wanted.parent) => {
                    let why = format!("{kind:?} on {parent:?}, not: {}", wanted.line(name));
                    out.push((Finding::Gone, why));
                }
                Some(_) => {}
            }
        }
        let unknown = rows.keys().filter(|name| !self.snapshots.contains_key(*name));
        let back = |name| (Finding::Back, format!("nobody made or somebody removed: {name}"));
        out.extend(unknown.map(back));
        out
    }

    /// Names of snapshots without children.
    pub(crate) fn leaves(&self) -> Vec<String> {
        let is_leaf = |name: &&String| !self.snapshots.values().any(|other| other.parent == **name);
        self.snapshots.keys().filter(is_leaf).cloned().collect()
    }

    /// How many snapshots the chain has that ends here.
    pub(crate) fn depth(&self, name: &str) -> usize {
        self.snapshots.get(name).map_or(0, |snapshot| 1 + self.depth(&snapshot.parent))
    }

    /// The layers of a committed snapshot, the lowest first.
    pub(crate) fn layers(&self, name: &str) -> Result<Vec<u64>, String> {
        let Some(snapshot) = self.snapshots.get(name) else { return Ok(Vec::new()) };
        let mut out = self.layers(&snapshot.parent)?;
        match snapshot.layer {
            Layer::Nothing => {}
            Layer::Applied(seed) | Layer::Written(seed) => out.push(seed),
            Layer::Begun(_) => return Err(format!("not known: {}", snapshot.line(name))),
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "known base committed - applied:7\n\
        + 1 prepare a base\n. 1\n+ 2 apply a 8\n. 2\n+ 3 commit A a\n. 3\n\
        + 4 prepare b A\n. 4\n+ 5 write b 9\n. 5\n+ 6 commit B b\n\
        + 7 prepare c -\nx 7\n+ 8 view v A\n. 8\n+ 9 prepare d A\n. 9\n+ 10 apply d 3\n+ 11 remove v\n";

    fn rows(model: &Model) -> Rows {
        let rows = model.snapshots.iter().map(|(k, s)| (k.clone(), (s.kind, s.parent.clone())));
        rows.collect()
    }

    #[test]
    fn what_was_said_tells_what_is_there() {
        let model = Model::replay(SAID).unwrap();
        let lines: Vec<_> = model.snapshots.iter().map(|(name, s)| s.line(name)).collect();
        let wanted = [
            "known A committed base applied:8",
            "known b active A written:9",
            "known base committed - applied:7",
            "known d active A begun:3",
            "known v view A -",
        ];
        assert_eq!(lines, wanted);
        let pending: Vec<_> = model.pending.iter().map(|(id, op)| format!("{id} {op}")).collect();
        assert_eq!(pending, ["6 commit B b", "10 apply d 3", "11 remove v"]);
        assert_eq!(model.layers("A").unwrap(), [7, 8]);
        assert_eq!(
            (model.depth("b"), model.leaves()),
            (3, vec!["b".into(), "d".into(), "v".into()])
        );
        assert!(model.layers("d").is_err());
        assert_eq!(Model::replay(&lines.join("\n")).unwrap().snapshots, model.snapshots);
    }

    #[test]
    fn what_nobody_answered_is_there_whole_or_not_at_all() {
        let model = Model::replay(SAID).unwrap();
        let commit = &model.pending[0].1;
        let mut rows = rows(&model);
        assert_eq!(commit.happened(&rows), Ok(false));
        rows.insert("B".into(), (Kind::Committed, "A".into()));
        assert!(commit.happened(&rows).is_err());
        rows.remove("b");
        assert_eq!(commit.happened(&rows), Ok(true));
        assert_eq!(model.pending[2].1.happened(&rows), Ok(false));
    }

    #[test]
    fn what_is_lost_changed_or_back_is_found() {
        let model = Model::replay(SAID).unwrap();
        let mut rows = rows(&model);
        assert_eq!(model.differences(&rows), []);
        rows.remove("v");
        rows.insert("b".into(), (Kind::Active, String::new()));
        rows.insert("c".into(), (Kind::Active, String::new()));
        let found = model.differences(&rows);
        assert_eq!(found.len(), 3, "{found:?}");
        let wanted = [
            (Finding::Gone, "known b"),
            (Finding::Gone, "lost: known v"),
            (Finding::Back, "nobody made"),
        ];
        for ((finding, line), (wanted, word)) in found.iter().zip(wanted) {
            assert!(*finding == wanted && line.contains(word), "{finding}: {line}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in ["+ 1 prepare", ". 1", "+ 1 apply a 1", "known a odd - -", "+ 1 remove a\n. 1"]
        {
            assert!(Model::replay(text).is_err(), "{text}");
        }
    }
}
