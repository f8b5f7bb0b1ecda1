//! The Rust sources of the product, for tests that read them.

use std::fs;
use std::path::{Path, PathBuf};

/// Where they are, below the root of the repository.
pub const PRODUCT: [&str; 8] = [
    "src",
    "errors/src",
    "durable/src",
    "verity/src",
    "mkfs/src",
    "overlay/src",
    "differ/src",
    "snapshotter/src",
];

/// The root of the repository.
///
/// # Panics
///
/// If the crate of the tests lies in no directory.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the repository").to_owned()
}

/// The Rust sources below `path`, tests included; or `path`, if that is a file.
///
/// # Panics
///
/// If a directory cannot be read or there is no source.
#[must_use]
pub fn rust_files(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut rest = vec![path.to_owned()];
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("the directory is read");
            rest.extend(entries.map(|entry| entry.expect("the entry is read").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    assert!(!files.is_empty(), "no sources in {}", path.display());
    files
}

/// Whether a source has nothing but tests.
#[must_use]
pub fn is_of_tests(path: &Path) -> bool {
    let is_name = |name: &str| name == "tests" || name.ends_with("_tests");
    let path = path.strip_prefix(root()).unwrap_or(path).with_extension("");
    path.iter().filter_map(|name| name.to_str()).any(is_name)
}
