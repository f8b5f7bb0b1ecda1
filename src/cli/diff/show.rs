//! Differences for people and for machines.

use std::collections::BTreeMap;
use std::io::{self, Write};

use erolith_mkfs::format::FileType;
use erolith_overlay::{Change, ChangeKind, Differences};
use serde_json::{Value, json};

use crate::json;
use crate::term::{self, Align, Table, Visible};

/// What a kind of change is called: in a line, and for machines.
fn names(what: ChangeKind) -> (&'static str, &'static str) {
    match what {
        ChangeKind::Added => ("A", "added"),
        ChangeKind::Removed => ("D", "removed"),
        ChangeKind::Kept | ChangeKind::Modified(_) => ("C", "changed"),
    }
}

/// In what something changed.
fn words(change: &Change) -> Vec<&'static str> {
    let ChangeKind::Modified(found) = change.what else { return Vec::new() };
    let Differences { kind, content, mode, owner, time, xattrs, links } = found;
    let words = [
        (kind, "type"),
        (content && !change.hides, "content"),
        (change.hides, "replaced"),
        (mode, "mode"),
        (owner, "owner"),
        (time, "time"),
        (xattrs, "xattrs"),
        (links, "links"),
    ];
    words.into_iter().filter_map(|(is_so, word)| is_so.then_some(word)).collect()
}

/// The path from the root; that of a directory ends with a slash.
fn path(change: &Change) -> Vec<u8> {
    let is_dir = change.file_type() == FileType::Directory && !change.path.is_empty();
    let slash: &[u8] = if is_dir { b"/" } else { b"" };
    [b"/", change.path.as_slice(), slash].concat()
}

/// The sizes of a file before and after.
fn sizes(change: &Change) -> String {
    let (old, new) = (change.old_size(), change.size());
    match change.what {
        _ if change.file_type() != FileType::Regular => String::new(),
        ChangeKind::Added => term::human(new),
        ChangeKind::Removed => term::human(old),
        _ if old == new => term::human(new),
        _ => format!("{} -> {}", term::human(old), term::human(new)),
    }
}

/// One line for each.
pub(super) fn lines(list: &[Change], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new([Align::Left, Align::Left, Align::Right, Align::Left]);
    for change in list {
        let (letter, _) = names(change.what);
        let mut path = Visible(&path(change)).to_string();
        if let Some(first) = &change.first {
            path = format!("{path} (link to {})", Visible(&term::rooted(first)));
        }
        table.row([letter.to_owned(), words(change).join(","), sizes(change), path]);
    }
    table.write(out, 0)
}

/// One object a line for each.
pub(super) fn objects(list: &[Change], out: &mut dyn Write) -> io::Result<()> {
    for change in list {
        let (_, name) = names(change.what);
        let mut object = json!({
            "change": name,
            "path": json::bytes(&term::rooted(&change.path)),
            "type": term::type_name(change.file_type()),
        });
        let words = words(change);
        if !words.is_empty() {
            object["in"] = words.into();
        }
        if change.file_type() == FileType::Regular {
            let old = (change.what != ChangeKind::Added).then(|| change.old_size());
            let new = (change.what != ChangeKind::Removed).then(|| change.size());
            object["oldSize"] = old.into();
            object["size"] = new.into();
        }
        if let Some(first) = &change.first {
            object["linkTo"] = json::bytes(&term::rooted(first));
        }
        json::line(out, &object)?;
    }
    Ok(())
}

/// How much of what.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    added: u64,
    changed: u64,
    removed: u64,
    /// Bytes of files that were added, or changed in their content.
    written: u64,
}

impl Totals {
    fn add(&mut self, change: &Change) {
        match change.what {
            ChangeKind::Added => self.added += 1,
            ChangeKind::Removed => self.removed += 1,
            ChangeKind::Kept | ChangeKind::Modified(_) => self.changed += 1,
        }
        let is_written = match change.what {
            ChangeKind::Added => change.first.is_none(),
            ChangeKind::Modified(found) => found.content || found.kind,
            ChangeKind::Kept | ChangeKind::Removed => false,
        };
        self.written += if is_written { change.size() } else { 0 };
    }

    fn cells(self, name: String) -> [String; 5] {
        let numbers = [self.added, self.changed, self.removed].map(|number| number.to_string());
        let [added, changed, removed] = numbers;
        [added, changed, removed, term::human(self.written), name]
    }

    fn object(self) -> Value {
        let Self { added, changed, removed, written } = self;
        json!({ "added": added, "changed": changed, "removed": removed, "bytes_written": written })
    }
}

/// Sums for each directory below the root, and for all.
pub(super) fn totals(list: &[Change], as_json: bool, out: &mut dyn Write) -> io::Result<()> {
    let (mut all, mut dirs) = (Totals::default(), BTreeMap::<&[u8], Totals>::new());
    for change in list {
        let name = change.path.split(|&b| b == b'/').next().unwrap_or_default();
        all.add(change);
        dirs.entry(name).or_default().add(change);
    }
    if as_json {
        let part = |(name, totals): (&&[u8], &Totals)| {
            let mut object = totals.object();
            object["path"] = json::bytes(&term::rooted(name));
            object
        };
        let mut object = all.object();
        object["directories"] = dirs.iter().map(part).collect();
        return json::line(out, &object);
    }
    let mut table =
        Table::new([Align::Right, Align::Right, Align::Right, Align::Right, Align::Left]);
    table.row(["ADDED", "CHANGED", "REMOVED", "WRITTEN", "IN"].map(str::to_owned));
    for (name, totals) in &dirs {
        table.row(totals.cells(Visible(&term::rooted(name)).to_string()));
    }
    table.row(all.cells("all".to_owned()));
    table.write(out, 0)
}
