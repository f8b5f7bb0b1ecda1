//! Images in layouts and archives, written without the code that is tested.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Digest;
pub(super) use crate::testing::{archive, gzip};

pub(super) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(super) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// An image layout being written.
pub(super) struct Fixture {
    path: PathBuf,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
}

impl Fixture {
    pub(super) fn new(path: &Path) -> Self {
        std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        let this = Self { path: path.to_owned(), layers: Vec::new(), diff_ids: Vec::new() };
        this.write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        this
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        File::create(self.path.join(name)).unwrap().write_all(bytes).unwrap();
    }

    pub(super) fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.write(&format!("blobs/sha256/{}", digest.hex()), bytes);
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    }

    /// Adds a layer whose diffID is that of its decompressed bytes.
    pub(super) fn layer(&mut self, media_type: &str, blob: &[u8]) {
        let diff_id = if blob.is_empty() {
            Digest::of(blob)
        } else if media_type == GZIP {
            let mut out = Vec::new();
            let mut decoder = flate2::read::MultiGzDecoder::new(blob);
            std::io::Read::read_to_end(&mut decoder, &mut out).unwrap();
            Digest::of(&out)
        } else if media_type == ZSTD {
            Digest::of(&zstd::stream::decode_all(blob).unwrap())
        } else {
            Digest::of(blob)
        };
        self.layer_as(media_type, blob, &diff_id);
    }

    pub(super) fn layer_as(&mut self, media_type: &str, blob: &[u8], diff_id: &Digest) {
        let descriptor = self.put(media_type, blob);
        self.layers.push(descriptor);
        self.diff_ids.push(diff_id.to_string());
    }

    /// Annotates the last layer.
    pub(super) fn annotate_layer(&mut self, key: &str, value: &str) {
        let layer = self.layers.last_mut().unwrap();
        layer["annotations"][key] = json!(value);
    }

    /// Writes the image of the layers so far, and lists it. Returns the digest of its manifest.
    pub(super) fn image(&mut self, name: &str) -> Digest {
        let mut entry = self.platform("amd64", "");
        entry.as_object_mut().unwrap().remove("platform");
        self.name(name, &entry);
        entry["digest"].as_str().unwrap().parse().unwrap()
    }

    /// Writes the image of the layers so far for a platform. Returns its entry for an index.
    pub(super) fn platform(&mut self, architecture: &str, variant: &str) -> Value {
        let mut platform = json!({ "architecture": architecture, "os": "linux" });
        if !variant.is_empty() {
            platform["variant"] = json!(variant);
        }
        let mut config = platform.clone();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": self.diff_ids });
        config["history"] = json!([{ "created_by": "test" }]);
        let media_type = "application/vnd.oci.image.config.v1+json";
        let config = self.put(media_type, config.to_string().as_bytes());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config,
            "layers": self.layers,
            "annotations": { "kept": "yes" },
        });
        let mut entry = self.put(media_type, manifest.to_string().as_bytes());
        entry["platform"] = platform;
        entry
    }

    /// Writes an index of these. Returns its entry for an index.
    pub(super) fn put_index(&self, entries: &[Value]) -> Value {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "manifests": entries,
            "annotations": { "index": "kept" },
        });
        self.put(media_type, index.to_string().as_bytes())
    }

    pub(super) fn index(&self, name: &str, entries: &[Value]) {
        let entry = self.put_index(entries);
        self.name(name, &entry);
    }

    /// Lists `entry` as the only image.
    pub(super) fn name(&self, name: &str, entry: &Value) {
        let mut entry = entry.clone();
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        self.write("index.json", index.to_string().as_bytes());
    }
}

/// What `docker save` writes: layers `1/layer.tar`, `2/layer.tar` and so on, and one more that is a symbolic link.
pub(super) fn docker_save(path: &Path, layers: &[&[u8]], link: &str, diff_ids: &[Digest]) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    let mut file = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, data).unwrap();
    };
    let mut names = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        names.push(format!("{}/layer.tar", i + 1));
        file(&names[i], layer);
    }
    names.push(format!("{}/layer.tar", layers.len() + 1));
    let diff_ids: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string();
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    file(&config_name, config.as_bytes());
    let manifest =
        json!([{ "Config": config_name, "RepoTags": ["app:latest"], "Layers": names }]).to_string();
    file("manifest.json", manifest.as_bytes());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    let name = names.last().unwrap();
    header.set_path(name).unwrap();
    header.set_link_name_literal(link).unwrap();
    header.set_cksum();
    builder.append(&header, &[][..]).unwrap();
    builder.finish().unwrap();
}
