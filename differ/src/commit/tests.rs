//! Documents of committed images.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use super::layout::{WrittenBlob, commit};
use super::*;
use crate::content::OciLayout;
use crate::decode::Cancel;
use crate::error::ContentError;
use crate::oci::{
    CONFIG, DOCKER_CONFIG, DOCKER_MANIFEST, Destination, Document, INDEX, ImageSource, Index,
    MANIFEST, Platform, REF_NAME, Select,
};
use crate::{EROFS_LAYER, EROFS_LAYER_ZSTD, OCI_LAYER};

const BASE: &str = r#"{"created":"2020-01-01T00:00:00Z","author":"them","architecture":"amd64","os":"linux","unknown":[1.50],"config":{"Env":["PATH=/bin","A=1"],"Cmd":["sh"],"Entrypoint":["/init"],"WorkingDir":"/srv","Labels":null},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created_by":"first"},{"created_by":"CMD","empty_layer":true}]}"#;

fn base() -> Config {
    Config::parse("base", BASE.as_bytes(), 1).unwrap()
}

fn layer(media_type: &str) -> CommittedLayer {
    let descriptor = Descriptor::new(media_type, &Digest::of(b"blob"), 4);
    CommittedLayer::new(descriptor, Digest::of(b"archive")).unwrap()
}

fn note() -> CommitNote {
    CommitNote {
        created: "2024-05-06T07:08:09Z".into(),
        created_by: "sh -c x".into(),
        ..CommitNote::default()
    }
}

fn value(config: &Config) -> Value {
    serde_json::from_slice(&config.to_bytes()).unwrap()
}

/// `config` of the base with these changes.
fn changed(changes: &[&str]) -> Result<Value> {
    let changes = changes.iter().map(|text| text.parse()).collect::<Result<Vec<Change>>>()?;
    Ok(value(&Change::apply_all(&changes, &base())?)["config"].clone())
}

#[test]
fn a_layer_and_its_history_are_added_and_nothing_else_changes() {
    let note = CommitNote { author: Some("me".into()), comment: "why".into(), ..note() };
    let made = value(&config(&base(), &layer(OCI_LAYER), &note).unwrap());
    let mut want: Value = serde_json::from_str(BASE).unwrap();
    want["created"] = json!("2024-05-06T07:08:09Z");
    want["author"] = json!("me");
    want["rootfs"]["diff_ids"].as_array_mut().unwrap().push(json!(Digest::of(b"archive")));
    want["history"].as_array_mut().unwrap().push(json!({
        "created": "2024-05-06T07:08:09Z", "created_by": "sh -c x", "author": "me", "comment": "why",
    }));
    assert_eq!(made, want);
}

#[test]
fn the_author_stays_and_did_not_make_the_layer() {
    let made = value(&config(&base(), &layer(OCI_LAYER), &note()).unwrap());
    assert_eq!(made["author"], "them");
    let last = made["history"].as_array().unwrap().last().unwrap();
    assert_eq!(*last, json!({ "created": "2024-05-06T07:08:09Z", "created_by": "sh -c x" }));
}

#[test]
fn the_history_counts_every_layer() {
    let of = |history: Value, layers: usize| {
        let json = json!({ "history": history });
        super::history(json.as_object().unwrap(), layers, &note()).map(|history| history.len())
    };
    assert_eq!(of(Value::Null, 0).unwrap(), 1);
    assert_eq!(of(Value::Null, 2).unwrap(), 3);
    assert_eq!(of(json!([{}, { "empty_layer": true }]), 2).unwrap(), 4);
    assert_eq!(of(json!([{}, {}, {}]), 1).unwrap(), 4, "more than layers: not ours to judge");
    assert_eq!(of(json!({}), 1).unwrap_err().code(), "document-invalid");
}

