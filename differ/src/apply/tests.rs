mod rooms;
mod trees;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use erolith_mkfs::image::Image;
use tempfile::TempDir;

use super::layer::{Applied, ApplyMethod, LayerInput, LayerSpec, Options, Share, Trust, apply};
use crate::content::Blob;
use crate::decode::OnBytes;
use crate::processors::Payloads;
use crate::testing::{archive, gzip};
use crate::{Digest, EROFS_LAYER, EROFS_LAYER_ZSTD, Error, OCI_LAYER};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The directory of a snapshot.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("layer.erofs")
    }

    fn names(&self) -> Vec<String> {
        let name = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
        fs::read_dir(self.0.path()).unwrap().map(name).collect()
    }

    fn apply(&self, media_type: &str, blob: &[u8], options: &Options) -> crate::Result<Applied> {
        self.apply_as(&layer(media_type, blob), blob, options)
    }

    fn apply_as(
        &self,
        layer: &LayerSpec,
        blob: &[u8],
        options: &Options,
    ) -> crate::Result<Applied> {
        let source = LayerInput::Stream(Box::new(std::io::Cursor::new(blob.to_vec())));
        apply(source, layer, &self.image(), &Vec::<PathBuf>::new(), options)
    }

    /// Applies a blob that is a file, in a directory on the same filesystem.
    fn share(&self, blob: &Path, layer: &LayerSpec, options: &Options) -> crate::Result<Applied> {
        let source = LayerInput::Stored(stored(blob, 0, layer.size));
        apply(source, layer, &self.image(), &Vec::<PathBuf>::new(), options)
    }
}

fn layer(media_type: &str, blob: &[u8]) -> LayerSpec {
    let (digest, size) = (Digest::of(blob), blob.len() as u64);
    LayerSpec {
        media_type: media_type.to_owned(),
        digest,
        size,
        diff_id: None,
        payloads: Payloads::new(),
        verity: None,
        signature: None,
        fsverity: None,
    }
}

fn stored(path: &Path, offset: u64, size: u64) -> Blob {
    Blob::new(Arc::new(File::open(path).unwrap()), offset, size)
}

