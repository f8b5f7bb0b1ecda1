//! What the kernel shows is judged in `tests/tests/compare.rs`; here is what it does not make, or not always.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use tempfile::TempDir;

use super::{Change, ChangeKind, DiffOptions, Differences, Marks, OverlayLayer, Stack, changes};
use crate::Error;

fn layer(dir: &Path) -> Arc<OverlayLayer> {
    OverlayLayer::dir(File::open(dir).unwrap().into())
}

struct Site {
    dir: TempDir,
    lowers: Stack,
    all: Stack,
}

impl Site {
    fn new() -> Self {
        let dir = TempDir::with_prefix_in("erolith-overlay-", "/var/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["lower", "upper"] {
            fs::create_dir(at(name)).unwrap();
        }
        let lowers = Stack::new(vec![layer(&at("lower"))], Marks::User);
        let all = lowers.with_upper(layer(&at("upper")));
        Self { dir, lowers, all }
    }

    fn dirs(&self, names: &[&str]) {
        names.iter().for_each(|name| fs::create_dir_all(self.dir.path().join(name)).unwrap());
    }

    fn file(&self, name: &str) {
        File::create(self.dir.path().join(name)).unwrap();
    }

    fn mark(&self, name: &str, mark: &str, value: &[u8]) {
        let (path, flags) = (self.dir.path().join(name), XattrFlags::empty());
        setxattr(path, format!("user.overlay.{mark}"), value, flags).unwrap();
    }

    fn changes(&self) -> Result<Vec<Change>, Error> {
        changes(&self.lowers, &self.all, &DiffOptions::default(), || Ok(()))
    }

    /// Paths with a sign for what became of them; `=` for what only leads to others.
    fn said(&self) -> Vec<String> {
        let line = |change: &Change| {
            let sign = match change.what {
                ChangeKind::Added => '+',
                ChangeKind::Removed => '-',
                // Whether two directories were made in the same tick of the clock does not count.
                ChangeKind::Kept | ChangeKind::Modified(Differences { content: false, .. }) => '=',
                ChangeKind::Modified(_) => '*',
            };
            let hides = if change.hides { " opaque" } else { "" };
            format!("{sign}{}{hides}", String::from_utf8_lossy(&change.path))
        };
        self.changes().unwrap().iter().skip(1).map(line).collect()
    }
}

#[test]
fn whiteouts_in_both_forms_remove_what_is_there_and_nothing_else() {
    let site = Site::new();
    site.dirs(&["lower/d", "upper/d"]);
    for name in ["lower/d/one", "lower/d/two", "upper/d/two", "upper/d/no"] {
        site.file(name);
    }
    for name in ["upper/d/one", "upper/d/nothing"] {
        let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
        if mknodat(CWD, site.dir.path().join(name), kind, mode, 0).is_err() {
            eprintln!("skipped: whiteouts need root or Linux 5.8");
            return;
        }
    }
    site.mark("upper/d/two", "whiteout", b"");
    site.mark("upper/d/no", "whiteout", b"");
    let said = site.said();
    assert_eq!(said, ["=d", "-d/one", "-d/two"]);
}

#[test]
fn opaque_says_y() {
    let site = Site::new();
    site.dirs(&["lower/x", "lower/y", "upper/x", "upper/y"]);
    for name in ["lower/x/a", "lower/y/a", "upper/x/b", "upper/y/b"] {
        site.file(name);
    }
    site.mark("upper/x", "opaque", b"x");
    site.mark("upper/y", "opaque", b"y");
    assert_eq!(site.said(), ["=x", "+x/b", "*y opaque", "+y/b"]);
}

#[test]
fn a_redirect_shows_what_it_leads_to_wherever_that_is() {
    let site = Site::new();
    site.dirs(&["lower/a/b", "lower/new", "upper/new", "upper/a", "upper/a/c", "upper/lost"]);
    for name in ["lower/a/b/file", "lower/new/hidden", "upper/new/more"] {
        site.file(name);
    }
    site.mark("upper/new", "redirect", b"/a/b");
    site.mark("upper/a/c", "redirect", b"b");
    site.mark("upper/lost", "redirect", b"/a/b/file/x");
    let said = site.said();
    let expected = ["=a", "+a/c", "+a/c/file", "+lost", "*new opaque", "+new/file", "+new/more"];
    assert_eq!(said, expected);
}

#[test]
fn what_lower_layers_refer_to_is_refused() {
    for mark in ["redirect", "metacopy"] {
        let site = Site::new();
        site.dirs(&["lower/d", "upper/d"]);
        site.mark("lower/d", mark, b"/elsewhere");
        let error = site.changes().unwrap_err();
        assert_eq!(error.code(), "overlay-unsupported", "{mark}: {error}");
    }
}

#[test]
fn it_can_be_called_off() {
    let site = Site::new();
    site.file("upper/file");
    let stop = || Err(Error::from(erolith_mkfs::Error::Options("enough")));
    let error = changes(&site.lowers, &site.all, &DiffOptions::default(), stop).unwrap_err();
    assert_eq!(error.code(), "bad-options");
}
