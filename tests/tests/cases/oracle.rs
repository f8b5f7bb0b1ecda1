//! How one id is checked: each variant is built from memory and from a file, and all readers read the result.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use erolith_mkfs::Error;
use erolith_mkfs::build::Options;
use erolith_mkfs::io::{FileInput, Stream};
use erolith_tests::build;
use erolith_tests::cases::{self, Case, Expect};
use erolith_tests::oracle::{Readers, Subject};

/// Tries every variant of an id.
pub(crate) fn check(id: &str) {
    let readers = Readers::new();
    // On a disk: the kernel mounts no image from a file of a tmpfs.
    let place = tempfile::tempdir().unwrap();
    for (i, case) in cases::of(id).iter().enumerate() {
        let dir = place.path().join(i.to_string());
        std::fs::create_dir(&dir).unwrap();
        try_case(case, &dir, &readers);
    }
}

fn try_case(case: &Case, dir: &Path, readers: &Readers) {
    let mut options = Options::default();
    options.layer.base = case.base;
    let image = dir.join("image");
    let built = build::from_tar(Stream(case.archive.as_slice()), &image, &options);
    let tar = dir.join("tar");
    File::create(&tar).and_then(|mut f| f.write_all(&case.archive)).unwrap();
    let from_file = dir.join("from-file");
    let input = FileInput::new(File::open(&tar).unwrap()).unwrap();
    let again = build::from_tar(input, &from_file, &options);
    match &case.expect {
        Expect::Refused(code) => {
            for result in [built.map(drop), again.map(drop)] {
                let got = result.as_ref().map_or_else(Error::code, |()| "an image");
                assert_eq!(got, *code, "{}: {result:?}", case.name());
            }
        }
        Expect::Tree(tree) => {
            built.unwrap_or_else(|e| panic!("{}: {e}", case.name()));
            again.unwrap_or_else(|e| panic!("{} from a file: {e}", case.name()));
            let name = case.name();
            readers.agree(Subject { image: &image, devices: &[], name: &name }, tree);
            let (a, b) = (std::fs::read(&image).unwrap(), std::fs::read(&from_file).unwrap());
            assert!(a == b, "{name}: another image from a file than from a stream");
        }
    }
}
