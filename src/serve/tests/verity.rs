//! Hash trees of applied layers, and the sidecars beside their images.

use erolith_verity::dmverity;
use erolith_verity::dmverity::sidecar::Sidecar;

use super::diff::{TAR, describe, layer};
use super::*;
use crate::proto::types::Descriptor;

const EROFS: &str = "application/vnd.erofs.layer.v1";

async fn node(dm_verity: bool) -> Node {
    Node::with(|config| config.differ.dm_verity = dm_verity.into()).await
}

/// A node that has converted a layer, and the mounts of that.
async fn converted(dm_verity: bool) -> (Node, Vec<Mount>) {
    let (node, data) = (node(dm_verity).await, layer());
    node.containerd.put(&data);
    let mounts = node.prepare("made").await;
    node.apply(&describe(&data, TAR), &mounts).await.unwrap();
    (node, mounts)
}

/// What the sidecar of these mounts says, compared with the whole image.
fn verified(mounts: &[Mount]) -> Option<Sidecar> {
    let image = layer_dir(mounts).join("layer.erofs");
    let bytes = std::fs::read(image.with_extension("erofs.dmverity")).ok()?;
    let sidecar = Sidecar::parse(&bytes).unwrap();
    let file = std::fs::File::open(image).unwrap();
    dmverity::verify(&file, sidecar.hash_offset, sidecar.root, &|| false).unwrap();
    Some(sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_converted_layer_has_a_sidecar_wherever_it_is_linked() {
    let data = layer();
    let node = node(true).await;
    node.containerd.put(&data);
    let first = node.prepare("first").await;
    let applied = node.apply(&describe(&data, TAR), &first).await.unwrap();
    assert_eq!(applied, describe(&data, TAR), "the diffID is the layer's");
    let sidecar = verified(&first);
    assert!(sidecar.is_some());
    let second = node.prepare("second").await;
    node.apply(&describe(&data, TAR), &second).await.unwrap();
    let inode = |mounts: &[Mount]| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(layer_dir(mounts).join("layer.erofs")).unwrap().ino()
    };
    assert_eq!((verified(&second), inode(&second)), (sidecar, inode(&first)));
    // Where the kept one lost its sidecar, the layer is converted once more, and kept anew.
    let kept = node.dir.path().join("root/images/sha256");
    let prefix = std::fs::read_dir(kept).unwrap().next().unwrap().unwrap().path();
    for entry in std::fs::read_dir(prefix).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "dmverity") {
            std::fs::remove_file(path).unwrap();
        }
    }
    for key in ["third", "fourth"] {
        let mounts = node.prepare(key).await;
        node.apply(&describe(&data, TAR), &mounts).await.unwrap();
        assert_eq!(verified(&mounts), sidecar, "{key}");
        assert_ne!(inode(&mounts), inode(&first), "{key}");
    }
    assert_eq!(
        node.containerd.reads.lock().unwrap().len(),
        2,
        "the fourth was linked to the third"
    );
}

/// The signature of a tree is not part of the image: one that is linked may have another signature, or none.
#[tokio::test(flavor = "multi_thread")]
async fn a_native_layer_has_the_signature_that_it_came_with() {
    let (_making, mounts) = converted(true).await;
    let sidecar = verified(&mounts).unwrap();
    let bytes = std::fs::read(layer_dir(&mounts).join("layer.erofs")).unwrap();

    let node = node(false).await;
    node.containerd.put(&bytes);
    let signature = |bytes: &[u8]| dmverity::Signature::from_der(bytes.to_vec());
    for (key, signed) in [("nobody", None), ("one", Some(b"0 one")), ("other", Some(b"0 two"))] {
        let signed = signed.and_then(|bytes| signature(bytes));
        let mounts = node.prepare(key).await;
        let mut native = describe(&bytes, EROFS);
        native.annotations = [
            ("root_digest", format!("sha256:{}", sidecar.root)),
            ("hash_offset", sidecar.hash_offset.to_string()),
        ]
        .into_iter()
        .chain(signed.as_ref().map(|signed| ("signature", signed.to_string())))
        .map(|(key, value)| (format!("org.erofs.dmverity.{key}"), value))
        .collect();
        node.apply(&native, &mounts).await.unwrap();
        assert_eq!(verified(&mounts), Some(sidecar));
        let bytes = std::fs::read(layer_dir(&mounts).join("layer.erofs.dmverity")).unwrap();
        assert_eq!(dmverity::sidecar::signature(&bytes).unwrap(), signed, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_layer_that_promises_a_digest_has_it() {
    use erolith_verity::fsverity::Digest;
    let (_making, mounts) = converted(false).await;
    let image = layer_dir(&mounts).join("layer.erofs");
    let digest = Digest::of(&std::fs::File::open(&image).unwrap(), &mut |_| {}).unwrap();
    let bytes = std::fs::read(image).unwrap();

    // Also where the image gets a tree, which the promise does not cover.
    for dm_verity in [false, true] {
        let node = node(dm_verity).await;
        node.containerd.put(&bytes);
        let mut described = describe(&bytes, EROFS);
        // First, so that there is an image of the layer which could be linked.
        let plain = node.prepare("plain").await;
        node.apply(&described, &plain).await.unwrap();
        for (promised, said) in
            [(format!("sha256:{}", "00".repeat(32)), "promises"), ("md5:1".into(), "no sha256")]
        {
            let key = "org.erofs.fsverity.digest".to_owned();
            described.annotations = [(key, promised)].into();
            let lied = node.prepare(said).await;
            let refused = node.apply(&described, &lied).await.unwrap_err();
            assert!(refused.message().contains(said), "{refused}");
            assert!(!layer_dir(&lied).join("layer.erofs").exists());
        }
        let key = "org.erofs.fsverity.digest".to_owned();
        described.annotations = [(key, digest.to_string())].into();
        let kept = node.prepare("kept").await;
        node.apply(&described, &kept).await.unwrap();
        assert!(layer_dir(&kept).join("layer.erofs").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_layer_that_promises_a_tree_has_it_verified() {
    // An image with a tree, as `erolith convert --dm-verity` makes them.
    let (_making, mounts) = converted(true).await;
    let Sidecar { root, hash_offset } = verified(&mounts).unwrap();
    let image = std::fs::read(layer_dir(&mounts).join("layer.erofs")).unwrap();

    let node = node(false).await;
    node.containerd.put(&image);
    let mut described = describe(&image, EROFS);
    let plain = node.prepare("plain").await;
    node.apply(&described, &plain).await.unwrap();
    assert_eq!(verified(&plain), None);
    let annotate = |described: &mut Descriptor, root: String| {
        let keys = ["root_digest", "hash_offset"].map(|key| format!("org.erofs.dmverity.{key}"));
        let values = [root, hash_offset.to_string()];
        described.annotations = keys.into_iter().zip(values).collect();
    };
    annotate(&mut described, format!("sha256:{}", "00".repeat(32)));
    let lied = node.prepare("lied").await;
    let refused = node.apply(&described, &lied).await.unwrap_err();
    assert!(refused.message().contains("root hash"), "{refused}");
    assert!(!layer_dir(&lied).join("layer.erofs").exists());
    annotate(&mut described, format!("sha256:{root}"));
    node.apply(&described, &lied).await.unwrap();
    assert_eq!(verified(&lied), Some(Sidecar { root, hash_offset }));
}
