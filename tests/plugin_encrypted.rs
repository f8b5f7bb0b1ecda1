//! Layers that skopeo encrypted, decrypted by containerd's own program for that, with the payload that containerd sends.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod rpc;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use erolith_tests::layout::Layout;
use erolith_tests::need;
use erolith_tests::node::{Daemon, Setup, disk, isolated};
use erolith_tests::tarball::Tarball;
use erolith_tests::tools::{cache, cached};
use serde_json::{Value, json};
use tonic::Code;

use crate::rpc::{Client, Descriptor, is};

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// As containerd's documentation of image decryption has it.
const DECODER: &str = "io.containerd.ocicrypt.decoder.v1.tar.gzip";

fn decoder() -> Result<PathBuf, String> {
    cached("ctd-decoder/ctd-decoder", "testdata/ctd-decoder.sh")
}

fn ran(program: &str, args: &[&str]) {
    let out =
        Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A new pair of keys: the private one in a directory of its own, and where the public one is.
fn keys(dir: &Path) -> String {
    fs::create_dir(dir).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    let public = format!("{}.pub", dir.display());
    ran("openssl", &["genrsa", "-out", &at("key.pem"), "2048"]);
    ran("openssl", &["rsa", "-in", &at("key.pem"), "-pubout", "-out", &public]);
    public
}

/// The encrypted layer as the manifest describes it, and its blob in a store of containerd's form.
fn encrypted(dir: &Path, tar: &[u8], key: &str) -> Value {
    let plain = Layout::of_blobs(&dir.join("plain"), &[(TAR, tar, tar)]).unwrap();
    let to = dir.join("encrypted");
    let program = cache().join("bin/skopeo").display().to_string();
    let (from, into) =
        (format!("oci:{}:latest", plain.0.display()), format!("oci:{}:x", to.display()));
    ran(&program, &["copy", "--quiet", "--encryption-key", &format!("jwe:{key}"), &from, &into]);
    let image = Layout(to);
    let manifest = image.manifest("x").unwrap().unwrap();
    let blob = image.layers(&manifest).remove(0);
    let store = dir.join("containerd/io.containerd.content.v1.content/blobs/sha256");
    fs::create_dir_all(&store).unwrap();
    fs::copy(&blob, store.join(blob.file_name().unwrap())).unwrap();
    manifest["layers"][0].clone()
}

/// What containerd sends for a layer when it is told to decrypt with the keys of the node.
fn payload(layer: &Value) -> BTreeMap<String, prost_types::Any> {
    let value = json!({ "DecryptConfig": { "Parameters": null }, "Descriptor": layer });
    let type_url = "io.containerd.ocicrypt.v1.Payload".to_owned();
    let any = prost_types::Any { type_url, value: value.to_string().into_bytes() };
    [(DECODER.to_owned(), any)].into()
}

fn descriptor(layer: &Value) -> Descriptor {
    Descriptor {
        media_type: layer["mediaType"].as_str().unwrap().to_owned(),
        digest: layer["digest"].as_str().unwrap().to_owned(),
        size: layer["size"].as_i64().unwrap(),
        ..Descriptor::default()
    }
}

fn config(decoder: &Path, keys: &Path) -> String {
    format!(
        "[stream_processors.{DECODER:?}]\naccepts = [\"{TAR}+gzip+encrypted\"]\nreturns = \"{TAR}+gzip\"\n\
         path = {decoder:?}\nargs = [\"--decryption-keys-path\", {keys:?}]\n"
    )
}

#[test]
fn an_encrypted_layer_is_decrypted_with_the_keys_of_the_node_and_no_others() {
    isolated(|| {
        let decoder = need!(decoder());
        let dir = need!(disk());
        let at = |name: &str| dir.path().join(name);
        let (public, _) = (keys(&at("ours")), keys(&at("others")));
        let noise: Vec<u8> =
            (0..3 << 20_u32).map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let tar = Tarball::new().dir("etc/").file("etc/secret", &noise).end();
        let layer = encrypted(dir.path(), &tar, &public);
        // skopeo compresses first.
        assert_eq!(layer["mediaType"], format!("{TAR}+gzip+encrypted"));

        let setup = |keys: &str| {
            let config = config(&decoder, &at(keys));
            Setup { config, ..Setup::alone(EROLITH, dir.path()) }
        };
        let daemon = Daemon::start(setup("others")).unwrap();
        let client = Client::connect(&daemon.setup.socket());
        let mounts = client.prepare("k", "").unwrap();
        let image = Path::new(&mounts[0].source).with_file_name("layer.erofs");
        let answer = client.apply_with(&descriptor(&layer), &mounts, payload(&layer));
        assert!(is(&answer, Code::FailedPrecondition), "{answer:?}");
        let message = answer.unwrap_err().message().to_owned();
        assert!(message.contains("DecryptLayer failed"), "{message}");
        assert!(!image.exists());
        daemon.stop().unwrap();

        let daemon = Daemon::start(setup("ours")).unwrap();
        let client = Client::connect(&daemon.setup.socket());
        let mounts = client.mounts("k").unwrap();
        let applied = client.apply_with(&descriptor(&layer), &mounts, payload(&layer)).unwrap();
        assert_eq!(applied.media_type, TAR);
        assert_eq!(applied.size, i64::try_from(tar.len()).unwrap());
        let out = Command::new(EROLITH).arg("cat").arg(&image).arg("/etc/secret").output().unwrap();
        assert!(out.stdout == noise, "{}", String::from_utf8_lossy(&out.stderr));
        client.commit("layer", "k").unwrap();
        client.empty().unwrap();
        daemon.stop().unwrap();
    });
}
