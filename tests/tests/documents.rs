//! What a conversion writes, read by the types that other programs read it with.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use erolith_differ::apply::Output;
use erolith_differ::commit::{self, Change, CommitNote, CommitOrigin};
use erolith_differ::convert::Options;
use erolith_differ::oci::{CONFIG, Descriptor as OurDescriptor, ImageSource, Select};
use erolith_differ::{Digest, EROFS_LAYER, EROFS_LAYER_ZSTD, OCI_LAYER};
use erolith_tests::convert;
use erolith_tests::layout::Layout;
use erolith_tests::tarball::Tarball;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, OciLayout};

fn blob(layout: &Path, descriptor: &Descriptor) -> PathBuf {
    let path = layout.join("blobs/sha256").join(descriptor.digest().digest());
    assert_eq!(path.metadata().unwrap().len(), descriptor.size());
    path
}

#[test]
fn documents_are_what_the_image_specification_says() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let layers = [
        Tarball::new().dir("etc").file("etc/hosts", "a").end(),
        Tarball::new().file("etc/.wh.hosts", b"").end(),
    ];
    Layout::create(&at("from"), &layers).unwrap();
    for (output, media_type) in [
        (Output::Raw, "application/vnd.erofs.layer.v1"),
        (Output::Zstd { level: 3, threads: 1 }, "application/vnd.erofs.layer.v1+zstd"),
    ] {
        let to = at(media_type.rsplit('+').next().unwrap().rsplit('/').next().unwrap());
        let locations = (format!("oci:{}", at("from").display()), format!("oci:{}", to.display()));
        let options = Options { output, ..Options::default() };
        convert::run(&locations.0, &locations.1, temp.path(), &options).unwrap();

        assert_eq!(
            OciLayout::from_file(to.join("oci-layout")).unwrap().image_layout_version(),
            "1.0.0"
        );
        let index = ImageIndex::from_file(to.join("index.json")).unwrap();
        assert_eq!(index.schema_version(), 2);
        let [image] = index.manifests().as_slice() else { panic!("{index:?}") };
        assert_eq!(image.platform().as_ref().unwrap().os().to_string(), "linux");
        // oci-spec 0.10 looks for `os_features` in a platform; the specification calls it `os.features`.
        let plain: serde_json::Value =
            serde_json::from_slice(&std::fs::read(to.join("index.json")).unwrap()).unwrap();
        let features = &plain["manifests"][0]["platform"]["os.features"];
        assert_eq!(*features, serde_json::json!(["erofs"]));
        let manifest = ImageManifest::from_file(blob(&to, image)).unwrap();
        assert_eq!(manifest.schema_version(), 2);
        let annotations = manifest.annotations().as_ref().unwrap();
        assert!(annotations.values().any(|value| value.starts_with("sha256:")), "{annotations:?}");
        let config = ImageConfiguration::from_file(blob(&to, manifest.config())).unwrap();
        assert_eq!(config.os_features().as_deref(), Some(&["erofs".to_owned()][..]));
        let diff_ids = config.rootfs().diff_ids();
        assert_eq!((manifest.layers().len(), diff_ids.len()), (2, 2));
        for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
            blob(&to, layer);
            assert_eq!(layer.media_type().to_string(), media_type);
            assert_eq!(output == Output::Raw, layer.digest().to_string() == *diff_id);
        }
    }
}

/// An image to which a layer is added, as others read it.
#[test]
fn documents_of_commits_are_what_the_image_specification_says() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    Layout::create(&at("base"), &[Tarball::new().file("a", "a").end()]).unwrap();
    let location = format!("oci:{}", at("base").display()).parse().unwrap();
    let base = ImageSource::open(&location, &Select::default(), temp.path()).unwrap();
    let [base] = base.images.as_slice() else { panic!("one image") };
    let note = CommitNote {
        created: "2024-05-06T07:08:09.123456789Z".into(),
        created_by: "sh".into(),
        author: Some("me".into()),
        comment: "why".into(),
    };
    for media_type in [OCI_LAYER, EROFS_LAYER, EROFS_LAYER_ZSTD] {
        let digest = Digest::of(b"layer");
        let layer = commit::CommittedLayer::new(OurDescriptor::new(media_type, &digest, 5), digest)
            .unwrap();
        let changes = ["ENV A=1 B=2", "EXPOSE 80", "LABEL a=b", "VOLUME /v", "STOPSIGNAL SIGINT"];
        let changes: Vec<Change> = changes.iter().map(|text| text.parse().unwrap()).collect();
        let config = Change::apply_all(&changes, &base.config).unwrap();
        let config = commit::config(&config, &layer, &note).unwrap();
        let bytes = config.to_bytes();
        let described = OurDescriptor::new(CONFIG, &Digest::of(&bytes), bytes.len() as u64);
        let origin =
            CommitOrigin::new(Some("localhost/base:1"), &base.source_digest, &base.source_digest);
        let manifest = commit::manifest(&base.manifest, described, &layer, &note, Some(&origin));

        let config = ImageConfiguration::from_reader(bytes.as_slice()).unwrap();
        assert_eq!(config.created().as_deref(), Some(note.created.as_str()));
        let history = config.history().as_ref().unwrap();
        assert_eq!(history.len(), 2, "one entry for each layer");
        assert_eq!(history[1].comment().as_deref(), Some("why"));
        let run = config.config().as_ref().unwrap();
        assert_eq!(run.env().as_deref(), Some(&["A=1".to_owned(), "B=2".to_owned()][..]));
        assert_eq!(run.stop_signal().as_deref(), Some("SIGINT"));
        let manifest = ImageManifest::from_reader(manifest.to_bytes().as_slice()).unwrap();
        assert_eq!(manifest.layers().len(), config.rootfs().diff_ids().len());
        assert_eq!(manifest.layers()[1].media_type().to_string(), media_type);
        let annotations = manifest.annotations().as_ref().unwrap();
        assert_eq!(annotations["org.opencontainers.image.base.name"], "localhost/base:1");
    }
}
