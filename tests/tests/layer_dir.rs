//! Layers applied into the directory of a snapshot: killed, starved, and compared with what a conversion makes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use erolith_differ::apply::layer::{
    Applied, ApplyMethod, LayerInput, LayerSpec, Options, Share, Trust, apply,
};
use erolith_differ::content::Blob;
use erolith_differ::convert;
use erolith_differ::processors::Payloads;
use erolith_differ::{Digest, EROFS_LAYER, OCI_LAYER};
use erolith_durable::fault::LAYER_POINTS as POINTS;
use erolith_mkfs::image::Image;
use erolith_tests::layout::Layout;
use erolith_tests::listing::{Blind, Listing};
use erolith_tests::mount::{self, Mounted};
use erolith_tests::need;
use erolith_tests::scratch::Scratch;
use erolith_tests::tarball::Tarball;

/// Tells [`child`] what to do: media type, blob and target, one a line.
const ORDER: &str = "EROLITH_TESTS_APPLY";

fn run(media_type: &str, blob: &Path, target: &Path, options: &Options) -> Result<Applied, String> {
    let file = File::open(blob).unwrap();
    let size = file.metadata().unwrap().len();
    let digest = Digest::of(&fs::read(blob).unwrap());
    let layer = LayerSpec {
        media_type: media_type.to_owned(),
        digest,
        size,
        diff_id: None,
        payloads: Payloads::new(),
        verity: None,
        signature: None,
        fsverity: None,
    };
    let source = LayerInput::Stored(Blob::new(Arc::new(file), 0, size));
    let lowers = Vec::<PathBuf>::new();
    apply(source, &layer, target, &lowers, options).map_err(|e| format!("{}: {e}", e.code()))
}

/// Not a test of its own: the process that is killed.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let [media_type, blob, target] = order.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let options = Options { share: Share::Link, ..Options::default() };
    run(media_type, Path::new(blob), Path::new(target), &options).unwrap();
}

