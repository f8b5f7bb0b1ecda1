//! Who gets a layer that was converted before, by calls as containerd 2.3 and 2.4 send them.

use erolith_differ::Digest;
use erolith_tests::node::isolated;
use erolith_tests::tarball::Tarball;
use tonic::{Code, Request, Status};

use super::diff::{TAR, describe};
use super::*;
use crate::proto::diff::ApplyRequest;
use crate::proto::types::Descriptor;

pub(super) const REF: &str = "containerd.io/snapshot.ref";
pub(super) const DIFF_ID: &str = "containerd.io/snapshot/diff-id";
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

fn in_namespace<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
    request
}

/// Whether it has its layer from the beginning, as containerd finds out (`isStaged` in core/unpack).
fn is_staged(mounts: &[Mount]) -> bool {
    let last = mounts.last().unwrap();
    let has_upper = last.options.iter().any(|option| option.starts_with("upperdir="));
    let is_overlay = last.r#type.ends_with("overlay");
    (is_overlay && !has_upper) || last.options.iter().any(|option| option == "ro")
}

impl Node {
    pub(super) async fn prepare_in(
        &self,
        namespace: &str,
        key: &str,
        parent: &str,
        with: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let request = api::PrepareSnapshotRequest {
            key: key.into(),
            parent: parent.into(),
            labels: labels(with),
            ..Default::default()
        };
        let answer = self.snapshots().prepare(in_namespace(namespace, request)).await?;
        Ok(answer.into_inner().mounts)
    }

    pub(super) async fn apply_in(
        &self,
        namespace: &str,
        diff: &Descriptor,
        mounts: &[Mount],
    ) -> Result<Descriptor, Status> {
        let (diff, mounts) = (Some(diff.clone()), mounts.to_vec());
        let request = ApplyRequest { diff, mounts, ..Default::default() };
        let answer = self.diff().apply(in_namespace(namespace, request)).await?;
        Ok(answer.into_inner().applied.unwrap())
    }

    pub(super) async fn commit_as(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        with: &[(&str, &str)],
    ) -> Result<(), Status> {
        let request = api::CommitSnapshotRequest {
            name: name.into(),
            key: key.into(),
            parent: parent.into(),
            labels: labels(with),
            ..Default::default()
        };
        self.snapshots().commit(request).await.map(drop)
    }
}

/// The layer that only the victim has.
fn secret() -> Vec<u8> {
    Tarball::new().dir("data/").file("data/f2", "the victim's bytes").end()
}

/// A node on which the victim has pulled an image of one layer.
async fn with_victim(version: &str) -> Node {
    let node = Node::start().await;
    *node.containerd.version.lock().unwrap() = Some(version.to_owned());
    let data = secret();
    let digest = Digest::of(&data).to_string();
    let unpack = [(REF, digest.as_str()), (DIFF_ID, digest.as_str())];
    node.containerd.put_in("victim", &data, &[]);
    let mounts = node.prepare_in("victim", "victim/1/e", "", &unpack).await.unwrap();
    node.apply_in("victim", &describe(&data, TAR), &mounts).await.unwrap();
    node.commit_as("victim/2/c", "victim/1/e", "", &unpack).await.unwrap();
    node.containerd.put_in("victim", &data, &[(UNCOMPRESSED, &digest)]);
    node
}

/// Runs what mounts layers in a mount namespace of its own.
pub(super) fn mounting(work: impl Future<Output = ()>) {
    isolated(|| tokio::runtime::Runtime::new().unwrap().block_on(work));
}

/// The configuration of an image names its diffIDs; the layers may be anything.
#[test]
fn a_stranger_gets_an_error_and_not_a_single_byte() {
    mounting(stranger());
}

async fn stranger() {
    let node = with_victim("v2.4.0-beta.0").await;
    let diff_id = Digest::of(&secret()).to_string();
    let garbage = b"not the layer 1";
    let own = Tarball::new().file("own", "base").end();
    let base = Digest::of(&own).to_string();
    for (namespace, number) in [("stranger", 10), ("victim-2", 20)] {
        node.containerd.put_in(namespace, garbage, &[]);
        // As the lowest layer, and anywhere in a chain.
        for (parent, number) in [("", number), ("base", number + 5)] {
            let key = |n| format!("{namespace}/{}/k", number + n);
            let name = if parent.is_empty() {
                String::new()
            } else {
                node.containerd.put_in(namespace, &own, &[]);
                let labels = [(REF, base.as_str()), (DIFF_ID, base.as_str())];
                let mounts = node.prepare_in(namespace, &key(0), "", &labels).await.unwrap();
                node.apply_in(namespace, &describe(&own, TAR), &mounts).await.unwrap();
                node.commit_as(&key(1), &key(0), "", &labels).await.unwrap();
                key(1)
            };
            let unpack = [(REF, "sha256:c"), (DIFF_ID, diff_id.as_str())];
            let mounts = node.prepare_in(namespace, &key(2), &name, &unpack).await.unwrap();
            assert!(!is_staged(&mounts), "{namespace} {mounts:?}");
            let applied = node.apply_in(namespace, &describe(garbage, TAR), &mounts).await;
            assert_eq!(applied.unwrap_err().code(), Code::InvalidArgument, "{namespace}");
            // Nor by the digest of a blob that only the victim has, although its file is within reach.
            let applied = node.apply_in(namespace, &describe(&secret(), TAR), &mounts).await;
            assert_eq!(applied.unwrap_err().code(), Code::NotFound, "{namespace}");
            let upper = mounts[0].options.iter().find_map(|o| o.strip_prefix("upperdir="));
            let upper = PathBuf::from(upper.unwrap_or(&mounts[0].source));
            assert!(!upper.with_file_name("layer.erofs").exists());
            assert_eq!(std::fs::read_dir(&upper).unwrap().count(), 0);
        }
    }
}

