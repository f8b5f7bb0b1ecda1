//! A real image of several layers: each layer as containerd unpacks it, and the whole as containerd stacks it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use erolith_differ::convert::Options;
use erolith_mkfs::image::Image;
use erolith_tests::containerd::{Oracle, bounded, comparable, now};
use erolith_tests::layout::Layout;
use erolith_tests::listing::{Blind, Listing};
use erolith_tests::mount::Mounted;
use erolith_tests::oracle::{Readers, Subject};
use erolith_tests::scratch::Scratch;
use erolith_tests::{convert, need};

/// Unpacks the layers' archives with gzip itself.
fn archives(layers: &[PathBuf], to: &Path) -> Vec<PathBuf> {
    let unpack = |(i, blob): (usize, &PathBuf)| {
        let path = to.join(format!("{i}.tar"));
        let status = Command::new("gzip")
            .arg("-dc")
            .stdin(File::open(blob).unwrap())
            .stdout(Stdio::from(File::create(&path).unwrap()))
            .status();
        assert!(status.unwrap().success(), "gzip -dc {}", blob.display());
        path
    };
    layers.iter().enumerate().map(unpack).collect()
}

#[test]
fn the_real_image_is_what_containerd_makes_of_it() {
    let source = need!(Layout::real_image());
    let oracle = need!(Oracle::find());
    let scratch = need!(Scratch::new(8 << 30));
    let start = now();
    let manifest = source.manifest("latest").unwrap().unwrap();
    let tars = archives(&source.layers(&manifest), scratch.path());
    let images = converted(&source);
    let layout = Layout(images.path().join("out"));
    let manifest = layout.manifest("new").unwrap().unwrap();
    layout.verify(&manifest).unwrap();
    let layers = layout.layers(&manifest);
    assert_eq!(layers.len(), tars.len());
    each_layer(&oracle, &scratch, &tars, &layers, start);
    the_whole(&oracle, &scratch, &tars, &layers, start);
}

fn converted(source: &Layout) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let to = format!("oci:{}:new", dir.path().join("out").display());
    let from = format!("oci:{}:latest", source.0.display());
    convert::run(&from, &to, dir.path(), &Options::default()).unwrap();
    dir
}

fn each_layer(
    oracle: &Oracle,
    scratch: &Scratch,
    tars: &[PathBuf],
    layers: &[PathBuf],
    start: i64,
) {
    let readers = Readers::new();
    let mut parents: Vec<PathBuf> = Vec::new();
    for (i, (tar, image)) in tars.iter().zip(layers).enumerate() {
        let name = format!("layer {i}");
        let dir = scratch.join(&name);
        oracle.apply_layer(tar, &dir, &parents).unwrap();
        let ours =
            Listing::from_image(&Image::open(File::open(image).unwrap(), vec![]).unwrap()).unwrap();
        let theirs = Listing::from_dir(&dir).unwrap();
        let (a, b) = comparable(ours.clone(), bounded(&ours, theirs), start);
        a.assert_eq(&b, ("erolith", "containerd"), &name);
        readers.agree(Subject { image, devices: &[], name: &name }, &ours);
        parents.insert(0, dir);
    }
}

fn the_whole(oracle: &Oracle, scratch: &Scratch, tars: &[PathBuf], layers: &[PathBuf], start: i64) {
    let whole = scratch.join("whole");
    for tar in tars {
        oracle.apply_onto(tar, &whole).unwrap();
    }
    let mounts: Result<Vec<_>, _> = layers.iter().map(|layer| Mounted::erofs(layer, &[])).collect();
    let mounted = need!(mounts.and_then(|mounts| Mounted::overlay(&mounts)));
    // overlayfs counts no sub-directories, and a lower file keeps the links of names that upper layers hide.
    let blind = [Blind::DirLinks, Blind::Links, Blind::OverlayXattrs];
    let ours = Listing::from_dir(&mounted.path()).unwrap().blind(&blind);
    let theirs = Listing::from_dir(&whole).unwrap().blind(&blind);
    let theirs = bounded(&ours, theirs);
    let (ours, theirs) = comparable(ours, theirs, start);
    ours.assert_eq(&theirs, ("the mount", "containerd"), "the whole image");
}
