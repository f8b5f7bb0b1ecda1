//! The cases D01 to D19 that are about single documents.

use super::*;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": SHA, "size": 7 })
}

fn manifest() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG),
        "layers": [descriptor(LAYER), descriptor(LAYER)],
    })
}

fn index() -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST)] })
}

fn with(mut value: Value, pointer: &str, key: &str, member: Value) -> Value {
    let object = value.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
    object.insert(key.to_owned(), member);
    value
}

fn parse(media_type: Option<&str>, value: &Value) -> std::result::Result<Document, &'static str> {
    Document::parse("test", media_type, value.to_string().as_bytes()).map_err(crate::testing::code)
}

fn image(value: &Value) -> Manifest {
    match parse(Some(MANIFEST), value).unwrap() {
        Document::Manifest(manifest) => *manifest,
        Document::Index(_) => panic!("an index"),
    }
}

#[test]
fn d01_a_document_that_is_manifest_and_index_is_refused() {
    let manifests = json!([descriptor(MANIFEST)]);
    let both = with(manifest(), "", "manifests", manifests);
    assert_eq!(parse(Some(MANIFEST), &both), Err("document-invalid"));
    assert_eq!(parse(None, &both), Err("document-invalid"));
    let both = with(index(), "", "layers", json!([descriptor(LAYER)]));
    assert_eq!(parse(Some(INDEX), &both), Err("document-invalid"));
    let both = with(index(), "", "config", descriptor(CONFIG));
    assert_eq!(parse(Some(INDEX), &both), Err("document-invalid"));
    // Go's parser ignores case, ours does not: what only one of them sees must not be there.
    let both = with(index(), "", "Layers", json!([descriptor(LAYER)]));
    assert_eq!(parse(Some(INDEX), &both), Err("document-invalid"));
}

#[test]
fn d02_the_media_type_must_be_the_one_described() {
    assert!(parse(Some(MANIFEST), &manifest()).is_ok());
    assert_eq!(parse(Some(INDEX), &manifest()), Err("document-invalid"));
    assert_eq!(parse(Some(DOCKER_MANIFEST), &manifest()), Err("document-invalid"));
    assert_eq!(parse(Some("text/plain"), &json!({"schemaVersion": 2})), Err("document-invalid"));
    let mut unstated = manifest();
    unstated.as_object_mut().unwrap().remove("mediaType");
    assert!(parse(Some(DOCKER_MANIFEST), &unstated).is_ok());
}

#[test]
fn d03_layers_and_diff_ids_must_be_as_many() {
    let config = json!({ "rootfs": { "type": "layers", "diff_ids": [SHA, SHA] } }).to_string();
    assert!(Config::parse("c", config.as_bytes(), 2).is_ok());
    for layers in [0, 1, 3] {
        let error = Config::parse("c", config.as_bytes(), layers).unwrap_err();
        assert_eq!(error.code(), "layer-count-mismatch");
    }
}

#[test]
fn d05_an_image_without_layers_is_an_image() {
    let none = image(&with(manifest(), "", "layers", json!([])));
    assert!(none.layers.is_empty());
    let null = image(&with(manifest(), "", "layers", Value::Null));
    assert!(null.layers.is_empty());
    for config in [r#"{"rootfs":{"type":"layers","diff_ids":null}}"#, r#"{"os":"linux"}"#] {
        assert!(Config::parse("c", config.as_bytes(), 0).unwrap().diff_ids.is_empty());
    }
}