/// containerd 2.3 sends the same labels, and knows no staged snapshots.
#[test]
fn who_has_a_layer_gets_it_staged_where_containerd_knows_that() {
    mounting(owner());
}

async fn owner() {
    let diff_id = Digest::of(&secret()).to_string();
    let unpack = [(REF, "sha256:c"), (DIFF_ID, diff_id.as_str())];
    for (version, is_known) in
        [("v2.4.0-beta.0", true), ("2.5.1", true), ("v2.3.4", false), ("2.1.9~ds1", false)]
    {
        let node = with_victim(version).await;
        for (key, parent) in [("victim/3/k", ""), ("victim/4/k", "victim/2/c")] {
            let mounts = node.prepare_in("victim", key, parent, &unpack).await.unwrap();
            assert_eq!(is_staged(&mounts), is_known, "{version} {key}");
        }
        // Another namespace that has the blob, too.
        let (data, label) = (secret(), [(UNCOMPRESSED, diff_id.as_str())]);
        node.containerd.put_in("friend", &data, &label);
        let mounts = node.prepare_in("friend", "friend/5/k", "", &unpack).await.unwrap();
        assert_eq!(is_staged(&mounts), is_known, "{version}");
    }
    // A containerd that does not say what it is.
    let node = with_victim("v2.4.0").await;
    *node.containerd.version.lock().unwrap() = None;
    let mounts = node.prepare_in("victim", "victim/3/k", "", &unpack).await.unwrap();
    assert!(!is_staged(&mounts));
}

/// What a node on which the victim has pulled its image leaves on disk when it ends.
fn left_by_victim() -> tempfile::TempDir {
    // Connections hold the daemon as long as their runtime lives.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut node = runtime.block_on(with_victim("v2.4.0"));
    std::mem::replace(&mut node.dir, tempfile::tempdir().unwrap())
}

/// What a namespace has committed, and what a layer was made from, are known after a restart.
#[test]
fn who_has_a_layer_gets_it_staged_after_a_restart() {
    isolated(|| {
        let left = left_by_victim();
        tokio::runtime::Runtime::new().unwrap().block_on(restarted(left.path()));
    });
}

async fn restarted(left: &Path) {
    let data = secret();
    let diff_id = Digest::of(&data).to_string();
    let unpack = [(REF, "sha256:c"), (DIFF_ID, diff_id.as_str())];
    let node = Node::with(|config| config.root = left.join("root")).await;
    *node.containerd.version.lock().unwrap() = Some("v2.4.0".to_owned());
    // Its content is still to come, as far as this containerd knows: the snapshot that it committed is enough.
    let mounts = node.prepare_in("victim", "victim/3/k", "", &unpack).await.unwrap();
    assert!(is_staged(&mounts), "{mounts:?}");
    let mounts = node.prepare_in("stranger", "stranger/4/k", "", &unpack).await.unwrap();
    assert!(!is_staged(&mounts), "{mounts:?}");
    node.containerd.put_in("friend", &data, &[(UNCOMPRESSED, &diff_id)]);
    let mounts = node.prepare_in("friend", "friend/5/k", "", &unpack).await.unwrap();
    assert!(is_staged(&mounts), "{mounts:?}");
}

/// The operator answers for what is in a cache, so that it needs no blob.
#[test]
fn a_layer_of_a_cache_is_staged_for_every_namespace() {
    isolated(|| {
        let left = left_by_victim();
        tokio::runtime::Runtime::new().unwrap().block_on(cached(left.path()));
    });
}

async fn cached(left: &Path) {
    let diff_id = Digest::of(&secret()).to_string();
    let unpack = [(REF, "sha256:c"), (DIFF_ID, diff_id.as_str())];
    // Converted layers lie there as in a cache.
    let caches = vec![left.join("root/images")];
    let node = Node::with(|config| config.snapshotter.caches = caches).await;
    *node.containerd.version.lock().unwrap() = Some("v2.4.0".to_owned());
    let mounts = node.prepare_in("anyone", "anyone/1/k", "", &unpack).await.unwrap();
    assert!(is_staged(&mounts), "{mounts:?}");
    let other = Digest::of(b"other").to_string();
    let unpack = [(REF, "sha256:d"), (DIFF_ID, other.as_str())];
    let mounts = node.prepare_in("anyone", "anyone/2/k", "", &unpack).await.unwrap();
    assert!(!is_staged(&mounts), "{mounts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn annotations_of_an_image_neither_map_owners_nor_limit_layers() {
    let node = Node::start().await;
    let wishes = [
        (REF, "sha256:c"),
        ("containerd.io/snapshot/max-size", "16777216"),
        ("containerd.io/snapshot/uidmapping", "0:100000:65536"),
        ("containerd.io/snapshot/gidmapping", "junk"),
    ];
    let mounts = node.prepare_in("n", "n/1/e", "", &wishes).await.unwrap();
    assert_eq!(mounts[0].r#type, "bind");
    use std::os::unix::fs::MetadataExt as _;
    let dir = layer_dir(&mounts);
    assert_eq!(std::fs::metadata(dir.join("fs")).unwrap().uid(), 0);
    assert!(!dir.join("rwlayer.img").exists());
    for (number, value) in ["abc", "0", "100", "-1"].iter().enumerate() {
        let hint = [("containerd.io/snapshot/max-size", *value)];
        node.prepare_in("n", &format!("n/2/{number}"), "", &hint).await.unwrap();
    }
}