fn write(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

fn tar() -> Vec<u8> {
    archive(&[("etc/", 0o755), ("etc/hosts", 0o644), ("opt/deep/file", 0o600)])
}

/// An image, made from that archive.
fn image() -> Vec<u8> {
    let dir = Dir::new();
    dir.apply(OCI_LAYER, &tar(), &Options::default()).unwrap();
    fs::read(dir.image()).unwrap()
}

fn paths(image: &Path) -> Vec<String> {
    let image = Image::open(File::open(image).unwrap(), Vec::<File>::new()).unwrap();
    let mut walk = image.walk();
    let mut paths = Vec::new();
    while let Some(entry) = walk.next_entry().unwrap() {
        paths.push(String::from_utf8(entry.path.to_vec()).unwrap());
    }
    paths
}

#[test]
fn a_tar_layer_becomes_an_image_and_its_decoded_descriptor_is_returned() {
    let (tar, dir) = (tar(), Dir::new());
    let read = Arc::new(AtomicU64::new(0));
    let sum = Arc::clone(&read);
    let add = move |n| {
        sum.fetch_add(n, Ordering::Relaxed);
    };
    let options = Options { progress: OnBytes::new(add), ..Options::default() };
    let blob = gzip(&tar);
    let applied = dir.apply(GZIP, &blob, &options).unwrap();
    assert_eq!(applied.media_type, OCI_LAYER);
    assert_eq!((applied.digest, applied.size), (Digest::of(&tar), tar.len() as u64));
    assert_eq!((applied.how, applied.inherits), (ApplyMethod::Converted, true));
    assert_eq!(applied.summary.unwrap().image_bytes, fs::metadata(dir.image()).unwrap().len());
    assert_eq!(read.load(Ordering::Relaxed), blob.len() as u64);
    let expected = ["", "etc", "etc/hosts", "opt", "opt/deep", "opt/deep/file"];
    assert_eq!(paths(&dir.image()), expected);
    assert_eq!(fs::metadata(dir.image()).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(dir.names(), ["layer.erofs"]);
}

/// A run of zeros is a hole of the image or of its file, however it comes.
#[test]
fn zeros_take_no_room() {
    const ZEROS: usize = 32 << 20;
    let zeros = vec![0; ZEROS];
    let plain = |builder: &mut tar::Builder<Vec<u8>>| {
        let mut header = tar::Header::new_ustar();
        header.set_size(ZEROS as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, "zeros", &zeros[..]).unwrap();
    };
    // GNU tar's format 0.1: one run, which is all of the file.
    let sparse = |builder: &mut tar::Builder<Vec<u8>>| {
        let map = format!("0,{ZEROS}");
        let size = ZEROS.to_string();
        let records = [("size", size.as_str()), ("map", &map), ("numblocks", "1")];
        let records = records.map(|(key, value)| (format!("GNU.sparse.{key}"), value));
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
        builder.append_pax_extensions(records).unwrap();
        plain(builder);
    };
    let archive = |add: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let mut builder = tar::Builder::new(Vec::new());
        add(&mut builder);
        builder.into_inner().unwrap()
    };
    let dense = Options {
        build: erolith_mkfs::build::Options { holes: false, ..Default::default() },
        ..Options::default()
    };
    let made = Dir::new();
    made.apply(OCI_LAYER, &archive(&plain), &dense).unwrap();
    let image = fs::read(made.image()).unwrap();
    assert!(image.len() > ZEROS);
    let packed = zstd::encode_all(&image[..], 1).unwrap();
    for (what, media_type, blob) in [
        ("a member", GZIP, gzip(&archive(&plain))),
        ("a run of a sparse member", GZIP, gzip(&archive(&sparse))),
        ("an image", EROFS_LAYER_ZSTD, packed),
    ] {
        let dir = Dir::new();
        dir.apply(media_type, &blob, &Options::default()).unwrap();
        let on_disk = fs::metadata(dir.image()).unwrap().blocks() * 512;
        assert!(on_disk < 1 << 20, "{what}: {on_disk} bytes");
        let image = Image::open(File::open(dir.image()).unwrap(), Vec::<File>::new()).unwrap();
        let inode = image.lookup(b"zeros").unwrap().unwrap();
        let mut content = vec![1; ZEROS];
        assert_eq!(image.read_at(&inode, &mut content, 0).unwrap(), ZEROS, "{what}");
        assert!(content == zeros, "{what}");
    }
}

#[test]
fn directories_that_a_layer_does_not_describe_are_those_of_the_layers_below() {
    let (below, above) = (Dir::new(), Dir::new());
    below.apply(OCI_LAYER, &archive(&[("opt/", 0o711)]), &Options::default()).unwrap();
    let blob = archive(&[("opt/file", 0o644)]);
    let source = LayerInput::Stream(Box::new(std::io::Cursor::new(blob.clone())));
    let lowers = vec![below.image()];
    let (layer, target) = (layer(OCI_LAYER, &blob), above.image());
    let applied = apply(source, &layer, &target, &lowers, &Options::default()).unwrap();
    assert!(applied.inherits);
    let image = Image::open(File::open(&target).unwrap(), Vec::<File>::new()).unwrap();
    let root = image.root().unwrap();
    let opt = image.stat(image.lookup_in(&root, b"opt").unwrap().unwrap()).unwrap();
    assert_eq!(opt.meta().mode, 0o711);
}

#[test]
fn a_failure_leaves_the_directory_as_it_was() {
    let (tar, image) = (tar(), image());
    let other = Digest::of(b"something else");
    let cancelled = Options::default();
    cancelled.cancel.cancel();
    let mut cut = gzip(&tar);
    cut.truncate(cut.len() - 12);
    let mut damaged = image.clone();
    damaged[1024 + 16] ^= 0xff;
    let good = Options::default();
    let of = |media_type, blob: &[u8]| layer(media_type, blob);
    let zstd = zstd::encode_all(damaged.as_slice(), 1).unwrap();
    for (layer, blob, options, code) in [
        (
            of("application/vnd.oci.image.layer.v1.tar+xz", &tar),
            &tar,
            &good,
            "media-type-unsupported",
        ),
        (of(OCI_LAYER, b"other"), &tar, &good, "blob-size-mismatch"),
        (
            LayerSpec { digest: other.clone(), ..of(OCI_LAYER, &tar) },
            &tar,
            &good,
            "blob-digest-mismatch",
        ),
        (
            LayerSpec { diff_id: Some(other.clone()), ..of(OCI_LAYER, &tar) },
            &tar,
            &good,
            "diffid-mismatch",
        ),
        (of(GZIP, &cut), &cut, &good, "decode-truncated"),
        (of(OCI_LAYER, &tar[..700]), &tar[..700].to_vec(), &good, "tar-truncated-header"),
        (of(OCI_LAYER, &image), &image, &good, "layer-wrong-magic"),
        (of(OCI_LAYER, &tar), &tar, &cancelled, "cancelled"),
        (of(EROFS_LAYER, &tar), &tar, &good, "layer-wrong-magic"),
        (of(EROFS_LAYER, &damaged), &damaged, &good, "super-checksum"),
        (of(EROFS_LAYER_ZSTD, &zstd), &zstd, &good, "super-checksum"),
    ] {
        let dir = Dir::new();
        for before in [None, Some("as it was")] {
            if let Some(text) = before {
                write(&dir.image(), text.as_bytes());
            }
            let error = dir.apply_as(&layer, blob, options).expect_err(code);
            assert_eq!(error.code(), code, "{error}");
            let now = fs::read_to_string(dir.image()).ok();
            assert_eq!(now.as_deref(), before, "{code}");
            assert_eq!(dir.names().len(), usize::from(before.is_some()), "{code}");
        }
    }
}

#[test]
fn a_native_layer_is_taken_as_it_is() {
    let image = image();
    let zstd = zstd::encode_all(image.as_slice(), 1).unwrap();
    for (media_type, blob, how) in [
        (EROFS_LAYER, &image, ApplyMethod::Copied),
        (EROFS_LAYER_ZSTD, &zstd, ApplyMethod::Unpacked),
    ] {
        let dir = Dir::new();
        let applied = dir.apply(media_type, blob, &Options::default()).unwrap();
        let digest = Digest::of(&image);
        let size = image.len() as u64;
        let media_type = EROFS_LAYER.to_owned();
        let (summary, times) = (None, applied.times);
        let (inherits, verity) = (false, None);
        let expected = Applied { media_type, digest, size, inherits, how, verity, summary, times };
        assert_eq!(applied, expected);
        assert_eq!(fs::read(dir.image()).unwrap(), image);
        assert_eq!(dir.names(), ["layer.erofs"]);
    }
}

#[test]
fn a_stored_native_layer_is_linked_or_copied_as_asked() {
    let (store, image) = (Dir::new(), image());
    let blob = store.0.path().join("blob");
    write(&blob, &image);
    let layer = layer(EROFS_LAYER, &image);
    for (share, linked) in [(Share::Link, true), (Share::Reflink, false), (Share::Never, false)] {
        for trust in [Trust::Nothing, Trust::Store] {
            let (dir, options) = (Dir::new(), Options { share, trust, ..Options::default() });
            // Twice: the second one replaces.
            for _ in 0..2 {
                let applied = dir.share(&blob, &layer, &options).unwrap();
                assert_eq!((&applied.digest, applied.size), (&layer.digest, layer.size));
                assert_eq!(
                    applied.how == ApplyMethod::Linked,
                    linked,
                    "{share:?} {:?}",
                    applied.how
                );
                let ino = |path: &Path| fs::metadata(path).unwrap().ino();
                assert_eq!(ino(&dir.image()) == ino(&blob), linked);
                assert_eq!(fs::read(dir.image()).unwrap(), image);
                assert_eq!(dir.names(), ["layer.erofs"]);
            }
        }
    }
}

#[test]
fn a_stored_native_layer_that_is_not_a_whole_file_is_copied() {
    let (store, image) = (Dir::new(), image());
    let path = store.0.path().join("archive");
    write(&path, &[b"before", image.as_slice(), b"behind"].concat());
    let layer = layer(EROFS_LAYER, &image);
    let dir = Dir::new();
    let options = Options { share: Share::Link, ..Options::default() };
    let source = LayerInput::Stored(stored(&path, 6, layer.size));
    let applied = apply(source, &layer, &dir.image(), &Vec::<PathBuf>::new(), &options).unwrap();
    assert_eq!(applied.how, ApplyMethod::Copied);
    assert_eq!(fs::read(dir.image()).unwrap(), image);
}

#[test]
fn a_blob_without_a_name_is_copied() {
    let (store, image) = (Dir::new(), image());
    let path = store.0.path().join("blob");
    write(&path, &image);
    let (layer, dir) = (layer(EROFS_LAYER, &image), Dir::new());
    let source = LayerInput::Stored(stored(&path, 0, layer.size));
    fs::remove_file(&path).unwrap();
    let options = Options { share: Share::Link, ..Options::default() };
    let applied = apply(source, &layer, &dir.image(), &Vec::<PathBuf>::new(), &options).unwrap();
    assert_ne!(applied.how, ApplyMethod::Linked);
    assert_eq!(fs::read(dir.image()).unwrap(), image);
}

#[test]
fn a_stored_native_layer_is_verified_before_it_is_named() {
    let (store, image) = (Dir::new(), image());
    let path = store.0.path().join("blob");
    let mut damaged = image.clone();
    damaged[1024 + 16] ^= 0xff;
    let lied =
        |image: &[u8]| LayerSpec { size: image.len() as u64, ..layer(EROFS_LAYER, b"other") };
    let of_diff = LayerSpec { diff_id: Some(Digest::of(b"other")), ..layer(EROFS_LAYER, &image) };
    for (layer, bytes, trust, code) in [
        (lied(&image), &image, Trust::Nothing, "blob-digest-mismatch"),
        (layer(EROFS_LAYER, &damaged), &damaged, Trust::Nothing, "super-checksum"),
        (layer(EROFS_LAYER, &damaged), &damaged, Trust::Store, "super-checksum"),
        (layer(EROFS_LAYER, b"short"), &image, Trust::Store, "blob-digest-mismatch"),
        (of_diff, &image, Trust::Store, "diffid-mismatch"),
    ] {
        write(&path, bytes);
        for share in [Share::Link, Share::Reflink, Share::Never] {
            let (dir, options) = (Dir::new(), Options { share, trust, ..Options::default() });
            let error = dir.share(&path, &layer, &options).expect_err(code);
            assert_eq!(error.code(), code, "{share:?} {error}");
            assert_eq!(dir.names(), Vec::<String>::new(), "{share:?} {code}");
        }
    }
    let (dir, options) = (Dir::new(), Options { share: Share::Link, ..Options::default() });
    options.cancel.cancel();
    write(&path, &image);
    let error = dir.share(&path, &layer(EROFS_LAYER, &image), &options).unwrap_err();
    assert!(matches!(error, Error::Cancelled) && dir.names().is_empty());
}

#[test]
fn a_diff_id_in_another_algorithm_is_verified_too() {
    let (store, image) = (Dir::new(), image());
    let path = store.0.path().join("blob");
    write(&path, &image);
    let mut hasher = crate::Hasher::new(crate::Algorithm::Sha512);
    hasher.update(&image);
    let sha512 = hasher.finish();
    let wrong: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
    for (diff_id, ok) in [(sha512, true), (wrong, false)] {
        let layer = LayerSpec { diff_id: Some(diff_id.clone()), ..layer(EROFS_LAYER, &image) };
        let dir = Dir::new();
        let applied = dir.share(&path, &layer, &Options::default());
        assert_eq!(applied.is_ok_and(|applied| applied.digest == diff_id), ok);
    }
}
