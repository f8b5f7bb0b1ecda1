//! Names, chains, and how a blob is known.

use std::path::Path;

use erolith_differ::{Digest, EROFS_LAYER};
use erolith_mkfs::format::SUPER_MAGIC;

use super::Unhealed;
use super::search::{chain, diff_id_of_path, media_types, parts};
use crate::proto::types::Descriptor;
use crate::serve::diff::layer_spec::origin_blob;
use crate::serve::error::Error;

#[test]
fn names_of_the_metadata_store_have_a_namespace_and_a_chain() {
    for (name, want) in [
        ("k8s.io/7/sha256:aa", Some(("k8s.io", "sha256:aa"))),
        ("default/12/a/b", Some(("default", "a/b"))),
        ("sha256:aa", None),
        ("a/b", None),
        ("/1/c", None),
        ("a/1/", None),
    ] {
        assert_eq!(parts(name), want, "{name}");
    }
}

#[test]
fn chains_are_those_of_the_specification() {
    // The example of image-spec's identity package.
    let layers = [
        "sha256:e0e81a9a8e5f95a0b4e3d0e9d8e0f2b0a5a0c9f2f3b7a7c6b1d1f1e0d0c0b0a0",
        "sha256:1111111111111111111111111111111111111111111111111111111111111111",
    ];
    assert_eq!(chain(None, layers[0]), layers[0]);
    let want = Digest::of(format!("{} {}", layers[0], layers[1]).as_bytes()).to_string();
    assert_eq!(chain(Some(layers[0]), layers[1]), want);
}

#[test]
fn the_path_of_a_cached_image_says_its_diff_id() {
    let hex = "ab".repeat(32);
    let path = |name: &str| diff_id_of_path(Path::new(name)).map(|digest| digest.to_string());
    assert_eq!(path(&format!("/c/sha256/ab/{hex}.erofs")), Some(format!("sha256:{hex}")));
    for bad in ["/c/x/ab/{hex}.erofs", "layer.erofs", "/c/sha256/ab/zz.erofs", ""] {
        assert_eq!(path(&bad.replace("{hex}", &hex)), None, "{bad}");
    }
}

#[test]
fn a_blob_is_known_by_how_it_begins() {
    let mut erofs = vec![0; 1028];
    erofs[1024..].copy_from_slice(&SUPER_MAGIC.to_le_bytes());
    let oci = |suffix: &str| format!("application/vnd.oci.image.layer.v1.tar{suffix}");
    for (head, want) in [
        (vec![0x1F, 0x8B, 8], oci("+gzip")),
        (vec![0x28, 0xB5, 0x2F, 0xFD, 0], oci("+zstd")),
        (vec![0x5A, 0x2A, 0x4D, 0x18], oci("+zstd")),
        (erofs, EROFS_LAYER.to_owned()),
        (b"etc/".to_vec(), oci("")),
        (Vec::new(), oci("")),
    ] {
        assert_eq!(media_types(&head)[0], want, "{head:02x?}");
    }
}

#[test]
fn of_annotations_only_those_that_decide_are_kept() {
    let pairs = [
        ("org.erofs.dmverity.root_digest", "a"),
        ("org.erofs.fsverity.digest", "b"),
        ("org.opencontainers.image.title", "c"),
    ];
    let annotations = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let descriptor = Descriptor { size: -1, annotations, ..Descriptor::default() };
    let blob = origin_blob(&descriptor);
    assert_eq!(blob.size, 0);
    let kept: Vec<_> = blob.annotations.keys().map(String::as_str).collect();
    assert_eq!(kept, ["org.erofs.dmverity.root_digest", "org.erofs.fsverity.digest"]);
}

#[test]
fn every_reason_has_a_name_and_an_advice() {
    let digest = Digest::of(b"");
    let namespace = "k8s.io".to_owned();
    for (why, code, word, transient) in [
        (Unhealed::Missing { namespace: namespace.clone() }, "blob_missing", "--local", false),
        (Unhealed::Unknown, "unknown", "pull it again", false),
        (
            Unhealed::Blob {
                digest: digest.clone(),
                namespace,
                source: Box::new(Error::WorkerDied),
            },
            "blob_damaged",
            "images rm --sync",
            false,
        ),
        (Unhealed::Encrypted { digest }, "encrypted", "--local", false),
        (Unhealed::Cancelled, "cancelled", "again", true),
        (Unhealed::Failed(Error::WorkerDied), "failed", "--local", false),
    ] {
        assert_eq!((why.code(), why.is_transient()), (code, transient), "{why}");
        assert!(why.advice().contains(word), "{}", why.advice());
    }
}
