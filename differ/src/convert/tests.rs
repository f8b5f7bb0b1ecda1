//! Whole images, made here, converted and looked at.

mod fixture;
mod verity;

use std::io::{Read, Write};
use std::sync::Arc;

use erolith_mkfs::image::Image;
use serde_json::{Value, json};

use super::{Options, Progress, Report, SOURCE_DIGEST, SOURCE_LAYER, convert};
use crate::apply::Output;
use crate::content::{Blob, OciLayout, Provider};
use crate::error::LayerError;
use crate::oci::{Destination, ImageSource, Location, Platform, Select};
use crate::{Digest, EROFS_LAYER, EROFS_LAYER_ZSTD, Error, Result};
use fixture::{Fixture, GZIP, TAR, ZSTD, archive, gzip};

/// A directory with a source and a destination.
struct Bench {
    temp: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    fn fixture(&self) -> Fixture {
        Fixture::new(&self.temp.path().join("source"))
    }

    fn run_as(
        &self,
        from: &str,
        to: &str,
        select: &Select,
        options: &Options,
    ) -> Result<(Report, OciLayout)> {
        let at = |text: &str| -> Location {
            let (transport, rest) = text.split_once(':').unwrap();
            format!("{transport}:{}/{rest}", self.temp.path().display()).parse().unwrap()
        };
        let source = ImageSource::open(&at(from), select, self.temp.path())?;
        let destination = Destination::open(&at(to))?;
        let watcher: Arc<dyn Progress> = Arc::new(());
        let report = convert(&source, destination, options, &watcher)?;
        let path = at(to).path;
        let path = if path.is_dir() { path } else { self.temp.path().join("source") };
        Ok((report, OciLayout::open(&path)?))
    }

    fn run(&self, options: &Options) -> Result<(Report, OciLayout)> {
        self.run_as("oci:source", "oci:target:new", &Select::default(), options)
    }
}