#[test]
fn only_erofs_layers_need_the_feature() {
    for (media_type, feature) in [
        (OCI_LAYER, Value::Null),
        (EROFS_LAYER, json!(["erofs"])),
        (EROFS_LAYER_ZSTD, json!(["erofs"])),
    ] {
        let layer = layer(media_type);
        let made = value(&config(&base(), &layer, &note()).unwrap());
        assert_eq!(made["os.features"], feature, "{media_type}");
        let digest = layer.descriptor.annotation("org.erofs.uncompressed-digest");
        let want = (media_type == EROFS_LAYER_ZSTD).then(|| Digest::of(b"archive").to_string());
        assert_eq!(digest.map(str::to_owned), want);
    }
    let descriptor = Descriptor::new("text/plain", &Digest::of(b""), 0);
    assert!(CommittedLayer::new(descriptor, Digest::of(b"")).is_err());
}

fn parsed(manifest: &Value) -> Manifest {
    let media_type = manifest["mediaType"].as_str();
    match Document::parse("m", media_type, manifest.to_string().as_bytes()).unwrap() {
        Document::Manifest(manifest) => *manifest,
        Document::Index(_) => panic!("an index"),
    }
}

fn described(media_type: &str, bytes: &[u8]) -> Value {
    Descriptor::new(media_type, &Digest::of(bytes), bytes.len() as u64).to_json()
}

#[test]
fn the_manifest_is_ocis_and_says_what_it_stands_on() {
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let base = parsed(&json!({
        "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
        "config": described(DOCKER_CONFIG, b"c"), "layers": [described(docker, b"l")],
        "subject": described(MANIFEST, b"s"),
        "annotations": { SOURCE_DIGEST: "x", BASE_NAME: "other", CREATED: "2020", "kept": "1" },
    }));
    let config = Descriptor::new(CONFIG, &Digest::of(b"new"), 3);
    let (target, digest) = (Digest::of(b"index"), Digest::of(b"manifest"));
    let origin = CommitOrigin::new(Some("docker.io/library/a:b"), &target, &digest);
    let made = manifest(&base, config.clone(), &layer(EROFS_LAYER), &note(), Some(&origin));
    let made: Value = serde_json::from_slice(&made.to_bytes()).unwrap();
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let want = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config.to_json(),
        "layers": [described(gzip, b"l"), described(EROFS_LAYER, b"blob")],
        "annotations": {
            CREATED: "2024-05-06T07:08:09Z", "kept": "1",
            BASE_NAME: "docker.io/library/a:b", BASE_DIGEST: target.to_string(),
        },
    });
    assert_eq!(made, want);
    for name in [None, Some("a:b"), Some("a/b")] {
        let origin = CommitOrigin::new(name, &target, &digest);
        assert_eq!((origin.name, origin.digest), (None, digest.clone()), "{name:?}");
    }
    assert!(CommitOrigin::new(Some("localhost/a"), &target, &digest).name.is_some());
}

#[test]
fn an_image_from_scratch_has_one_layer() {
    let (none, empty) = Base::scratch();
    assert_eq!((none.layers.len(), empty.chain_id()), (0, None));
    let made = config(&empty, &layer(OCI_LAYER), &note()).unwrap();
    assert_eq!(made.chain_id(), Some(Digest::of(b"archive")));
    assert_eq!(made.platform.os, "linux");
    assert_eq!(value(&made)["history"].as_array().unwrap().len(), 1);
}

