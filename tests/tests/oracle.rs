//! Generated trees, as archives and as directories, with all options that change the layout of an image,
//! through all readers of the oracle.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use erolith_mkfs::build::Options;
use erolith_mkfs::io::{FileInput, Stream};
use erolith_tests::build;
use erolith_tests::listing::Listing;
use erolith_tests::need;
use erolith_tests::oracle::{Readers, Subject};
use erolith_tests::scratch::Scratch;
use erolith_tests::spec::{Spec, trees};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};

/// Runs `test` on this many generated trees, or as many as `PROPTEST_CASES` says.
fn on_trees<T: std::fmt::Debug>(
    cases: u32,
    strategy: impl Strategy<Value = T>,
    test: impl Fn(T) -> TestCaseResult,
) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    // A tree that fails is printed whole; shrinking it needs all readers again for each step.
    let config = ProptestConfig {
        cases,
        max_shrink_iters: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new(config).run(&strategy, test).unwrap_or_else(|e| panic!("{e}"));
}

/// Options that change where things are and not what they are.
fn layouts() -> impl Strategy<Value = Options> {
    (9..=12_u8, any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(0..4_u64)).prop_map(
        |(block_bits, inline_data, holes, force_extended, share_xattrs_above)| Options {
            block_bits,
            inline_data,
            holes,
            force_extended,
            share_xattrs_above,
            ..Options::default()
        },
    )
}

fn show(readers: &Readers, image: &Path, devices: &[&Path], spec: &Spec, options: &Options) {
    let name = format!("blocks of {} {options:?}", 1 << options.block_bits);
    readers.agree(Subject { image, devices, name: &name }, &spec.listing());
}

#[test]
fn all_readers_agree_on_generated_archives() {
    let readers = Readers::new();
    on_trees(80, (trees(60), layouts(), any::<bool>()), |(spec, options, sparse)| {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let tar = spec.tar(sparse);
        build::from_tar(Stream(tar.as_slice()), &image, &options).unwrap();
        show(&readers, &image, &[], &spec, &options);
        Ok(())
    });
}

#[test]
fn all_readers_agree_on_indexes_of_generated_archives() {
    let readers = Readers::new();
    on_trees(40, (trees(60), any::<bool>()), |(spec, sparse)| {
        let dir = tempfile::tempdir().unwrap();
        let (image, archive) = (dir.path().join("image"), dir.path().join("tar"));
        let tar = spec.tar(sparse);
        File::create(&archive).and_then(|mut f| f.write_all(&tar)).unwrap();
        let input = FileInput::new(File::open(&archive).unwrap()).unwrap();
        let options = Options::default();
        build::index_of(input, tar.len() as u64, &image, &options).unwrap();
        show(&readers, &image, &[&archive], &spec, &options);
        Ok(())
    });
}

#[test]
fn all_readers_agree_on_generated_directories() {
    drop(need!(Scratch::new(1 << 20)));
    let readers = Readers::new();
    on_trees(40, (trees(60), layouts()), |(spec, options)| {
        let scratch = Scratch::new(1 << 30).unwrap();
        spec.make(scratch.path()).unwrap();
        let seen = Listing::from_dir(scratch.path()).unwrap();
        spec.listing().assert_eq(&seen, ("generated", "made"), "the directory itself");
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        build::from_dir(scratch.path(), &image, &options).unwrap();
        show(&readers, &image, &[], &spec, &options);
        Ok(())
    });
}
