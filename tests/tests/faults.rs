//! Conversions that are killed, or run out of room, at every step: the destination shows the whole result or what it showed
//! before, and the next run succeeds and leaves nothing of the first behind.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use erolith_differ::convert::Options;
use erolith_durable::fault::LAYER_POINTS as POINTS;
use erolith_tests::layout::Layout;
use erolith_tests::scratch::Scratch;
use erolith_tests::tarball::Tarball;
use erolith_tests::{convert, need};

/// Tells [`child`] what to do: source and destination, one a line.
const ORDER: &str = "EROLITH_TESTS_CONVERT";

/// Not a test of its own: the process that is killed.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let (from, to) = order.split_once('\n').unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let options = Options { jobs: std::num::NonZeroUsize::MIN, ..Options::default() };
    convert::run(from, to, scratch.path(), &options).unwrap();
}

/// Converts in a process of its own, with these faults armed. Returns whether it said that it succeeded.
fn convert_with(from: &str, to: &str, faults: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--test-threads=1"])
        .env(ORDER, format!("{from}\n{to}"))
        .env("EROLITH_FAULTS", faults)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

/// Two layers; the second one has data, a whiteout, and a tail.
fn layers(word: &str) -> Vec<Vec<u8>> {
    let data = |len: usize| word.bytes().cycle().take(len).collect::<Vec<u8>>();
    vec![
        Tarball::new().dir("etc").file("etc/hosts", data(10)).file("big", data(200_000)).end(),
        Tarball::new().file("etc/.wh.hosts", b"").file("more", data(70_001)).end(),
    ]
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Layout::create(&dir.path().join("old"), &layers("old")).unwrap();
        Layout::create(&dir.path().join("new"), &layers("new")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self, name: &str) -> String {
        format!("oci:{}:latest", self.path(name).display())
    }

    /// A layout that holds the image `old`, converted.
    fn destination(&self, name: &str) -> Layout {
        let layout = Layout(self.path(name));
        let to = format!("oci:{}:old", layout.0.display());
        assert!(convert_with(&self.source("old"), &to, ""));
        layout
    }
}

/// What the layout shows under `name` is whole, or nothing.
fn whole(layout: &Layout, name: &str, context: &str) -> bool {
    let manifest = layout.manifest(name).unwrap_or_else(|e| panic!("{context}: {name}: {e}"));
    if let Some(manifest) = &manifest {
        layout.verify(manifest).unwrap_or_else(|e| panic!("{context}: {name}: {e}"));
    }
    manifest.is_some()
}

/// Every point of a conversion into a layout or into an archive, twice: layers and documents pass some of them repeatedly.
fn faults(archive: bool, action: &str) -> Vec<String> {
    let passed = |point: &&&str| {
        !point.starts_with("output.") && (archive || !point.starts_with("archive."))
    };
    let points = POINTS.iter().filter(passed);
    points.flat_map(|point| [1, 2].map(|visit| format!("{point}={action}:{visit}"))).collect()
}

fn break_layouts(action: &str) {
    let bench = Bench::new();
    let reference = bench.destination("reference");
    let to = |layout: &Layout| format!("oci:{}:new", layout.0.display());
    assert!(convert_with(&bench.source("new"), &to(&reference), ""));
    let mut stopped = 0;
    for (i, fault) in faults(false, action).iter().enumerate() {
        let layout = bench.destination(&format!("broken-{i}"));
        let said_yes = convert_with(&bench.source("new"), &to(&layout), fault);
        stopped += usize::from(!said_yes);
        assert!(whole(&layout, "old", fault), "{fault}: the image that was there is gone");
        let there = whole(&layout, "new", fault);
        assert!(there || !said_yes, "{fault}: success, and no image");
        assert!(
            convert_with(&bench.source("new"), &to(&layout), ""),
            "{fault}: the next run fails"
        );
        assert!(whole(&layout, "new", fault) && whole(&layout, "old", fault), "{fault}");
        assert_eq!(layout.files().unwrap(), reference.files().unwrap(), "{fault}: leftovers");
        std::fs::remove_dir_all(&layout.0).unwrap();
    }
    assert!(stopped >= POINTS.len() / 2, "only {stopped} faults happened");
}

#[test]
fn a_kill_at_any_step_leaves_the_old_or_the_new() {
    break_layouts("kill");
}

#[test]
fn no_space_at_any_step_leaves_the_old_or_the_new() {
    break_layouts("error(ENOSPC)");
}

#[test]
fn an_io_error_at_any_step_leaves_the_old_or_the_new() {
    break_layouts("error(EIO)");
}

#[test]
fn an_archive_appears_whole_or_not_at_all() {
    let bench = Bench::new();
    let to = |path: &Path| format!("oci-archive:{}:new", path.display());
    let reference = bench.path("reference.tar");
    assert!(convert_with(&bench.source("new"), &to(&reference), ""));
    let expected = std::fs::read(&reference).unwrap();
    for action in ["kill", "error(ENOSPC)"] {
        for fault in faults(true, action) {
            let dir = bench.path("archive");
            std::fs::create_dir(&dir).unwrap();
            let path = dir.join("image.tar");
            let said_yes = convert_with(&bench.source("new"), &to(&path), &fault);
            let now = std::fs::read(&path).ok();
            assert!(now.is_some() || !said_yes, "{fault}: success, and no archive");
            assert!(now.is_none_or(|bytes| bytes == expected), "{fault}: half an archive");
            assert!(
                convert_with(&bench.source("new"), &to(&path), ""),
                "{fault}: the next run fails"
            );
            assert!(std::fs::read(&path).unwrap() == expected, "{fault}");
            let names: Vec<_> =
                std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["image.tar"], "{fault}: leftovers");
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
}

/// The real thing: a small file system that fills up, wherever that happens to be.
#[test]
fn a_full_file_system_leaves_nothing_and_the_next_run_succeeds() {
    let bench = Bench::new();
    let mut failures = 0;
    for room in (16..=640).step_by(48) {
        let scratch = need!(Scratch::new(1 << 20));
        let ballast = scratch.join("ballast");
        let mut file = File::create(&ballast).unwrap();
        file.write_all(&vec![1; (1 << 20) - (room << 10)]).unwrap();
        drop(file);
        let layout = Layout(scratch.join("layout"));
        let to = format!("oci:{}:new", layout.0.display());
        let temp = tempfile::tempdir().unwrap();
        let run = || convert::run(&bench.source("new"), &to, temp.path(), &Options::default());
        let context = format!("{room} KiB");
        match run() {
            Ok(_) => assert!(whole(&layout, "new", &context), "{context}: success, and no image"),
            Err(why) => {
                failures += 1;
                assert!(!whole(&layout, "new", &context), "{context}: {why}, and an image");
            }
        }
        std::fs::remove_file(&ballast).unwrap();
        run().unwrap_or_else(|e| panic!("{context}: with room again: {e}"));
        assert!(whole(&layout, "new", &context));
    }
    assert!(failures > 3, "only {failures} conversions ran out of room");
}
