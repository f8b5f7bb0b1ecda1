//! The dependencies between the rooms: `src -> {snapshotter, differ} -> mkfs`, and what each room must not know.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each crate, and those of ours that it may depend on.
const MAY_DEPEND_ON: [(&str, &[&str]); 4] = [
    ("erolith-mkfs", &[]),
    ("erolith-differ", &["erolith-mkfs"]),
    ("erolith-snapshotter", &["erolith-mkfs"]),
    ("erolith", &["erolith-mkfs", "erolith-differ", "erolith-snapshotter"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Names of the dependencies of a manifest by section: `dependencies`, `dev-dependencies`, `build-dependencies`.
fn dependencies(manifest: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut out = BTreeMap::<String, BTreeSet<String>>::new();
    let mut section = String::new();
    for line in fs::read_to_string(manifest).unwrap().lines() {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
            // `[dependencies.NAME]` is an entry by itself.
            if let Some((table, name)) = section.clone().rsplit_once('.') {
                out.entry(table.to_owned()).or_default().insert(name.to_owned());
            }
        } else if let Some((name, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            let name = name.trim().trim_end_matches(".workspace").to_owned();
            out.entry(section.clone()).or_default().insert(name);
        }
    }
    out
}

/// Every Rust source below a directory.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut out = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!out.is_empty(), "no sources in {}", dir.display());
    out
}

/// A source without its comments, its tests at the end, and test-only modules.
fn product(path: &Path, text: &str) -> String {
    if path.components().any(|c| c.as_os_str() == "tests") || path.ends_with("tests.rs") {
        return String::new();
    }
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every line of product code below `dir` that contains one of `words`.
fn found(dir: &Path, words: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    for (path, text) in sources(dir) {
        for line in product(&path, &text).lines() {
            if words.iter().any(|word| line.contains(word)) {
                out.push(format!("{}: {}", path.display(), line.trim()));
            }
        }
    }
    out
}

#[test]
fn dependencies_point_one_way() {
    let dirs = [
        ("erolith-mkfs", "mkfs"),
        ("erolith-differ", "differ"),
        ("erolith-snapshotter", "snapshotter"),
        ("erolith", "."),
    ];
    for (name, allowed) in MAY_DEPEND_ON {
        let (_, dir) = dirs.iter().find(|(n, _)| *n == name).unwrap();
        let all = dependencies(&root().join(dir).join("Cargo.toml"));
        let used: BTreeSet<_> = ["dependencies", "build-dependencies"]
            .iter()
            .filter_map(|section| all.get(*section))
            .flatten()
            .filter(|dependency| dependency.starts_with("erolith"))
            .collect();
        for dependency in used {
            assert!(allowed.contains(&dependency.as_str()), "{name} depends on {dependency}");
        }
    }
}

#[test]
fn siblings_do_not_use_each_other_even_in_tests() {
    assert_eq!(found(&root().join("differ"), &["erolith_snapshotter"]), [""; 0]);
    assert_eq!(found(&root().join("snapshotter"), &["erolith_differ"]), [""; 0]);
}

#[test]
fn mkfs_knows_no_runtime_no_host_path_and_no_clock() {
    let manifest = dependencies(&root().join("mkfs/Cargo.toml"));
    for banned in ["tokio", "nix", "libc", "tempfile", "anyhow", "oci-spec"] {
        assert!(!manifest["dependencies"].contains(banned), "mkfs depends on {banned}");
    }
    let banned = [
        "std::path",
        "std::env",
        "std::net",
        "std::process",
        "std::time",
        "PathBuf",
        "SystemTime",
        "Instant::",
        "fs::read(",
        "fs::write(",
        "File::open(",
        "File::create(",
        "tokio",
        "HashMap",
    ];
    let mut lines = found(&root().join("mkfs/src"), &banned);
    // It waits for the clock that the times of files come from. No time of its own gets anywhere.
    lines.retain(|line| !line.contains("mkfs/src/directory.rs") || !line.contains("Duration"));
    assert_eq!(lines, [""; 0]);
}

#[test]
fn the_product_starts_no_program_but_those_of_its_users_mkfs_ext4_and_itself() {
    let allowed = [
        "differ/src/sys/process.rs",
        "differ/src/sandbox/process.rs",
        "snapshotter/src/uppers/mkfs.rs",
        "src/cli/sign.rs",
    ];
    for dir in ["src", "mkfs/src", "differ/src", "snapshotter/src"] {
        let mut lines = found(&root().join(dir), &["Command::new", "process::Command"]);
        lines.retain(|line| !allowed.iter().any(|path| line.contains(path)));
        assert_eq!(lines, [""; 0]);
    }
}

#[test]
fn unsafe_code_is_only_in_sys() {
    for dir in ["src", "mkfs/src", "differ/src", "snapshotter/src", "tests/src"] {
        for line in found(&root().join(dir), &["unsafe {", "unsafe fn", "unsafe impl"]) {
            assert!(line.contains("/sys/") || line.contains("/sys.rs"), "{line}");
        }
    }
}

fn lines_of(document: &str) -> usize {
    fs::read_to_string(root().join(document)).unwrap().lines().count()
}

/// A stranger reads the first two documents whole, so they stay short; the rest is found from the index.
#[test]
fn documents_are_short_and_found_from_the_first() {
    assert!(lines_of("README.md") <= 70, "README.md");
    assert!(lines_of("ARCHITECTURE.md") <= 150, "ARCHITECTURE.md");
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("(docs/{name})")), "README.md has no link to docs/{name}");
    }
    let install = fs::read_to_string(root().join("docs/install.md")).unwrap();
    let steps: Vec<&str> = install.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let numbers: Vec<&str> = steps.iter().map(|step| &step[..2]).collect();
    assert_eq!(numbers, ["0.", "1.", "2.", "3.", "4.", "5."], "{steps:?}");
}
