//! containerd's own tar apply against ours, over every crafted archive.
//!
//! Either both make the same tree, or both refuse, or the difference is in [`DEVIATIONS`] with its reason. A row there that
//! no longer differs fails the test as well.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use erolith_mkfs::build::Options;
use erolith_mkfs::image::Image;
use erolith_mkfs::io::Stream;
use erolith_tests::build;
use erolith_tests::cases::{self, Case};
use erolith_tests::containerd::{Applied, Oracle, comparable, now};
use erolith_tests::listing::Listing;
use erolith_tests::need;
use erolith_tests::scratch::Scratch;

/// How two answers to one archive differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Differ {
    /// We refuse what containerd takes.
    Stricter,
    /// We take what containerd refuses.
    Wider,
    /// We make another tree.
    Other,
}
use Differ::{Other, Stricter, Wider};

/// Every intended difference: the id, a word of the variant where only some variants differ, and why.
const DEVIATIONS: &[(&str, &str, Differ, &str)] = &[
    ("A05", "", Other, "overlay attributes of the input are escaped, so that they steer no mount"),
    ("A08", "65536", Stricter, "the format has 16 bits for the size of a value"),
    ("A08", "inode can hold", Stricter, "the format has 256 KiB for the attributes of an inode"),
    ("F21", "", Wider, "a contiguous file is a file"),
    ("F24", "is no path", Other, "containerd makes a directory of a global header's name"),
    ("F25", "", Stricter, "an extension header that describes nothing"),
    ("F26", "17", Stricter, "a member needs three of them at most"),
    ("N03", "", Stricter, "containerd cuts owners to 32 bits, which can make them root"),
    ("N04", "", Stricter, "chown takes -1 for 'leave as it is', which is root"),
    ("N05", "uid +5", Stricter, "POSIX has no sign here"),
    ("N05", "uid -5", Stricter, "no owner is negative"),
    ("N12", "", Other, "times before 1970 are kept; containerd makes them 1970"),
    ("N13", "", Other, "times after 2262 are kept; containerd makes them 1970"),
    ("P04", "", Stricter, "a member without a name"),
    ("P05", "link", Stricter, "the root is a directory"),
    ("P08", "2047 deep", Wider, "containerd's own root directory is part of the path it opens"),
    ("P08", "16 names", Wider, "containerd's own root directory is part of the path it opens"),
    ("S01", "", Wider, "old GNU sparse files hold nothing that could be misread"),
    ("S07", "10001", Stricter, "sparse maps are limited"),
    ("T06", "", Wider, "containerd fails to set the times of directories that are gone"),
    ("T09", "hides", Stricter, "containerd links the whiteout itself"),
    ("T20", "13 bits", Stricter, "Linux has 12 bits for a major number"),
    (
        "W01",
        "twice",
        Wider,
        "containerd makes the device twice; the order of whiteouts means nothing",
    ),
    (
        "W02",
        "then the whiteout",
        Wider,
        "containerd fails the pull; the order of members means nothing",
    ),
    (
        "W05",
        "",
        Other,
        "below an opaque directory there is nothing to hide, and overlayfs would list it",
    ),
    ("W08", "", Other, "containerd makes whiteouts of AUFS bookkeeping and keeps what is below"),
    ("W09", "", Stricter, "a whiteout is no directory"),
    (
        "W11",
        "then the directory",
        Other,
        "the lower directory was removed: the new one does not show its children",
    ),
    ("W11", "its whiteout", Wider, "containerd fails the pull; the order of members means nothing"),
    ("W11", "a file below", Wider, "containerd fails the pull; the directory is made anew"),
    ("W14", "", Other, "overlay attributes of the input are escaped, so that they steer no mount"),
    ("X03", "then", Stricter, "two names for one member"),
    ("X04", "", Stricter, "two targets for one member"),
    ("X05", "", Stricter, "two headers of one kind for one member"),
    (
        "X18",
        "LIBARCHIVE.xattr",
        Other,
        "bsdtar writes attributes under this name; containerd ignores them",
    ),
];

