//! The dependencies between the rooms, `src -> {snapshotter, differ} -> overlay -> mkfs -> {verity, durable}`, and what
//! each room must not know.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use erolith_tests::sources::{PRODUCT, is_of_tests, root, rust_files};

/// Each crate, and those of ours that it may depend on.
const MAY_DEPEND_ON: [(&str, &[&str]); 8] = [
    ("errors", &[]),
    ("durable", &[]),
    ("verity", &["errors"]),
    ("mkfs", &["errors", "durable", "verity"]),
    ("overlay", &["errors", "mkfs"]),
    ("differ", &["errors", "durable", "overlay", "mkfs", "verity"]),
    ("snapshotter", &["errors", "durable", "overlay", "mkfs", "verity"]),
    (".", &["errors", "verity", "mkfs", "overlay", "differ", "snapshotter"]),
];

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

/// Every Rust source below a directory, with its text; or the one file.
fn sources(path: &Path) -> Vec<(PathBuf, String)> {
    let with_text = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    rust_files(path).into_iter().map(with_text).collect()
}

/// A source without its comments, its tests at the end, and test-only modules.
fn product(path: &Path, text: &str) -> String {
    if is_of_tests(path) {
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
    for (dir, allowed) in MAY_DEPEND_ON {
        let all = dependencies(&root().join(dir).join("Cargo.toml"));
        let used: BTreeSet<_> = ["dependencies", "build-dependencies"]
            .iter()
            .filter_map(|section| all.get(*section))
            .flatten()
            .filter_map(|dependency| dependency.strip_prefix("erolith-"))
            .collect();
        for dependency in used {
            assert!(allowed.contains(&dependency), "{dir} depends on {dependency}");
        }
    }
}

#[test]
fn siblings_do_not_use_each_other_even_in_tests() {
    assert_eq!(found(&root().join("differ"), &["erolith_snapshotter"]), [""; 0]);
    assert_eq!(found(&root().join("snapshotter"), &["erolith_differ"]), [""; 0]);
}

#[test]
fn bytes_know_no_runtime_no_host_path_and_no_clock() {
    let rooms = ["errors", "verity", "mkfs", "overlay"];
    for room in rooms {
        let manifest = dependencies(&root().join(room).join("Cargo.toml"));
        for banned in ["tokio", "nix", "libc", "tempfile", "anyhow", "oci-spec"] {
            assert!(
                !manifest.get("dependencies").is_some_and(|all| all.contains(banned)),
                "{room} depends on {banned}"
            );
        }
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
    for room in rooms {
        let mut lines = found(&root().join(room).join("src"), &banned);
        // It waits for the clock that the times of files come from. No time of its own gets anywhere.
        let waits =
            |line: &str| line.contains("overlay/src/directory.rs") && line.contains("Duration");
        lines.retain(|line| !waits(line));
        assert_eq!(lines, [""; 0]);
    }
}

/// The binary restores no trees: that is `differ/src/extract`.
#[test]
fn the_binary_makes_no_nodes_and_sets_no_attributes_of_files() {
    let calls = ["mknodat", "symlinkat", "chownat", "fchown", "setxattr", "utimensat", "futimens"];
    assert_eq!(found(&root().join("src"), &calls), [""; 0]);
}

#[test]
fn verity_knows_no_erofs_and_mkfs_no_directory_of_the_host() {
    let erofs = ["erofs", "Superblock", "Inode", "Dirent", "blkszbits"];
    assert_eq!(found(&root().join("verity/src"), &erofs), [""; 0]);
    assert_eq!(
        found(&root().join("mkfs/src"), &["rustix::fs::Dir", "openat2", "llistxattr"]),
        [""; 0]
    );
}

/// Two readers of one mark would part at the first change of the kernel.
#[test]
fn one_file_says_what_the_marks_of_overlayfs_are_called() {
    let words = [
        "trusted.overlay.",
        "user.overlay.",
        "user.fuseoverlayfs",
        "overlay.opaque",
        "\"overlay.",
        "b\"opaque\"",
        "b\"redirect\"",
        "b\"metacopy\"",
        "b\"whiteout\"",
        "rdev == (0, 0)",
    ];
    let mut lines: Vec<_> =
        PRODUCT.iter().flat_map(|dir| found(&root().join(dir), &words)).collect();
    lines.retain(|line| !line.contains("mkfs/src/marks.rs"));
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
    for dir in PRODUCT {
        let mut lines = found(&root().join(dir), &["Command::new", "process::Command"]);
        lines.retain(|line| !allowed.iter().any(|path| line.contains(path)));
        assert_eq!(lines, [""; 0]);
    }
}

#[test]
fn unsafe_code_is_only_in_sys() {
    for dir in PRODUCT.into_iter().chain(["tests/src"]) {
        for line in found(&root().join(dir), &["unsafe {", "unsafe fn", "unsafe impl"]) {
            assert!(line.contains("/sys/") || line.contains("/sys.rs"), "{line}");
        }
    }
}

/// Every image that gets a name in a directory takes the same last steps: protected, cancelled, sidecar, named.
#[test]
fn images_get_their_sidecar_and_name_in_one_place() {
    for dir in ["src", "differ/src"] {
        for call in ["sidecar::publish(", ".publish_protected("] {
            let mut lines = found(&root().join(dir), &[call]);
            lines.retain(|line| !line.contains("apply/finish.rs") && !line.contains("/publish.rs"));
            assert_eq!(lines, [""; 0]);
        }
    }
}

/// The files of the product with a line that contains one of `words`, relative to the root.
fn files_with(words: &[&str]) -> BTreeSet<String> {
    let lines = PRODUCT.iter().flat_map(|dir| found(&root().join(dir), words));
    let prefix = format!("{}/", root().display());
    lines.map(|line| line.replace(&prefix, "").split(": ").next().unwrap().to_owned()).collect()
}

#[test]
fn files_are_published_in_one_module() {
    for word in ["OFlags::TMPFILE", ".erolith-new-", "EROLITH_FAULTS"] {
        let files = files_with(&[word]);
        assert!(files.iter().all(|file| file.starts_with("durable/")), "{word}: {files:?}");
        assert_eq!(files.len(), 1, "{word}");
    }
}

#[test]
fn mounts_of_containerd_are_read_and_written_in_one_room() {
    for word in ["\"lowerdir", "\"upperdir", "\"workdir", "lowerdir=", "upperdir=", "workdir="] {
        let mut files = files_with(&[word]);
        // The parameter of fsconfig(2) that takes one layer by its descriptor.
        files.retain(|file| word != "\"lowerdir" || !KERNEL_CALLS.contains(&file.as_str()));
        let wrong: Vec<_> =
            files.iter().filter(|file| !file.starts_with("snapshotter/src/api_mounts/")).collect();
        assert_eq!(wrong, [""; 0], "{word}");
    }
    assert_eq!(files_with(&["\"upperdir"]).len(), 1);
    for file in KERNEL_CALLS {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert_eq!(text.matches("\"lowerdir\"").count(), 0, "{file}");
    }
}

/// Files that give overlayfs its layers one by one.
const KERNEL_CALLS: [&str; 3] = [
    "snapshotter/src/kernel/overlay.rs",
    "snapshotter/src/kernel/probe.rs",
    "snapshotter/src/mounts/perform.rs",
];

/// Each format is known by its first bytes in one file: compressed blobs in differ, images in mkfs.
#[test]
fn one_file_knows_how_a_format_begins() {
    for (magic, file) in [
        ("0x1f,0x8b", "differ/src/blob_kind.rs"),
        ("0x28,0xb5,0x2f,0xfd", "differ/src/blob_kind.rs"),
        ("0xe0f5e1e2", "mkfs/src/format/superblock.rs"),
    ] {
        let mut files = BTreeSet::new();
        for dir in PRODUCT {
            for (path, text) in sources(&root().join(dir)) {
                let code = product(&path, &text).to_lowercase().replace(['_', ' ', '\n'], "");
                if code.contains(magic) {
                    files.insert(path);
                }
            }
        }
        assert_eq!(files, BTreeSet::from([root().join(file)]), "{magic}");
    }
}

/// A message leaves its source to the chain of causes, and families of errors are small.
#[test]
fn errors_are_small_families_that_do_not_print_their_sources() {
    for dir in PRODUCT {
        let mut lines = found(&root().join(dir), &["{source}", "{source:"]);
        lines.retain(|line| line.contains("error("));
        assert_eq!(lines, [""; 0]);
    }
    for dir in PRODUCT {
        for (path, text) in sources(&root().join(dir)) {
            for table in text.split("error_table! {\n").skip(1) {
                let table = table.split("\n}\n").next().unwrap_or_default();
                let rows = table.matches("\n            code: ").count();
                assert!(rows <= 12, "{}: {rows} rows: {table}", path.display());
            }
        }
    }
    assert_eq!(found(&root().join("src/exit.rs"), &[".contains("]), [""; 0]);
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

/// Words that say nothing of what a type is.
const FUNCTION_WORDS: &str =
    "How What At Way Said Told Came Asked Each Holds Fed Beyond Behind Below OfLayer Stop";

/// Words that had several meanings. At most one type has each as its whole name.
const ONE_MEANING: &str =
    "Seal Verity Tree Fault Source Place Layer Found Written Lowers Lower How Wanted Shape";

/// Every type that a file of the product defines, with the file.
fn types() -> Vec<(String, PathBuf)> {
    let mut out = Vec::new();
    for dir in PRODUCT {
        for (path, text) in sources(&root().join(dir)) {
            if is_of_tests(&path) {
                continue;
            }
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for line in code.lines() {
                let mut words = line.split_whitespace().skip_while(|w| w.starts_with("pub"));
                let is_type = matches!(words.next(), Some("struct" | "enum" | "trait" | "type"));
                let Some(name) = words.next().filter(|_| is_type) else { continue };
                let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
                // The name in a macro is that of its parameter.
                if end == 0 {
                    continue;
                }
                out.push((name[..end].to_owned(), path.clone()));
            }
        }
    }
    assert!(out.len() > 500, "only {} types found", out.len());
    out
}

#[test]
fn no_type_is_named_by_a_function_word() {
    let banned: BTreeSet<&str> = FUNCTION_WORDS.split(' ').collect();
    let named: Vec<_> =
        types().into_iter().filter(|(name, _)| banned.contains(name.as_str())).collect();
    assert!(named.is_empty(), "{named:?}");
}

#[test]
fn words_that_had_several_meanings_name_one_type_at_most() {
    let types = types();
    for word in ONE_MEANING.split(' ') {
        let at: Vec<_> = types.iter().filter(|(name, _)| name == word).collect();
        assert!(at.len() <= 1, "{at:?}");
    }
}

/// Names of differ that other rooms use too: those that are said with their module, and those of whole crates.
const SHARED_WITH_DIFFER: &str = "Action Algorithm Applied Armed Change Compression Config Digest Dir Err Error Hasher Index \
     Options Output Report Request Result Share Staging Times Worker";

#[test]
fn types_of_differ_have_names_of_their_own() {
    let mut files = BTreeMap::<String, BTreeSet<PathBuf>>::new();
    for (name, path) in types() {
        files.entry(name).or_default().insert(path);
    }
    let is_of_differ = |path: &PathBuf| path.starts_with(root().join("differ"));
    files.retain(|_, paths| paths.len() > 1 && paths.iter().any(is_of_differ));
    files.retain(|name, _| !SHARED_WITH_DIFFER.split_whitespace().any(|shared| shared == name));
    assert!(files.is_empty(), "{files:#?}");
}

/// The glossary is short, and each type that it names exists.
#[test]
fn the_glossary_names_types_that_exist() {
    let known: BTreeSet<String> = types().into_iter().map(|(name, _)| name).collect();
    let text = fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!((1..=60).contains(&rows.len()), "{} terms", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        for name in cells[2].split(", ") {
            assert!(known.contains(name.trim_matches('`')), "no type {name}: {row}");
        }
    }
}

/// A number that does not fit is a fault of the plan: the writer fails, and writes no other number in its place.
#[test]
fn the_writer_saturates_nothing() {
    for room in ["mkfs/src/plan", "mkfs/src/emit"] {
        let found = found(&root().join(room), &["unwrap_or(0)", "unwrap_or(u", "saturating_sub"]);
        assert!(found.is_empty(), "{found:#?}");
    }
}

/// Words that hide what acts, in comments.
const VAGUE: &str = "nobody somebody whoever everybody meanwhile vouch vouches";

/// First words of a question.
const QUESTIONS: &str = "Is Are Was Were Do Does Did Has Have Can May Must Should";

/// A comment says what acts and what holds: it is no question, and has no vague subject.
#[test]
fn comments_are_plain_statements() {
    let mut bad = Vec::new();
    let rooms = PRODUCT.map(|dir| dir.trim_end_matches("/src"));
    for dir in rooms.into_iter().chain(["tests"]) {
        for (path, text) in sources(&root().join(dir)) {
            for line in text.lines().map(str::trim).filter(|line| line.starts_with("//")) {
                let comment = line.trim_start_matches(['/', '!']).trim();
                let lower = comment.to_lowercase();
                // The user of that name is none of them.
                let words = lower.replace("`nobody`", "").replace("\"nobody\"", "");
                let is_vague = words
                    .split(|c: char| !c.is_alphanumeric())
                    .any(|word| VAGUE.split(' ').any(|vague| vague == word));
                let first = comment.split(' ').next().unwrap_or_default();
                let is_question = comment.contains('?') && QUESTIONS.split(' ').any(|q| q == first);
                if is_vague || is_question || lower.contains("called off") {
                    bad.push(format!("{}: {comment}", path.display()));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}