#[test]
fn d07_unknown_members_survive_a_change_in_their_order() {
    let value = with(manifest(), "", "zz-unknown", json!({ "b": 1, "a": [1.50, "x"] }));
    let value = with(value, "", "annotations", json!({ "z": "1", "a": "2" }));
    let source = image(&value);
    let layer = Descriptor::new("x/y", &Digest::of(b"1"), 1);
    let made = source.rewritten(source.config.clone(), vec![layer]).with_annotation("new", "3");
    let text = String::from_utf8(made.to_bytes()).unwrap();
    assert!(text.contains(r#""zz-unknown":{"b":1,"a":[1.5,"x"]}"#), "{text}");
    assert!(text.contains(r#""annotations":{"z":"1","a":"2","new":"3"}"#), "{text}");

    let config = r#"{"created":"2024","config":{"Cmd":["sh"]},"x":null,"rootfs":{"type":"layers","diff_ids":[]},"history":[{"empty_layer":true}],"os":"linux","architecture":"amd64"}"#;
    let made = Config::parse("c", config.as_bytes(), 0).unwrap();
    let made = String::from_utf8(made.rewritten(Vec::new()).to_bytes()).unwrap();
    assert_eq!(made, config.replace(r#""amd64"}"#, r#""amd64","os.features":["erofs"]}"#));
}

#[test]
fn d09_digests_in_descriptors_are_checked() {
    for (digest, ok) in [
        (SHA.to_owned(), true),
        (format!("sha512:{}", "ab".repeat(64)), true),
        (SHA.to_uppercase(), false),
        (format!("blake3:{}", "ab".repeat(32)), false),
        ("sha256:../../x".to_owned(), false),
    ] {
        let got = parse(Some(MANIFEST), &with(manifest(), "/config", "digest", json!(digest)));
        assert_eq!(got.is_ok(), ok, "{digest}");
    }
}

#[test]
fn d12_embedded_data_must_be_what_the_descriptor_says() {
    let empty = json!({ "mediaType": CONFIG, "digest": SHA, "size": 0, "data": "" });
    assert!(parse(Some(MANIFEST), &with(manifest(), "", "config", empty.clone())).is_ok());
    let other = with(empty.clone(), "", "data", json!("e30="));
    let got = parse(Some(MANIFEST), &with(manifest(), "", "config", other));
    assert_eq!(got, Err("blob-digest-mismatch"));
    let size = with(empty.clone(), "", "size", json!(1));
    let got = parse(Some(MANIFEST), &with(manifest(), "", "config", size));
    assert_eq!(got, Err("blob-digest-mismatch"));
    for data in [json!("%%"), json!(7)] {
        let broken = with(empty.clone(), "", "data", data);
        let got = parse(Some(MANIFEST), &with(manifest(), "", "config", broken));
        assert_eq!(got, Err("document-invalid"));
    }
}

#[test]
fn d13_subject_and_artifact_type_are_kept() {
    let value = with(manifest(), "", "subject", descriptor(MANIFEST));
    let value = with(value, "", "artifactType", json!("a/b"));
    let source = image(&value);
    let made = source.rewritten(source.config.clone(), source.layers.clone());
    assert!(String::from_utf8(made.to_bytes()).unwrap().contains(r#""subject":{"#));
}

#[test]
fn d14_schema_1_is_refused_with_advice() {
    let one = json!({ "schemaVersion": 1, "name": "x", "fsLayers": [] });
    let media = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for media in [None, Some(media)] {
        let error = Document::parse("m", media, one.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.code(), "document-schema-1");
        assert!(error.to_string().contains("newer tool"));
    }
}

#[test]
fn d15_history_that_does_not_match_is_tolerated() {
    let config = json!({
        "rootfs": { "diff_ids": [SHA] },
        "history": [{ "created_by": "a" }, { "created_by": "b" }, { "created_by": "c" }],
    });
    let config = Config::parse("c", config.to_string().as_bytes(), 1).unwrap();
    let made = String::from_utf8(config.rewritten(vec![Digest::of(b"")]).to_bytes()).unwrap();
    assert!(made.contains(r#""created_by":"c""#));
}

#[test]
fn d19_json_is_read_as_go_reads_it_or_not_at_all() {
    let twice = format!(
        r#"{{"schemaVersion":1,"schemaVersion":2,"mediaType":"{MANIFEST}","layers":[1],"layers":[],
            "config":{{"mediaType":"a","mediaType":"{CONFIG}","digest":"{SHA}","size":1,"size":2}}}}"#
    );
    let got = Document::parse("m", Some(MANIFEST), twice.as_bytes()).unwrap();
    let Document::Manifest(got) = got else { panic!("an index") };
    assert_eq!((got.config.size, got.is_image()), (2, true));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for text in [r#"{"schemaVersion":NaN}"#, "[]", "", "{}{}", "null", "{\"a\":1", &deep] {
        let error = Document::parse("m", Some(MANIFEST), text.as_bytes()).unwrap_err();
        assert_eq!(error.code(), "document-invalid", "{}", &text[..text.len().min(20)]);
    }
}

#[test]
fn z13_sizes_that_are_no_sizes_are_refused() {
    for size in [json!(-1), json!(1_u64 << 63), json!(1.5), json!("7"), Value::Null] {
        let got = parse(Some(MANIFEST), &with(manifest(), "/config", "size", size));
        assert_eq!(got, Err("document-invalid"));
    }
}