/// Applies in a process of its own, with these faults armed. Returns whether it said that it succeeded.
fn apply_with(media_type: &str, blob: &Path, target: &Path, faults: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--test-threads=1"])
        .env(ORDER, format!("{media_type}\n{}\n{}", blob.display(), target.display()))
        .env("EROLITH_FAULTS", faults)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

/// With data, a tail, a whiteout and an opaque directory.
fn archive(word: &str) -> Vec<u8> {
    let data = |len: usize| word.bytes().cycle().take(len).collect::<Vec<u8>>();
    Tarball::new()
        .dir("etc")
        .file("etc/hosts", data(10))
        .file("big", data(200_001))
        .file("etc/.wh.gone", b"")
        .dir("var")
        .file("var/.wh..wh..opq", b"")
        .end()
}

fn write(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let name = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

/// Stops at every step, over nothing and over an older image: the directory holds the old or the new, and the next run
/// gives the new and leaves nothing else.
fn stop(media_type: &str, old: &Path, new: &Path, action: &str) {
    let points = POINTS.iter().filter(|point| point.starts_with("output."));
    let expected = tempfile::tempdir().unwrap();
    let images = [old, new].map(|blob| {
        let target = expected.path().join("layer.erofs");
        assert!(apply_with(media_type, blob, &target, ""));
        fs::read(target).unwrap()
    });
    let mut stopped = 0;
    for fault in points.map(|point| format!("{point}={action}")) {
        for over in [false, true] {
            let dir = tempfile::tempdir_in(new.parent().unwrap()).unwrap();
            let target = dir.path().join("layer.erofs");
            if over {
                assert!(apply_with(media_type, old, &target, ""));
            }
            let said_yes = apply_with(media_type, new, &target, &fault);
            stopped += usize::from(!said_yes);
            let now = fs::read(&target).ok();
            let is = |image: &Vec<u8>| now.as_ref() == Some(image);
            assert!(is(&images[1]) || !said_yes, "{fault}: success, and no image");
            assert!(now.is_none() || images.iter().any(is), "{fault}: half an image");
            if action != "kill" && !said_yes {
                let left = names(dir.path());
                let none: &[&str] = if is(&images[0]) { &["layer.erofs"] } else { &[] };
                assert_eq!(left, none, "{fault}: a failure left something");
            }
            assert!(apply_with(media_type, new, &target, ""), "{fault}: the next run fails");
            assert!(fs::read(&target).unwrap() == images[1], "{fault}");
            assert_eq!(names(dir.path()), ["layer.erofs"], "{fault}: leftovers");
        }
    }
    assert!(stopped >= 8, "only {stopped} faults happened");
}

/// Blobs of both kinds of layer, the old one and the new one.
fn stop_both(action: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["old", "new"] {
        write(&path(name), &archive(name));
        let image = path(&format!("{name}.erofs"));
        run(OCI_LAYER, &path(name), &image, &Options::default()).unwrap();
    }
    stop(OCI_LAYER, &path("old"), &path("new"), action);
    stop(EROFS_LAYER, &path("old.erofs"), &path("new.erofs"), action);
}

#[test]
fn a_kill_at_any_step_leaves_the_old_or_the_new() {
    stop_both("kill");
}

#[test]
fn no_space_at_any_step_leaves_the_old_or_nothing() {
    stop_both("error(ENOSPC)");
}

#[test]
fn an_io_error_at_any_step_leaves_the_old_or_nothing() {
    stop_both("error(EIO)");
}

/// The real thing: a small file system that fills up, wherever that happens to be.
#[test]
fn a_full_file_system_leaves_nothing_and_the_next_run_succeeds() {
    let store = tempfile::tempdir().unwrap();
    let (tar, image) = (store.path().join("tar"), store.path().join("image"));
    write(&tar, &archive("full"));
    run(OCI_LAYER, &tar, &image, &Options::default()).unwrap();
    let mut failures = 0;
    for room in (4..=256).step_by(36) {
        for (media_type, blob) in [(OCI_LAYER, &tar), (EROFS_LAYER, &image)] {
            let scratch = need!(Scratch::new(1 << 20));
            let ballast = scratch.join("ballast");
            write(&ballast, &vec![1; (1 << 20) - (room << 10)]);
            let target = scratch.join("layer.erofs");
            if run(media_type, blob, &target, &Options::default()).is_err() {
                failures += 1;
                assert_eq!(names(scratch.path()), ["ballast"], "{room} KiB");
            }
            fs::remove_file(&ballast).unwrap();
            run(media_type, blob, &target, &Options::default()).unwrap();
            assert_eq!(fs::read(&target).unwrap(), fs::read(&image).unwrap(), "{room} KiB");
            assert_eq!(names(scratch.path()), ["layer.erofs"], "{room} KiB");
        }
    }
    assert!(failures > 5, "only {failures} runs were short of room");
}

#[test]
fn an_image_on_another_file_system_is_copied_whatever_was_asked_for() {
    let (there, store) = (need!(Scratch::new(1 << 20)), tempfile::tempdir().unwrap());
    let (tar, image) = (store.path().join("tar"), store.path().join("image"));
    write(&tar, &archive("far"));
    run(OCI_LAYER, &tar, &image, &Options::default()).unwrap();
    let target = there.join("layer.erofs");
    for trust in [Trust::Nothing, Trust::Store] {
        let options = Options { share: Share::Link, trust, ..Options::default() };
        assert_eq!(run(EROFS_LAYER, &image, &target, &options).unwrap().how, ApplyMethod::Copied);
        assert_eq!(fs::read(&target).unwrap(), fs::read(&image).unwrap());
    }
}

#[test]
fn the_kernel_shows_what_our_reader_shows() {
    need!(mount::available());
    let dir = tempfile::tempdir().unwrap();
    let (tar, target) = (dir.path().join("tar"), dir.path().join("layer.erofs"));
    write(&tar, &archive("shown"));
    run(OCI_LAYER, &tar, &target, &Options::default()).unwrap();
    let image = Image::open(File::open(&target).unwrap(), Vec::<File>::new()).unwrap();
    let ours = Listing::from_image(&image).unwrap();
    let mounted = need!(Mounted::erofs(&target, &[]));
    let kernels = Listing::from_dir(&mounted.path()).unwrap();
    let blind = [Blind::OverlayXattrs];
    ours.blind(&blind).assert_eq(&kernels.blind(&blind), ("ours", "kernel"), "layer.erofs");
}

/// What `testdata/real-image.sh` makes: each layer applied over those below is the blob of a conversion.
#[test]
fn the_layers_of_a_real_image_are_those_of_a_conversion() {
    let source = need!(Layout::real_image());
    let scratch = tempfile::tempdir().unwrap();
    let from = format!("oci:{}:latest", source.0.display());
    let converted = Layout(scratch.path().join("converted"));
    let to = format!("oci:{}:new", converted.0.display());
    let options = convert::Options::default();
    erolith_tests::convert::run(&from, &to, scratch.path(), &options).unwrap();
    let expected = converted.layers(&converted.manifest("new").unwrap().unwrap());
    let mut lowers: Vec<PathBuf> = Vec::new();
    let manifest = source.manifest("latest").unwrap().unwrap();
    for (i, blob) in source.layers(&manifest).iter().enumerate() {
        let target = scratch.path().join(format!("{i}.erofs"));
        let mut options = Options::default();
        options.build.layer.base = i == 0;
        let descriptor = &manifest["layers"][i];
        let layer = LayerSpec {
            media_type: descriptor["mediaType"].as_str().unwrap().to_owned(),
            digest: descriptor["digest"].as_str().unwrap().parse().unwrap(),
            size: descriptor["size"].as_u64().unwrap(),
            diff_id: None,
            payloads: Payloads::new(),
            verity: None,
            signature: None,
            fsverity: None,
        };
        let file = Arc::new(File::open(blob).unwrap());
        let source = LayerInput::Stored(Blob::new(file, 0, layer.size));
        apply(source, &layer, &target, &lowers, &options).unwrap();
        assert!(fs::read(&target).unwrap() == fs::read(&expected[i]).unwrap(), "layer {i}");
        lowers.insert(0, target);
    }
}
