//! `erolith diff` as its users meet it.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::PathBuf;

use erolith_tests::layout::Layout;
use erolith_tests::need;
use erolith_tests::program::{Program, text};
use erolith_tests::tarball::Tarball;
use serde_json::{Value, json};

const EROLITH: Program = Program(env!("CARGO_BIN_EXE_erolith"));

/// An image, and the same with a layer more.
struct Images {
    dir: tempfile::TempDir,
}

impl Images {
    fn new() -> Self {
        let images = Self { dir: tempfile::tempdir().unwrap() };
        let base = Tarball::new()
            .dir("etc")
            .file("etc/gone", b"2")
            .file("etc/hosts", b"1")
            .file("etc/kept", b"kept")
            .dir("opt")
            .file("opt/old", b"old")
            .end();
        // The change does not describe /etc: it is as it was.
        let change = Tarball::new()
            .file("etc/hosts", b"changed")
            .file("etc/.wh.gone", b"")
            .dir("opt")
            .file("opt/.wh..wh..opq", b"")
            .file("opt/new\x1b", b"new")
            .hardlink("opt/same", "opt/new\x1b")
            .end();
        let old = Layout::create(&images.path("old"), std::slice::from_ref(&base)).unwrap();
        old.with_layer(&images.path("new"), &change).unwrap();
        fs::write(images.path("base.tar"), base).unwrap();
        images
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn oci(&self, name: &str) -> String {
        format!("oci:{}", self.at(name))
    }
}

#[test]
fn changes_between_images_are_lines_sums_and_objects() {
    let images = Images::new();
    let (old, new) = (images.oci("old"), images.oci("new"));
    let printed = EROLITH.printed(&["diff", &old, &new]);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(
        lines,
        [
            "D                  1 B  /etc/gone",
            "C  content  1 B -> 7 B  /etc/hosts",
            r"A                  3 B  /opt/new\033",
            "D                  3 B  /opt/old",
            r"A                  3 B  /opt/same (link to /opt/new\033)",
        ]
    );
    let sums = EROLITH.printed(&["diff", "--stat", "--json", &old, &new]);
    let sums: Value = serde_json::from_str(&sums).unwrap();
    let opt = json!({ "path": "/opt", "added": 2, "changed": 0, "removed": 1, "bytes_written": 3 });
    assert_eq!(sums["directories"][1], opt, "{sums}");
    assert_eq!((&sums["changed"], &sums["bytes_written"]), (&json!(1), &json!(10)));
    let table = EROLITH.printed(&["diff", "--stat", &old, &new]);
    assert_eq!(table.lines().last().unwrap(), "    2        1        2     10 B  all");
    let objects = EROLITH.printed(&["diff", "--json", &new, &old]);
    let objects: Vec<Value> = objects.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(objects.len(), 5);
    let hosts = json!({
        "change": "changed", "path": "/etc/hosts", "type": "file", "in": ["content"], "oldSize": 7, "size": 1,
    });
    assert_eq!(objects[1], hosts);
}

#[test]
fn trees_are_told_from_each_other_in_whatever_form_they_are() {
    let images = Images::new();
    EROLITH.printed(&[
        "mkfs",
        "--quiet",
        "--tar",
        &images.at("base.erofs"),
        &images.at("base.tar"),
    ]);
    EROLITH.printed(&["extract", &images.at("base.erofs"), &images.at("dir")]);
    let forms =
        [images.oci("old"), images.at("base.tar"), images.at("base.erofs"), images.at("dir")];
    for old in &forms {
        for new in &forms {
            // Without root, files are extracted as the caller's.
            assert_eq!(EROLITH.printed(&["diff", "--exit-code", old, new]), "", "{old} {new}");
        }
        let out = EROLITH.run(&["diff", "--exit-code", old, &images.oci("new")]);
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
        assert_eq!(text(&out.stdout).lines().count(), 5);
    }
}

#[test]
fn what_cannot_be_compared_is_named() {
    let images = Images::new();
    fs::write(images.path("noise"), vec![0x55; 10_000]).unwrap();
    let old = images.oci("old");
    for (args, code, word) in [
        (vec!["diff", &old], 2, "NEW"),
        (vec!["diff", "--snapshot", "k", &old, &old], 2, "--snapshot"),
        (vec!["diff", &old, "oci:/no/such"], 5, "/no/such"),
        (vec!["diff", &old, "/no/such"], 5, "/no/such"),
        (vec!["diff", &old, &images.at("noise")], 3, "noise"),
        (vec!["diff", "--snapshot", "k", "--address", "/no/such"], 5, "/no/such"),
    ] {
        let out = EROLITH.run(&args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    }
}

/// The same image twice, once as archives and once as EROFS.
#[test]
fn a_converted_image_is_the_same_image() {
    let image = need!(Layout::real_image());
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (old, new) =
        (format!("oci:{}", image.0.display()), format!("oci:{}/new", dir.path().display()));
    EROLITH.printed(&["convert", "--quiet", &old, &new]);
    assert_eq!(EROLITH.printed(&["diff", "--exit-code", &old, &new]), "");
}