/// Not shown to containerd. It writes holes out as zeros, terabytes of them; and it sets a capability without a byte, which
/// cannot be read then: the kernel neither runs such a file nor copies it up.
const NOT_RUN: &[(&str, &str)] = &[("A13", "without a byte"), ("S06", ""), ("T23", "1 TiB")];

fn matches(case: &Case, (id, word): (&str, &str)) -> bool {
    case.id == id && case.variant.contains(word)
}

#[test]
fn containerd_makes_the_same_tree_or_the_difference_is_listed() {
    let oracle = need!(Oracle::find());
    let scratch = need!(Scratch::new(2 << 30));
    let mut cases = cases::all();
    // containerd knows no base layers.
    cases.sort_by_key(|case| case.id);
    cases.retain(|case| !case.base && !NOT_RUN.iter().any(|row| matches(case, *row)));
    let start = now();
    let archives = cases.iter().map(|case| case.archive.as_slice());
    let theirs = oracle.apply_each(archives, scratch.path()).unwrap();
    let mut used = BTreeSet::new();
    let (mut table, mut failures) = (String::new(), String::new());
    for (case, theirs) in cases.iter().zip(theirs) {
        let ours = ours(case, &scratch);
        let (verdict, detail) = compare(start, case, &ours, theirs.clone_tree());
        let row = DEVIATIONS.iter().position(|(id, word, differ, _)| {
            Some(*differ) == verdict && matches(case, (id, word))
        });
        let text = match (verdict, row.and_then(|row| DEVIATIONS.get(row))) {
            (None, _) => "same".to_owned(),
            (Some(differ), Some((.., why))) => format!("{differ:?}: {why}"),
            (Some(differ), None) => {
                let _ = writeln!(failures, "{}: {differ:?} and not listed: {detail}", case.name());
                format!("{differ:?}, NOT LISTED")
            }
        };
        used.extend(row);
        let theirs = match &theirs {
            Applied::Tree(_) => "tree",
            Applied::Refused(_) => "refused",
        };
        let ours = ours.map_or_else(|code| code, |_| "tree".to_owned());
        let name = case.name().chars().take(60).collect::<String>();
        let _ = writeln!(table, "{name:60} {theirs:10} {ours:28} {text}");
    }
    println!("{:60} {:10} {:28} verdict\n{table}", "case", "containerd", "erolith");
    for (i, row) in DEVIATIONS.iter().enumerate() {
        if !used.contains(&i) {
            let _ = writeln!(failures, "listed and no longer so: {row:?}");
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

fn ours(case: &Case, scratch: &Scratch) -> Result<Listing, String> {
    let path = scratch.join("ours");
    let built = build::from_tar(Stream(case.archive.as_slice()), &path, &Options::default());
    let listing = built.map_err(|e| e.code().to_owned()).map(|_| {
        let image = Image::open(std::fs::File::open(&path).unwrap(), Vec::new()).unwrap();
        Listing::from_image(&image).unwrap()
    });
    std::fs::remove_file(&path).unwrap();
    listing
}

fn compare(
    start: i64,
    case: &Case,
    ours: &Result<Listing, String>,
    theirs: Result<Listing, String>,
) -> (Option<Differ>, String) {
    match (ours, theirs) {
        (Err(_), Err(_)) => (None, String::new()),
        (Err(code), Ok(_)) => (Some(Stricter), code.clone()),
        (Ok(_), Err(message)) => (Some(Wider), message),
        (Ok(ours), Ok(theirs)) => {
            let (ours, theirs) = comparable(ours.clone(), theirs, start);
            match ours.diff(&theirs, ("erolith", "containerd")) {
                None => (None, String::new()),
                Some(text) => (Some(Other), format!("{}\n{text}", case.id)),
            }
        }
    }
}