#[test]
fn changes_mean_what_they_mean_in_a_dockerfile() {
    let of = |changes: &[&str], key: &str| changed(changes).unwrap()[key].clone();
    assert_eq!(of(&[r#"CMD ["a", "$A"]"#], "Cmd"), json!(["a", "$A"]));
    assert_eq!(of(&["cmd a  $A"], "Cmd"), json!(["/bin/sh", "-c", "a  $A"]));
    assert_eq!(of(&["CMD [ -f x ] && y"], "Cmd"), json!(["/bin/sh", "-c", "[ -f x ] && y"]));
    assert_eq!(of(&["CMD []"], "Cmd"), Value::Null);
    let entrypoint = changed(&[r#"ENTRYPOINT ["/a"]"#]).unwrap();
    assert_eq!((&entrypoint["Entrypoint"], &entrypoint["Cmd"]), (&json!(["/a"]), &Value::Null));
    let both = changed(&["CMD [\"b\"]", "ENTRYPOINT [\"/a\"]"]).unwrap();
    assert_eq!((&both["Entrypoint"], &both["Cmd"]), (&json!(["/a"]), &json!(["b"])));
    let env = of(&["ENV PATH=$PATH:/x B=\"b c\"", "ENV C  d 'e'", "ENV D=$C"], "Env");
    assert_eq!(env, json!(["PATH=/bin:/x", "A=1", "B=b c", "C=d e", "D=d e"]));
    let labels = of(&["LABEL a=1 \"b c\"=${A}", "LABEL a 2"], "Labels");
    assert_eq!(labels, json!({ "a": "2", "b c": "1" }));
    let ports = of(&["EXPOSE 80 81/UDP 90-91"], "ExposedPorts");
    assert_eq!(ports, json!({ "80/tcp": {}, "81/udp": {}, "90/tcp": {}, "91/tcp": {} }));
    assert_eq!(of(&["VOLUME /a \"/b c\""], "Volumes"), json!({ "/a": {}, "/b c": {} }));
    assert_eq!(of(&[r#"VOLUME ["/a"]"#], "Volumes"), json!({ "/a": {} }));
    assert_eq!(of(&["USER 1:$A"], "User"), json!("1:1"));
    assert_eq!(of(&["WORKDIR a/../b", "WORKDIR ./c"], "WorkingDir"), json!("/srv/b/c"));
    assert_eq!(of(&["WORKDIR /../x"], "WorkingDir"), json!("/x"));
    for signal in ["SIGTERM", "9", "SIGRTMIN+3"] {
        assert_eq!(of(&[&format!("STOPSIGNAL {signal}")], "StopSignal"), json!(signal));
    }
    assert_eq!(changed(&[]).unwrap(), serde_json::from_str::<Value>(BASE).unwrap()["config"]);
}

#[test]
fn what_changes_nothing_is_refused_with_the_reason() {
    for (text, word) in [
        ("RUN x", "none of CMD"),
        ("CMD=x", "none of CMD"),
        ("", "none of CMD"),
        ("USER ", "nothing follows"),
        ("CMD ['a']", "JSON"),
        ("CMD [1]", "JSON"),
        ("ENV A", "no value"),
        ("ENV A=1 B", "no ="),
        ("ENV =1", "no name"),
        ("LABEL a=\"b", "quote"),
        ("EXPOSE http", "no port"),
        ("EXPOSE 70000", "no port"),
        ("EXPOSE 9-8", "no port"),
        ("EXPOSE 80/icmp", "no port"),
        ("EXPOSE +80", "no port"),
        ("VOLUME \"\"", "empty"),
        ("STOPSIGNAL 99", "no signal"),
        ("STOPSIGNAL sigterm", "no signal"),
    ] {
        let error = changed(&[text]).unwrap_err();
        assert_eq!(error.code(), "change-invalid", "{text}");
        assert!(error.to_string().contains(word), "{text}: {error}");
    }
}

#[test]
fn a_config_that_reads_in_two_ways_is_not_changed() {
    for config in [r#"{"config":{"cmd":["a"]}}"#, r#"{"config":[]}"#] {
        let config = Config::parse("c", config.as_bytes(), 0).unwrap();
        let error = Change::apply_all(&["USER 1".parse().unwrap()], &config).unwrap_err();
        assert_eq!(error.code(), "document-invalid");
    }
    for config in [r#"{"config":null}"#, "{}"] {
        let config = Config::parse("c", config.as_bytes(), 0).unwrap();
        let made = Change::apply_all(&["USER 1".parse().unwrap()], &config).unwrap();
        assert_eq!(value(&made)["config"], json!({ "User": "1" }));
    }
}

/// Documents by digest.
#[derive(Default)]
struct Store(BTreeMap<Digest, Vec<u8>>);

impl Store {
    fn put(&mut self, media_type: &str, document: &Value) -> Descriptor {
        let bytes = document.to_string().into_bytes();
        let descriptor = Descriptor::new(media_type, &Digest::of(&bytes), bytes.len() as u64);
        self.0.insert(descriptor.digest.clone(), bytes);
        descriptor
    }

    /// An image of one layer.
    fn image(&mut self, layer: &[u8], os: &str) -> Descriptor {
        let config = self.put(
            CONFIG,
            &json!({
                "os": os, "rootfs": { "diff_ids": [Digest::of(layer)] },
            }),
        );
        self.put(
            MANIFEST,
            &json!({
                "schemaVersion": 2, "mediaType": MANIFEST,
                "config": config.to_json(), "layers": [described(OCI_LAYER, layer)],
            }),
        )
    }

    fn index(&mut self, entries: &[&Descriptor]) -> Descriptor {
        let entries: Vec<_> = entries.iter().map(|entry| entry.to_json()).collect();
        self.put(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }))
    }
}

impl ContentStore for Store {
    type Error = Error;

    fn document(&self, described: &Descriptor, _limit: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(&described.digest).cloned())
    }

    fn put_document(&self, bytes: &[u8], _names: &[Reference<'_>]) -> Result<Digest> {
        Ok(Digest::of(bytes))
    }
}

#[test]
fn the_base_is_the_image_whose_layers_are_below() {
    let mut store = Store::default();
    let absent = Descriptor::new(MANIFEST, &Digest::of(b"absent"), 6);
    let (one, two) = (store.image(b"1", "linux"), store.image(b"2", "linux"));
    let inner = store.index(&[&two]);
    let unknown = Platform { os: "unknown".into(), ..Platform::host() };
    let attestation = store.image(b"3", "linux").with_platform(unknown);
    let target = store.index(&[&absent, &one, &inner, &attestation]);
    let found = |chain: &[u8]| find(&store, &target, &Digest::of(chain)).unwrap();
    assert_eq!(found(b"1").unwrap().digest, one.digest);
    assert_eq!(found(b"2").unwrap().digest, two.digest);
    for chain in [&b"3"[..], b"4"] {
        assert!(found(chain).is_none());
    }
    assert_eq!(find(&store, &one, &Digest::of(b"1")).unwrap().unwrap().config.diff_ids.len(), 1);
    assert!(find(&store, &absent, &Digest::of(b"1")).unwrap().is_none());
}

#[test]
fn documents_of_a_base_are_verified() {
    let mut store = Store::default();
    let image = store.image(b"1", "linux");
    let large = Descriptor::new(MANIFEST, &image.digest, 5 << 20);
    let error = find(&store, &large, &Digest::of(b"1")).unwrap_err();
    assert_eq!(error.code(), "document-too-large");
    store.0.insert(image.digest.clone(), b"{}".to_vec());
    let error = find(&store, &image, &Digest::of(b"1")).unwrap_err();
    assert_eq!(error.code(), "blob-digest-mismatch");
}

#[test]
fn chains_are_named_as_the_specification_says() {
    let ids = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")];
    let of = |n: usize| Base::scratch().1.with_diff_ids(ids[..n].to_vec()).chain_id();
    assert_eq!(of(1), Some(ids[0].clone()));
    let two = Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes());
    assert_eq!(of(2), Some(two.clone()));
    assert_eq!(of(3), Some(Digest::of(format!("{two} {}", ids[2]).as_bytes())));
}

/// A layout with the image `base` of one layer.
fn layout(path: &Path) {
    let layout = OciLayout::create(path).unwrap();
    let tar = crate::testing::archive(&[("a", 0o644)]);
    let layer = layout.put(&tar).unwrap();
    let put = |media_type: &str, document: Value| {
        let bytes = document.to_string().into_bytes();
        Descriptor::new(media_type, &layout.put(&bytes).unwrap(), bytes.len() as u64)
    };
    let architecture = Platform::host().architecture;
    let rootfs = json!({ "diff_ids": [layer] });
    let config =
        put(CONFIG, json!({ "os": "linux", "architecture": architecture, "rootfs": rootfs }));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": config.to_json(), "layers": [described(OCI_LAYER, &tar)],
    });
    let entry = put(MANIFEST, manifest).with_annotation(REF_NAME, "base");
    layout.update_index(|_| Ok(Index::new(vec![entry]).to_bytes())).unwrap();
}

/// Adds a layer, whose blob is `bytes`, to the image `base` of the layout at `from`.
fn added(from: &Path, to: &str, bytes: &[u8]) -> Result<(CommittedImage, Digest)> {
    let location = format!("oci:{}:base", from.display()).parse().unwrap();
    let base = ImageSource::open(&location, &Select::default(), from).unwrap();
    let destination = Destination::open(&to.parse().unwrap())?;
    let (note, cancel) = (note(), Cancel::default());
    let changes = ["USER 1".parse().unwrap()];
    let addition = Addition { changes: &changes, note: &note, cancel: &cancel };
    commit(&base, destination, &addition, OCI_LAYER, |staging| {
        let mut file = staging.file();
        file.write_all(bytes).unwrap();
        let digest = Digest::of(bytes);
        Ok(WrittenBlob { digest: digest.clone(), size: bytes.len() as u64, diff_id: digest })
    })
}

#[test]
fn images_of_layouts_get_a_layer() {
    let temp = tempfile::tempdir().unwrap();
    let from = temp.path().join("from");
    layout(&from);
    let mut manifests = Vec::new();
    for to in ["from", "to"] {
        let to = format!("oci:{}:new", temp.path().join(to).display());
        let (made, below) = added(&from, &to, b"layer").unwrap();
        let source = ImageSource::open(&to.parse().unwrap(), &Select::default(), &from).unwrap();
        let [image] = source.images.as_slice() else { panic!("one image") };
        assert_eq!(image.source_digest, made.manifest.digest);
        let bytes: Vec<_> =
            image.layers.iter().map(|layer| source.blob(layer).unwrap().bytes(1 << 20)).collect();
        assert_eq!(bytes.len(), 2);
        assert_eq!(*bytes[1].as_ref().unwrap(), b"layer");
        assert_eq!(value(&image.config)["config"]["User"], "1");
        let base = image.manifest.annotation(BASE_DIGEST).map(str::to_owned);
        assert_eq!(base, Some(below.to_string()));
        manifests.push(made.manifest.digest);
    }
    assert_eq!(manifests[0], manifests[1]);
    // Both are there.
    let base = format!("oci:{}:base", from.display()).parse().unwrap();
    assert!(ImageSource::open(&base, &Select::default(), &from).is_ok());
}

#[test]
fn a_layer_that_cannot_be_written_leaves_no_image() {
    let temp = tempfile::tempdir().unwrap();
    let from = temp.path().join("from");
    layout(&from);
    let before = std::fs::read(from.join("index.json")).unwrap();
    let location = format!("oci:{}:base", from.display()).parse().unwrap();
    let base = ImageSource::open(&location, &Select::default(), &from).unwrap();
    let (note, cancel) = (note(), Cancel::default());
    for cancels in [false, true] {
        let destination = Destination::open(&location).unwrap();
        let addition = Addition { changes: &[], note: &note, cancel: &cancel };
        let made = commit(&base, destination, &addition, OCI_LAYER, |_| {
            if cancels {
                cancel.cancel();
                let digest = Digest::of(b"");
                return Ok(WrittenBlob { digest: digest.clone(), size: 0, diff_id: digest });
            }
            Err(Error::Content(ContentError::BlobMissing { digest: Digest::of(b"x") }))
        });
        let want = if cancels { "cancelled" } else { "blob-missing" };
        assert_eq!(made.unwrap_err().code(), want);
        assert_eq!(std::fs::read(from.join("index.json")).unwrap(), before);
    }
}
