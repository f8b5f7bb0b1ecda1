//! Converted images in containerd's content store.

use std::time::{Duration, Instant};

use erolith_differ::Digest;
use erolith_mkfs::check::{Limits, check};

use super::diff::{TAR, describe, layer};
use super::fake::Stored;
use super::*;

const IMAGE_OF: &str = "containerd.io/gc.ref.content.erofs";
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
const SOURCE: &str = "org.erolith.source.layer.diff-id";

async fn keeping() -> Node {
    Node::with(|config| config.differ.keep_images = true).await
}

impl Node {
    fn blob(&self, digest: &str) -> Option<Stored> {
        self.containerd.blobs.lock().unwrap().get(digest).cloned()
    }

    /// The digest of the image of a layer's blob, once it was kept.
    async fn image_of(&self, blob: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let label = self.blob(blob).and_then(|blob| blob.labels.get(IMAGE_OF).cloned());
            // The lease goes last.
            let leases = self.containerd.leases.lock().unwrap().len();
            if let (Some(image), 0) = (label, leases) {
                return image;
            }
            assert!(Instant::now() < deadline, "no image is kept");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Removes an active snapshot, and everything that only it had.
    async fn forget(&self, key: &str) {
        let remove = api::RemoveSnapshotRequest { key: key.into(), ..Default::default() };
        self.snapshots().remove(remove).await.unwrap();
        self.snapshots().cleanup(api::CleanupRequest::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_converted_layer_is_taken_from_the_content_store_when_it_comes_again() {
    let node = keeping().await;
    let data = layer();
    let blob = node.containerd.put(&data);
    let applied = node.apply(&describe(&data, TAR), &node.prepare("first").await).await.unwrap();
    let image = node.image_of(&blob).await;
    let stored = node.blob(&image).unwrap();
    assert_eq!(stored.labels[UNCOMPRESSED], image);
    assert_eq!(stored.labels[SOURCE], applied.digest);
    assert_eq!(node.blob(&blob).unwrap().labels[UNCOMPRESSED], applied.digest);
    assert_eq!(check(&stored.data, &[], &Limits::default()).unwrap().errors().count(), 0);
    node.forget("first").await;

    let mounts = node.prepare("second").await;
    assert_eq!(node.apply(&describe(&data, TAR), &mounts).await.unwrap(), applied);
    let there = std::fs::read(layer_dir(&mounts).join("layer.erofs")).unwrap();
    assert!(there == stored.data);
    assert_eq!(*node.containerd.reads.lock().unwrap(), [blob, image]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_gone_is_converted() {
    let node = keeping().await;
    let data = layer();
    let blob = node.containerd.put(&data);
    let applied = node.apply(&describe(&data, TAR), &node.prepare("k").await).await.unwrap();
    let image = node.image_of(&blob).await;
    let whole = node.blob(&image).unwrap();
    type Damage = fn(&mut Stored);
    let damages: [Damage; 4] = [
        |stored| stored.data[1024] ^= 1,
        |stored| stored.data.truncate(4096),
        |stored| drop(stored.labels.remove(SOURCE)),
        |stored| drop(stored.labels.insert(SOURCE.into(), Digest::of(b"other").to_string())),
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        node.forget("k").await;
        damage(node.containerd.blobs.lock().unwrap().get_mut(&image).unwrap());
        let mounts = node.prepare("k").await;
        let again = node.apply(&describe(&data, TAR), &mounts).await.unwrap();
        assert_eq!(again, applied);
        let made = std::fs::read(layer_dir(&mounts).join("layer.erofs")).unwrap();
        assert!(made == whole.data, "damage {n}");
        let reads = node.containerd.reads.lock().unwrap().clone();
        assert_eq!(reads.iter().filter(|read| **read == blob).count(), n + 2, "damage {n}");
        // What is the same is not written again; labels that are missing are.
        node.containerd.blobs.lock().unwrap().insert(image.clone(), whole.clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_unless_that_is_wanted_and_possible() {
    let data = layer();
    let lone = erolith_tests::tarball::Tarball::new().file("etc/name", "erolith").end();
    for (node, data) in [(Node::start().await, &data), (keeping().await, &lone)] {
        node.containerd.put(data);
        node.apply(&describe(data, TAR), &node.prepare("k").await).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(node.containerd.blobs.lock().unwrap().len(), 1);
    }
}

/// Another blob of the same layer, as after another compression, and a layer that was converted before this was wanted.
#[tokio::test(flavor = "multi_thread")]
async fn a_reused_image_is_kept_for_its_blob_too() {
    let node = keeping().await;
    let data = layer();
    let blob = node.containerd.put(&data);
    node.apply(&describe(&data, TAR), &node.prepare("first").await).await.unwrap();
    let image = node.image_of(&blob).await;
    node.containerd.blobs.lock().unwrap().get_mut(&blob).unwrap().labels.clear();
    node.apply(&describe(&data, TAR), &node.prepare("second").await).await.unwrap();
    assert_eq!(node.image_of(&blob).await, image);
    let protected = node.containerd.resources.lock().unwrap().clone();
    assert!(protected.iter().any(|(_, digest)| *digest == image), "{protected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_went_meanwhile_is_passed_over() {
    let node = keeping().await;
    let data = layer();
    let blob = node.containerd.put(&data);
    // Apply asks whether the blob is there and whether its image was kept; then it goes.
    *node.containerd.infos.lock().unwrap() = Some(2);
    node.apply(&describe(&data, TAR), &node.prepare("k").await).await.unwrap();
    node.daemon.diff.settled().await;
    assert_eq!(node.containerd.blobs.lock().unwrap().keys().collect::<Vec<_>>(), [&blob]);
    assert_eq!(*node.containerd.infos.lock().unwrap(), Some(0));
    assert!(node.containerd.leases.lock().unwrap().is_empty());
}
