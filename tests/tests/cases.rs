//! Every crafted archive through the builder and all readers of the oracle, one test an id.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[path = "cases/attributes.rs"]
mod attributes;
#[path = "cases/framing.rs"]
mod framing;
#[path = "cases/numbers.rs"]
mod numbers;
#[path = "cases/oracle.rs"]
mod oracle;
#[path = "cases/paths.rs"]
mod paths;
#[path = "cases/pax.rs"]
mod pax;
#[path = "cases/sparse.rs"]
mod sparse;
#[path = "cases/structure.rs"]
mod structure;
#[path = "cases/whiteouts.rs"]
mod whiteouts;

/// No case without a test.
#[test]
fn every_id_of_the_catalogue_is_tested() {
    let sources = [
        include_str!("cases/attributes.rs"),
        include_str!("cases/framing.rs"),
        include_str!("cases/numbers.rs"),
        include_str!("cases/paths.rs"),
        include_str!("cases/pax.rs"),
        include_str!("cases/sparse.rs"),
        include_str!("cases/structure.rs"),
        include_str!("cases/whiteouts.rs"),
    ];
    for case in erolith_tests::cases::all() {
        let call = format!("check(\"{}\")", case.id);
        assert!(sources.iter().any(|s| s.contains(&call)), "no test of {}", case.name());
    }
}

/// Name and file of each test that is named after a case id.
fn named_after_ids(dir: &Path, root: &Path, out: &mut BTreeSet<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            named_after_ids(&path, root, out);
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let Some((_, name)) = line.split_once("fn ") else { continue };
            let name = name.split('(').next().unwrap_or_default();
            let [letter, tens, ones, b'_', ..] = name.as_bytes() else { continue };
            if letter.is_ascii_lowercase() && tens.is_ascii_digit() && ones.is_ascii_digit() {
                out.insert((name.to_owned(), file.clone()));
            }
        }
    }
}

/// The row that CASES.md has for a test: ids, what holds, file.
fn row(name: &str, file: &str) -> String {
    let is_id = |word: &str| {
        word.len() == 3 && word[1..].bytes().all(|byte| byte.is_ascii_digit()) || word == "to"
    };
    let words: Vec<&str> = name.split('_').collect();
    let count = words.iter().take_while(|word| is_id(word)).count();
    let ids = words[..count].join(", ").to_uppercase().replace(", TO, ", " to ");
    format!("| {ids} | {} | `{file}` |", words[count..].join(" "))
}

#[test]
fn the_list_of_cases_is_that_of_the_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut tests = BTreeSet::new();
    for crate_dir in ["mkfs", "differ", "snapshotter", "tests"] {
        named_after_ids(&root.join(crate_dir), root, &mut tests);
    }
    let wanted: BTreeSet<String> = tests.iter().map(|(name, file)| row(name, file)).collect();
    let list = include_str!("../CASES.md");
    let is_case = |line: &&str| line.starts_with("| ") && line.ends_with("` |");
    let listed: BTreeSet<String> = list.lines().filter(is_case).map(str::to_owned).collect();
    let missing: Vec<_> = wanted.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&wanted).collect();
    assert!(missing.is_empty() && stale.is_empty(), "add {missing:#?}, remove {stale:#?}");
}
