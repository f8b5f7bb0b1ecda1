//! OCI image layouts made by hand, and what is in one.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What the index names an image by.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Result of looking at a layout. The text says what was being looked at.
pub type Result<T> = std::result::Result<T, String>;

/// A directory that is an OCI image layout.
#[derive(Debug, Clone)]
pub struct Layout(pub PathBuf);

impl Layout {
    /// A layout with one image named `latest`, of these uncompressed layers.
    ///
    /// # Errors
    /// What could not be written.
    pub fn create(path: &Path, layers: &[Vec<u8>]) -> Result<Self> {
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        let layers: Vec<_> =
            layers.iter().map(|tar| (media_type, tar.as_slice(), tar.as_slice())).collect();
        Self::of_blobs(path, &layers)
    }

    /// As [`Layout::create`], with a program that containers run unless they say otherwise.
    ///
    /// # Errors
    /// What could not be written.
    pub fn create_running(path: &Path, layers: &[Vec<u8>], entrypoint: &[&str]) -> Result<Self> {
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        let layers: Vec<_> =
            layers.iter().map(|tar| (media_type, tar.as_slice(), tar.as_slice())).collect();
        Self::of_parts(path, &layers, json!({ "Entrypoint": entrypoint }))
    }

    /// A layout with one image named `latest`. Each layer has a media type, a blob, and what that is uncompressed.
    ///
    /// # Errors
    /// What could not be written.
    pub fn of_blobs(path: &Path, layers: &[(&str, &[u8], &[u8])]) -> Result<Self> {
        Self::of_parts(path, layers, json!({}))
    }

    fn of_parts(path: &Path, layers: &[(&str, &[u8], &[u8])], runs: Value) -> Result<Self> {
        let layout = Self(path.to_owned());
        fs::create_dir_all(path.join("blobs/sha256")).map_err(|e| e.to_string())?;
        write(&path.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut diff_ids = Vec::new();
        let mut descriptors = Vec::new();
        for (media_type, blob, tar) in layers {
            diff_ids.push(format!("sha256:{}", sha256(tar)));
            descriptors.push(layout.add(media_type, blob)?);
        }
        let config = json!({
            "architecture": host_architecture(),
            "os": "linux",
            "config": runs,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let media_type = "application/vnd.oci.image.config.v1+json";
        let config = layout.add(media_type, config.to_string().as_bytes())?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config,
            "layers": descriptors,
        });
        layout.add_image(&manifest)?;
        Ok(layout)
    }

    /// Makes a manifest the image `latest`.
    fn add_image(&self, manifest: &Value) -> Result<()> {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let mut entry = self.add(media_type, manifest.to_string().as_bytes())?;
        entry["annotations"] = json!({ REF_NAME: "latest" });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        write(&self.0.join("index.json"), index.to_string().as_bytes())
    }

    /// The image that `testdata/real-image.sh` makes.
    ///
    /// # Errors
    /// When it is missing, for [`crate::need!`].
    pub fn real_image() -> Result<Self> {
        crate::tools::cached("real-image-small", "testdata/real-image.sh").map(Self)
    }

    /// A layout at `path` with the image `latest` of this one and one more layer on top of it.
    ///
    /// # Errors
    /// What could not be read or written.
    pub fn with_layer(&self, path: &Path, layer: &[u8]) -> Result<Self> {
        let layout = Self(path.to_owned());
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(|e| e.to_string())?;
        for entry in fs::read_dir(self.0.join("blobs/sha256")).map_err(|e| e.to_string())? {
            let entry = entry.map_err(|e| e.to_string())?;
            fs::copy(entry.path(), blobs.join(entry.file_name())).map_err(|e| e.to_string())?;
        }
        write(&path.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut manifest = self.manifest("latest")?.ok_or("no image")?;
        let mut config = self.document(text(&manifest["config"]["digest"]))?;
        let descriptor = layout.add("application/vnd.oci.image.layer.v1.tar", layer)?;
        push(&mut config["rootfs"]["diff_ids"], descriptor["digest"].clone())?;
        // One entry of the history for each layer, or none at all.
        if let Some(config) = config.as_object_mut() {
            config.remove("history");
        }
        push(&mut manifest["layers"], descriptor)?;
        let media_type = text(&manifest["config"]["mediaType"]).to_owned();
        manifest["config"] = layout.add(&media_type, config.to_string().as_bytes())?;
        layout.add_image(&manifest)?;
        Ok(layout)
    }

    fn add(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = sha256(bytes);
        write(&self.0.join("blobs/sha256").join(&digest), bytes)?;
        let digest = format!("sha256:{digest}");
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }

    /// Where a blob is.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// A blob that is JSON.
    ///
    /// # Errors
    /// When it is missing, or something else.
    pub fn document(&self, digest: &str) -> Result<Value> {
        let bytes = fs::read(self.blob(digest)).map_err(|e| format!("{digest}: {e}"))?;
        serde_json::from_slice(&bytes).map_err(|e| format!("{digest}: {e}"))
    }

    /// The manifest named `name`; `None` when the index lists none.
    ///
    /// # Errors
    /// When there is an index and it cannot be read, or what it lists.
    pub fn manifest(&self, name: &str) -> Result<Option<Value>> {
        let path = self.0.join("index.json");
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(path).map_err(|e| e.to_string())?;
        let index: Value = serde_json::from_slice(&bytes).map_err(|e| format!("index: {e}"))?;
        let entries = index["manifests"].as_array().cloned().unwrap_or_default();
        let entry = entries.iter().find(|entry| entry["annotations"][REF_NAME] == name);
        entry.map(|entry| self.document(text(&entry["digest"]))).transpose()
    }

    /// Blobs of the layers of a manifest, lowest first.
    pub fn layers(&self, manifest: &Value) -> Vec<PathBuf> {
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        layers.iter().map(|layer| self.blob(text(&layer["digest"]))).collect()
    }

    /// Checks that everything a manifest refers to is there, to the last byte.
    ///
    /// # Errors
    /// What is missing or damaged.
    pub fn verify(&self, manifest: &Value) -> Result<()> {
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        for descriptor in layers.iter().chain([&manifest["config"]]) {
            let digest = text(&descriptor["digest"]);
            let bytes = fs::read(self.blob(digest)).map_err(|e| format!("{digest}: {e}"))?;
            if descriptor["size"] != bytes.len() || format!("sha256:{}", sha256(&bytes)) != digest {
                return Err(format!("{digest} is damaged: {} bytes", bytes.len()));
            }
        }
        Ok(())
    }

    /// Every file of the layout, relative to it, sorted.
    ///
    /// # Errors
    /// What could not be listed.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut out = Vec::new();
        let mut todo = vec![self.0.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))? {
                let path = entry.map_err(|e| e.to_string())?.path();
                if path.is_dir() {
                    todo.push(path);
                } else {
                    let relative = path.strip_prefix(&self.0).unwrap_or(&path);
                    out.push(relative.display().to_string());
                }
            }
        }
        out.sort();
        Ok(out)
    }
}

fn push(list: &mut Value, value: Value) -> Result<()> {
    list.as_array_mut().ok_or("not a list")?.push(value);
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The hexadecimal SHA-256, by which blobs are called.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |out, byte| format!("{out}{byte:02x}"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = fs::File::create(path).and_then(|mut file| file.write_all(bytes));
    file.map_err(|e| format!("{}: {e}", path.display()))
}

/// This machine's architecture as OCI names it.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