fn document(layout: &OciLayout, digest: &str) -> Value {
    let blob = layout.open(&digest.parse().unwrap()).unwrap();
    let mut bytes = Vec::new();
    blob.reader().read_to_end(&mut bytes).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The manifest that the layout's index shows as `new`, when that is one image.
fn manifest(layout: &OciLayout) -> Value {
    let index: Value = serde_json::from_slice(&layout.index().unwrap()).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    let name = "org.opencontainers.image.ref.name";
    let entry = entries.iter().find(|e| e["annotations"][name] == "new").unwrap();
    document(layout, entry["digest"].as_str().unwrap())
}

fn open(layout: &OciLayout, digest: &Digest) -> Image<Blob> {
    Image::open(layout.open(digest).unwrap(), Vec::new()).unwrap()
}

fn mode(image: &Image<Blob>, path: &str) -> Option<u16> {
    image.lookup(path.as_bytes()).unwrap().map(|inode| inode.meta().mode)
}

fn two_layers(bench: &Bench) -> Fixture {
    let mut fixture = bench.fixture();
    fixture.layer(GZIP, &gzip(&archive(&[("etc/", 0o755), ("etc/hosts", 0o644)])));
    fixture.layer(ZSTD, &zstd::bulk::compress(&archive(&[("etc/.wh.hosts", 0)]), 3).unwrap());
    fixture
}

#[test]
fn an_image_gets_erofs_layers_and_documents_that_containerd_accepts() {
    let bench = Bench::new();
    let source = two_layers(&bench).image("latest");
    let (report, layout) = bench.run(&Options::default()).unwrap();
    let made = manifest(&layout);
    assert_eq!(made["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(made["annotations"][SOURCE_DIGEST], source.to_string());
    assert_eq!(made["annotations"]["kept"], "yes");
    let config = document(&layout, made["config"]["digest"].as_str().unwrap());
    assert_eq!(config["os.features"], json!(["erofs"]));
    assert_eq!(config["history"], json!([{ "created_by": "test" }]));
    assert_eq!(made["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    for (i, layer) in report.images[0].layers.iter().enumerate() {
        assert_eq!(made["layers"][i]["mediaType"], EROFS_LAYER);
        assert_eq!(made["layers"][i]["digest"], layer.digest.to_string());
        assert!(made["layers"][i]["annotations"][SOURCE_LAYER].is_string());
        assert_eq!(config["rootfs"]["diff_ids"][i], layer.digest.to_string());
    }
    let index: Value = serde_json::from_slice(&layout.index().unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["platform"]["os.features"], json!(["erofs"]));
    assert_eq!(report.images[0].platform, "linux(+erofs)/amd64");
    let [base, top] = [0, 1].map(|i| open(&layout, &report.images[0].layers[i].digest));
    assert_eq!(mode(&base, "etc/hosts"), Some(0o644));
    assert!(top.lookup(b"etc/hosts").unwrap().unwrap().is_whiteout());
}

#[test]
fn compressed_layers_have_the_diffid_of_the_raw_image() {
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let (raw, _) = bench.run(&Options::default()).unwrap();
    let mut blobs = Vec::new();
    for threads in [1, 3] {
        let output = Output::Zstd { level: 3, threads };
        let options = Options { output, ..Options::default() };
        let to = format!("oci:packed{threads}:new");
        let (report, layout) =
            bench.run_as("oci:source", &to, &Select::default(), &options).unwrap();
        let made = manifest(&layout);
        for (i, layer) in report.images[0].layers.iter().enumerate() {
            assert_eq!(layer.diff_id, raw.images[0].layers[i].diff_id);
            assert_eq!(made["layers"][i]["mediaType"], EROFS_LAYER_ZSTD);
            let annotation = &made["layers"][i]["annotations"]["org.erofs.uncompressed-digest"];
            assert_eq!(*annotation, layer.diff_id.to_string());
        }
        blobs.push(report.digest);
    }
    assert_eq!(blobs[0], blobs[1], "the number of threads does not show");
}

#[test]
fn the_same_image_gives_the_same_bytes_and_is_not_made_twice() {
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let options = Options::default();
    let (first, layout) = bench.run(&options).unwrap();
    let other = bench.run_as("oci:source", "oci:other:new", &Select::default(), &options);
    assert_eq!(other.unwrap().0, first);
    let reused = |report: &Report| -> Vec<bool> {
        report.images[0].layers.iter().map(|layer| layer.reused).collect()
    };
    assert_eq!(reused(&first), [false, false]);
    let (second, _) = bench.run(&options).unwrap();
    assert_eq!(reused(&second), [true, true]);
    assert_eq!(second.digest, first.digest);
    // Damage is found, and repaired.
    let digest = &first.images[0].layers[0].digest;
    let path = bench.temp.path().join("target/blobs/sha256").join(digest.hex());
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 700).unwrap();
    let (third, _) = bench.run(&options).unwrap();
    assert_eq!(reused(&third), [false, true]);
    assert_eq!(mode(&open(&layout, digest), "etc/hosts"), Some(0o644));
    // Other options, other image.
    let mut block = options;
    block.build.block_bits = 9;
    assert_eq!(reused(&bench.run(&block).unwrap().0), [false, false]);
}

#[test]
fn directories_that_a_layer_does_not_describe_keep_their_attributes() {
    for output in [Output::Raw, Output::Zstd { level: 1, threads: 1 }] {
        let bench = Bench::new();
        let mut fixture = bench.fixture();
        fixture.layer(TAR, &archive(&[("tmp/", 0o1777), ("opt/", 0o700), ("opt/a", 0o644)]));
        fixture.layer(TAR, &archive(&[("unrelated", 0o644)]));
        fixture.layer(TAR, &archive(&[("tmp/x", 0o644), ("opt/b/c", 0o644)]));
        fixture.image("latest");
        let options = Options { output, ..Options::default() };
        let (report, layout) = bench.run(&options).unwrap();
        let top = &report.images[0].layers[2];
        let blob = layout.open(&top.digest).unwrap();
        let mut bytes = Vec::new();
        match output {
            Output::Raw => blob.reader().read_to_end(&mut bytes).unwrap(),
            Output::Zstd { .. } => zstd::stream::read::Decoder::new(blob.reader())
                .unwrap()
                .read_to_end(&mut bytes)
                .unwrap(),
        };
        let image = Image::open(bytes, Vec::new()).unwrap();
        let mode = |path: &[u8]| image.lookup(path).unwrap().unwrap().meta().mode;
        assert_eq!((mode(b"tmp"), mode(b"opt"), mode(b"opt/b")), (0o1777, 0o700, 0o755));
    }
}

#[test]
fn the_original_can_be_kept_and_comes_first() {
    let bench = Bench::new();
    let source = two_layers(&bench).image("latest");
    let options = Options { keep_original: true, ..Options::default() };
    let (report, layout) = bench.run(&options).unwrap();
    let index = manifest(&layout);
    assert_eq!(report.media_type, "application/vnd.oci.image.index.v1+json");
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["digest"], source.to_string());
    assert_eq!(entries[0]["platform"], json!({ "architecture": "amd64", "os": "linux" }));
    assert_eq!(entries[1]["platform"]["os.features"], json!(["erofs"]));
    assert_eq!(entries[1]["annotations"][SOURCE_DIGEST], source.to_string());
    let original = document(&layout, entries[0]["digest"].as_str().unwrap());
    for part in original["layers"].as_array().unwrap() {
        assert!(layout.open(&part["digest"].as_str().unwrap().parse().unwrap()).is_ok());
    }
    // Made from the result: the tar image is taken, not the EROFS one.
    let again = bench.run_as("oci:target:new", "oci:third:new", &Select::default(), &options);
    assert_eq!(again.unwrap().0.images[0].source, source);
}

#[test]
fn d11_platforms_are_selected_and_all_can_be_had() {
    let bench = Bench::new();
    let mut fixture = bench.fixture();
    fixture.layer(TAR, &archive(&[("shared", 0o644)]));
    let shared = fixture.platform("amd64", "");
    fixture.layer(TAR, &archive(&[("arm", 0o644)]));
    let arm = fixture.platform("arm64", "v8");
    let unnamed = {
        let mut entry = fixture.platform("riscv64", "");
        entry.as_object_mut().unwrap().remove("platform");
        entry
    };
    let mut attestation = fixture.platform("unknown", "");
    attestation["platform"]["os"] = json!("unknown");
    fixture.index("latest", &[shared.clone(), arm.clone(), unnamed.clone(), attestation.clone()]);
    let wanted = |names: &[&str]| {
        Select::Platforms(names.iter().map(|n| n.parse::<Platform>().unwrap()).collect())
    };
    let options = Options::default();
    for (select, expect) in [
        (wanted(&["linux/arm64"]), vec![&arm]),
        (wanted(&["linux/riscv64"]), vec![&unnamed]),
        (wanted(&["linux/arm64", "linux/amd64"]), vec![&shared, &arm]),
        (Select::All, vec![&shared, &arm, &unnamed]),
    ] {
        let (report, _) = bench.run_as("oci:source", "oci:target:new", &select, &options).unwrap();
        let sources: Vec<String> = report.images.iter().map(|i| i.source.to_string()).collect();
        let expect: Vec<&str> = expect.iter().map(|e| e["digest"].as_str().unwrap()).collect();
        assert_eq!(sources, expect, "{select:?}");
    }
    let missing = bench.run_as("oci:source", "oci:target:new", &wanted(&["linux/s390x"]), &options);
    assert_eq!(missing.unwrap_err().code(), "platform-not-found");
    let (report, layout) =
        bench.run_as("oci:source", "oci:target:new", &Select::All, &options).unwrap();
    let index = manifest(&layout);
    assert_eq!(index["annotations"]["index"], "kept");
    assert_eq!(index["manifests"][1]["platform"]["variant"], "v8");
    assert_eq!(report.images[0].layers[0].digest, report.images[1].layers[0].digest);
    assert_eq!(report.left_out[0].to_string(), attestation["digest"].as_str().unwrap());
}

#[test]
fn a_platform_gets_the_best_image_that_it_can_run() {
    let bench = Bench::new();
    let mut fixture = bench.fixture();
    fixture.layer(TAR, &archive(&[("a", 0o644)]));
    let mut entries = Vec::new();
    for (architecture, variant) in [
        ("amd64", "v3"),
        ("x86_64", ""),
        ("arm", "v5"),
        ("arm", "v6"),
        ("armhf", ""),
        ("arm64", "v9"),
    ] {
        fixture.layer(TAR, &archive(&[(&format!("{architecture}{variant}"), 0o644)]));
        entries.push(fixture.platform(architecture, variant));
    }
    let run = |entries: &[Value], wanted: &str| {
        bench.fixture().index("latest", entries);
        let select = Select::Platforms(vec![wanted.parse::<Platform>().unwrap()]);
        let report = bench.run_as("oci:source", "oci:target:new", &select, &Options::default());
        report.map(|(report, _)| report.images[0].source.to_string())
    };
    let digest = |index: usize| entries[index]["digest"].as_str().unwrap().to_owned();
    for (wanted, expect) in [
        ("linux/amd64", 1),
        ("linux/AMD64", 1),
        ("linux/amd64/v3", 0),
        ("linux/amd64/v4", 0),
        ("linux/arm", 4),
        ("linux/arm/v6", 3),
        ("linux/arm64/v9", 5),
        ("linux/arm64", 4),
    ] {
        assert_eq!(run(&entries, wanted).unwrap(), digest(expect), "{wanted}");
    }
    assert_eq!(run(&entries[2..4], "linux/arm/v7").unwrap(), digest(3), "v7 takes v6");
    let error = run(&entries[..1], "linux/amd64").unwrap_err();
    assert_eq!(error.code(), "platform-not-found");
    assert!(error.to_string().contains("linux/amd64/v3"), "{error}");
    // An image by itself is taken for whatever it is, unless something else was asked for.
    fixture.name("latest", &entries[5]);
    let run = |select: &Select| {
        bench.run_as("oci:source", "oci:target:new", select, &Options::default()).map(drop)
    };
    run(&Select::default()).unwrap();
    run(&Select::Platforms(vec!["linux/arm64/v9".parse().unwrap()])).unwrap();
    for wanted in [Platform::host(), "linux/s390x".parse().unwrap()] {
        let error = run(&Select::Platforms(vec![wanted])).unwrap_err();
        assert_eq!(error.code(), "platform-not-found");
        assert!(error.to_string().contains("linux/arm64/v9"), "{error}");
    }
}

/// Attestations that only an annotation or their config marks, artifacts, unknown types, and what is not there.
#[test]
fn what_is_no_image_leaves_the_rest_of_an_index_usable() {
    let bench = Bench::new();
    let mut fixture = bench.fixture();
    fixture.layer(TAR, &archive(&[("a", 0o644)]));
    let image = fixture.platform("amd64", "");
    let statement = fixture.put("application/vnd.in-toto+json", br#"{"_type":"x"}"#);
    let make = |config: Value, more: Value| {
        let mut manifest = json!({ "schemaVersion": 2, "config": config, "layers": [statement] });
        manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        manifest.to_string()
    };
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let unknown = br#"{"architecture":"unknown","os":"unknown","rootfs":{"diff_ids":[]}}"#;
    let config = fixture.put("application/vnd.oci.image.config.v1+json", unknown);
    let marked = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let mut attestation = fixture.put(MANIFEST, make(config.clone(), json!({})).as_bytes());
    attestation["annotations"] = marked;
    let by_config = fixture.put(MANIFEST, make(config, json!({ "a": 1 })).as_bytes());
    let empty = fixture.put("application/vnd.oci.empty.v1+json", b"{}");
    let kind = json!({ "artifactType": "application/x-sbom" });
    let artifact = fixture.put(MANIFEST, make(empty, kind).as_bytes());
    let other = fixture.put("application/vnd.example+json", b"{\"any\":[]}");
    let mut gone = fixture.put(MANIFEST, b"gone");
    gone["digest"] = json!(Digest::of(b"never there").to_string());
    let all = [image, attestation, by_config, artifact, other, gone];
    fixture.index("latest", &all);
    for select in [Select::default(), Select::All] {
        let run = |options| bench.run_as("oci:source", "oci:target:new", &select, &options);
        let (report, _) = run(Options::default()).unwrap();
        assert_eq!(report.images.len(), 1, "{select:?}");
        let kept = Options { keep_original: true, ..Options::default() };
        let (report, layout) = run(kept).unwrap();
        let digests = |value: &Value| -> Vec<String> {
            let list = value["manifests"].as_array().unwrap().iter();
            list.map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
        };
        let originals = digests(&json!({ "manifests": all }));
        let listed = digests(&manifest(&layout));
        if select == Select::All {
            // With the originals, what is said of them stays true.
            assert_eq!(listed[..5], originals[..5]);
            let left: Vec<String> = report.left_out.iter().map(ToString::to_string).collect();
            assert_eq!(left, originals[5..]);
            for part in [&statement, &all[4]] {
                let digest: Digest = part["digest"].as_str().unwrap().parse().unwrap();
                assert!(layout.open(&digest).is_ok());
            }
        } else {
            assert_eq!(listed.len(), 2);
        }
    }
    // Where there is nothing else, the reason is named.
    fixture.index("latest", &all[5..]);
    assert_eq!(bench.run(&Options::default()).unwrap_err().code(), "blob-missing");
}

#[test]
fn configs_have_the_types_that_registries_gave_them() {
    let bench = Bench::new();
    for media_type in ["application/octet-stream", "application/json", "text/html", ""] {
        let mut fixture = bench.fixture();
        fixture.layer(TAR, &archive(&[("a", 0o644)]));
        let entry = fixture.platform("amd64", "");
        let digest: Digest = entry["digest"].as_str().unwrap().parse().unwrap();
        let path = bench.temp.path().join("source/blobs/sha256").join(digest.hex());
        let mut manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        match media_type {
            "" => drop(manifest["config"].as_object_mut().unwrap().remove("mediaType")),
            _ => manifest["config"]["mediaType"] = json!(media_type),
        }
        let media_type = entry["mediaType"].as_str().unwrap();
        let entry = fixture.put(media_type, manifest.to_string().as_bytes());
        fixture.name("latest", &entry);
        bench.run(&Options::default()).unwrap();
    }
}

#[test]
fn a_damaged_blob_is_called_damaged_whatever_it_looks_like() {
    let mut odd = archive(&[("a", 0o644), ("b", 0o644)]);
    odd[1024 + 148..1024 + 156].fill(b'7');
    let content: Vec<u8> =
        (0..200_000u32).flat_map(|i| i.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    let mut sound = archive(&[("a", 0o644)]);
    sound.truncate(512);
    let zipped = gzip(&[sound.as_slice(), &content].concat());
    for (media_type, blob, at) in [
        (TAR, archive(&[("a", 0o644), ("b", 0o644)]), 0),
        (TAR, archive(&[("a", 0o644), ("b", 0o644)]), 512 + 100),
        (TAR, archive(&[("a", 0o644), ("b", 0o644)]), 1024),
        (GZIP, gzip(&archive(&[("a", 0o644)])), 0),
        (GZIP, gzip(&archive(&[("a", 0o644)])), 20),
        (GZIP, zipped.clone(), 100),
        (GZIP, zipped.clone(), zipped.len() - 3),
    ] {
        let bench = Bench::new();
        let mut fixture = bench.fixture();
        let expected = Digest::of(&blob);
        fixture.layer_as(media_type, &blob, &Digest::of(b"any"));
        fixture.image("latest");
        let mut damaged = blob.clone();
        damaged[at] ^= 0x55;
        let path = bench.temp.path().join("source/blobs/sha256").join(expected.hex());
        std::fs::File::create(path).unwrap().write_all(&damaged).unwrap();
        let error = bench.run(&Options::default()).unwrap_err();
        assert_eq!(error.code(), "blob-digest-mismatch", "{media_type} at {at}: {error}");
        for digest in [&expected, &Digest::of(&damaged)] {
            assert!(erolith_errors::error_chain(&error).contains(&digest.to_string()), "{error}");
        }
    }
    // Bytes that are those that were meant are wrong in themselves.
    let bench = Bench::new();
    let mut fixture = bench.fixture();
    fixture.layer(TAR, &odd);
    fixture.image("latest");
    let error = bench.run(&Options::default()).unwrap_err();
    assert!(!["blob-digest-mismatch", "diffid-mismatch"].contains(&error.code()), "{error}");
}

#[test]
fn d04_d05_d06_layers_may_repeat_be_empty_or_be_none() {
    let bench = Bench::new();
    let mut fixture = bench.fixture();
    let empty = gzip(&vec![0; 1024]);
    fixture.layer(GZIP, &gzip(&archive(&[("a", 0o644)])));
    for _ in 0..3 {
        fixture.layer(GZIP, &empty);
    }
    fixture.layer(GZIP, b"");
    fixture.layer(ZSTD, b"");
    fixture.image("latest");
    let (report, _) = bench.run(&Options::default()).unwrap();
    let layers = &report.images[0].layers;
    assert_eq!(layers.len(), 6);
    assert_eq!(layers[1].digest, layers[2].digest);
    let bench = Bench::new();
    bench.fixture().image("latest");
    let (report, layout) = bench.run(&Options::default()).unwrap();
    assert!(report.images[0].layers.is_empty());
    assert_eq!(manifest(&layout)["layers"], json!([]));
}

#[test]
fn d10_indexes_in_indexes_end() {
    let bench = Bench::new();
    let mut fixture = bench.fixture();
    fixture.layer(TAR, &archive(&[("a", 0o644)]));
    let mut entry = fixture.platform("amd64", "");
    for depth in 1..8 {
        entry = fixture.put_index(&[entry]);
        fixture.name("latest", &entry);
        let got = bench.run(&Options::default()).map(drop).map_err(crate::testing::code);
        let expect = if depth <= 4 { Ok(()) } else { Err("document-invalid") };
        assert_eq!(got, expect, "depth {depth}");
    }
}

#[test]
fn z16_nondistributable_layers_are_converted_only_when_asked() {
    let bench = Bench::new();
    let mut fixture = bench.fixture();
    let media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar";
    fixture.layer(media_type, &archive(&[("a", 0o644)]));
    fixture.image("latest");
    let error = bench.run(&Options::default()).unwrap_err();
    assert_eq!(error.code(), "layer-nondistributable");
    let nondistributable = super::NonDistributable::Convert;
    assert!(bench.run(&Options { nondistributable, ..Options::default() }).is_ok());
}

#[test]
fn a_bad_layer_is_named_and_nothing_is_shown() {
    let bench = Bench::new();
    let mut fixture = two_layers(&bench);
    let mut bad = gzip(&archive(&[("b", 0o644)]));
    let at = bad.len() - 6;
    bad[at] ^= 1;
    fixture.layer_as(GZIP, &bad, &Digest::of(b"anything"));
    fixture.image("latest");
    let error = bench.run(&Options::default()).unwrap_err();
    assert_eq!(error.code(), "decode-bad-checksum");
    assert!(matches!(&error, Error::InLayer { index: 2, name, .. } if *name == Digest::of(&bad)));
    let layout = OciLayout::open(&bench.temp.path().join("target")).unwrap();
    let index: Value = serde_json::from_slice(&layout.index().unwrap()).unwrap();
    assert_eq!(index["manifests"], json!([]));
    layout.sweep().unwrap();
    assert!(!bench.temp.path().join("target/ingest").exists());
}

#[test]
fn z12_a_layer_with_another_diffid_is_not_published() {
    let bench = Bench::new();
    let mut fixture = bench.fixture();
    let layer = archive(&[("a", 0o644)]);
    fixture.layer_as(GZIP, &gzip(&layer), &Digest::of(b"something else"));
    fixture.image("latest");
    assert_eq!(bench.run(&Options::default()).unwrap_err().code(), "diffid-mismatch");
    assert!(!bench.temp.path().join("target/blobs").exists());
}

#[test]
fn native_layers_are_checked_and_taken_as_they_are() {
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let (raw, layout) = bench.run(&Options::default()).unwrap();
    let output = Output::Zstd { level: 3, threads: 1 };
    let packed = Options { output, ..Options::default() };
    let select = Select::default();
    bench.run_as("oci:target", "oci:packed:new", &select, &packed).unwrap();
    for from in ["oci:target", "oci:packed"] {
        let again = bench.run_as(from, "oci:again:new", &select, &Options::default());
        let again = again.unwrap().0;
        for (a, b) in again.images[0].layers.iter().zip(&raw.images[0].layers) {
            assert_eq!(a.digest, b.digest);
        }
    }
    let mut image = Vec::new();
    let digest = &raw.images[0].layers[0].digest;
    layout.open(digest).unwrap().reader().read_to_end(&mut image).unwrap();
    // The root's nid, and the checksum feature with it.
    image[1024 + 14] ^= 0xff;
    image[1024 + 8] &= !1;
    let broken = Bench::new();
    let mut fixture = broken.fixture();
    fixture.layer(EROFS_LAYER, &image);
    fixture.image("latest");
    let error = broken.run(&Options::default()).unwrap_err();
    let Error::InLayer { source, .. } = &error else { panic!("{error}") };
    assert!(matches!(**source, Error::Layer(LayerError::BadImage { .. })), "{error}");
}

#[test]
fn archives_are_read_in_place_and_written_whole() {
    let bench = Bench::new();
    let source = two_layers(&bench).image("latest");
    let options = Options::default();
    let select = Select::default();
    let (direct, _) = bench.run(&options).unwrap();
    bench.run_as("oci:source", "oci-archive:x.tar:new", &select, &options).unwrap();
    let names = std::fs::read_dir(bench.temp.path()).unwrap();
    let left = names.filter(|n| n.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(left.count(), 0, "nothing is left beside the archive");
    let packed = bench.temp.path().join("x.tar");
    let first = std::fs::read(&packed).unwrap();
    bench.run_as("oci:source", "oci-archive:x.tar:new", &select, &options).unwrap();
    assert_eq!(std::fs::read(&packed).unwrap(), first, "the same bytes");
    // Compressed as a whole it is spooled.
    let mut file = std::fs::File::create(bench.temp.path().join("x.tar.gz")).unwrap();
    file.write_all(&gzip(&first)).unwrap();
    for from in ["oci-archive:x.tar", "oci-archive:x.tar.gz:new"] {
        let again = bench.run_as(from, "oci:again:new", &select, &options).unwrap().0;
        assert_eq!(again.images[0].layers[1].digest, direct.images[0].layers[1].digest);
        assert_eq!(again.images[0].source, direct.digest);
    }
    assert_eq!(direct.images[0].source, source);
    let missing = bench.run_as("oci-archive:x.tar:other", "oci:again:new", &select, &options);
    let error = missing.unwrap_err();
    assert_eq!(error.code(), "image-not-found");
    assert!(error.to_string().contains("new"), "{error}");
}

#[test]
fn d18_docker_archives_with_linked_layers_stay_inside() {
    let bench = Bench::new();
    let [a, b] = [archive(&[("a", 0o644)]), gzip(&archive(&[("b", 0o644)]))];
    let diff_ids = [Digest::of(&a), Digest::of(&archive(&[("b", 0o644)])), Digest::of(&a)];
    let write = |third: &str| {
        let path = bench.temp.path().join("saved.tar");
        fixture::docker_save(&path, &[&a, &b], third, &diff_ids);
    };
    let select = Select::default();
    let run =
        |from: &str, options: &Options| bench.run_as(from, "oci:target:new", &select, options);
    write("../1/layer.tar");
    let (report, layout) = run("docker-archive:saved.tar", &Options::default()).unwrap();
    let layers = &report.images[0].layers;
    assert_eq!(layers.len(), 3);
    assert_eq!(mode(&open(&layout, &layers[1].digest), "b"), Some(0o644));
    assert_eq!(mode(&open(&layout, &layers[2].digest), "a"), Some(0o644));
    for name in ["app", "app:latest", "docker.io/library/app:latest"] {
        assert!(run(&format!("docker-archive:saved.tar:{name}"), &Options::default()).is_ok());
    }
    let error = run("docker-archive:saved.tar:other", &Options::default()).unwrap_err();
    assert_eq!(error.code(), "image-not-found");
    let kept = Options { keep_original: true, ..Options::default() };
    let (_, layout) = run("docker-archive:saved.tar", &kept).unwrap();
    let original = &manifest(&layout)["manifests"][0]["digest"];
    let original = document(&layout, original.as_str().unwrap());
    assert_eq!(original["layers"][1]["mediaType"], GZIP);
    assert_eq!(original["layers"][1]["digest"], Digest::of(&b).to_string());
    for out in ["../../../../etc/passwd", "/etc/passwd", "../3/layer.tar", "../4/layer.tar"] {
        write(out);
        let error = run("docker-archive:saved.tar", &Options::default()).unwrap_err();
        assert_eq!(error.code(), "archive-invalid", "{out}");
        assert!(error.to_string().contains("layer 2"), "{error}");
        assert!(error.to_string().contains("partial"), "{error}");
    }
    write("../1/layer.tar");
    let select = Select::Platforms(vec!["linux/s390x".parse().unwrap()]);
    let options = Options::default();
    let error = bench.run_as("docker-archive:saved.tar", "oci:target:new", &select, &options);
    assert_eq!(error.unwrap_err().code(), "platform-not-found");
}

#[test]
fn one_name_leads_to_one_image() {
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let options = Options::default();
    for to in ["oci:target:new", "oci:target:new", "oci:target:other", "oci:target", "oci:target"] {
        bench.run_as("oci:source", to, &Select::default(), &options).unwrap();
    }
    let layout = OciLayout::open(&bench.temp.path().join("target")).unwrap();
    let index: Value = serde_json::from_slice(&layout.index().unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
    let unnamed = bench.run_as("oci:target", "oci:x:new", &Select::default(), &options);
    assert_eq!(unnamed.unwrap_err().code(), "image-ambiguous");
}

#[test]
fn a_cancelled_conversion_says_so() {
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let options = Options::default();
    options.cancel.cancel();
    assert_eq!(bench.run(&options).unwrap_err().code(), "cancelled");
}
