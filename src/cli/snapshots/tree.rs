//! Snapshots below their parents, drawn as a tree.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::json;

use super::show::{kind, name};
use crate::proto::snapshots::Info;

/// Draws the tree; as JSON, one object a line with the depth in it.
pub(super) fn write(infos: &[Info], as_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    for Line { info, branches } in lines(infos) {
        if as_json {
            let depth = branches.len();
            writeln!(out, "{}", json!({ "key": info.name, "kind": kind(info), "depth": depth }))?;
        } else {
            writeln!(out, "{}{} ({})", stem(&branches), name(&info.name), kind(info))?;
        }
    }
    Ok(())
}

/// One snapshot, with a branch for each of its ancestors and itself: whether it is the last of its siblings.
struct Line<'a> {
    info: &'a Info,
    branches: Vec<bool>,
}

/// All snapshots, each behind its parent. A chain may be long, so nothing here calls itself.
fn lines(infos: &[Info]) -> Vec<Line<'_>> {
    let mut children: BTreeMap<&str, Vec<&Info>> = BTreeMap::new();
    for info in infos {
        children.entry(&info.parent).or_default().push(info);
    }
    let of = |parent: &str| children.get(parent).map(Vec::as_slice).unwrap_or_default();
    let mut todo: Vec<Line<'_>> =
        of("").iter().rev().map(|info| Line { info, branches: Vec::new() }).collect();
    let mut lines = Vec::with_capacity(infos.len());
    while let Some(line) = todo.pop() {
        let next = of(&line.info.name);
        for (index, info) in next.iter().enumerate().rev() {
            let mut branches = line.branches.clone();
            branches.push(index + 1 == next.len());
            todo.push(Line { info, branches });
        }
        lines.push(line);
    }
    lines
}

fn stem(branches: &[bool]) -> String {
    let Some((last, above)) = branches.split_last() else { return String::new() };
    let mut text: String = above.iter().map(|&last| if last { "   " } else { "│  " }).collect();
    text.push_str(if *last { "└─ " } else { "├─ " });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_stand_behind_their_parents() {
        let info = |name: &str, parent: &str| Info {
            name: name.to_owned(),
            parent: parent.to_owned(),
            kind: 3,
            ..Info::default()
        };
        let infos = [info("a", ""), info("b", "a"), info("c", "b"), info("d", "a"), info("e", "")];
        let mut out = Vec::new();
        write(&infos, false, &mut out).unwrap();
        let want = "a (committed)\n├─ b (committed)\n│  └─ c (committed)\n└─ d (committed)\ne (committed)\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}
