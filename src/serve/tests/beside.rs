//! Layers that are unpacked side by side, by calls as containerd's unpacker sends them with the capability `rebase`.

use erolith_differ::Digest;
use erolith_tests::tarball::{Header, Tarball};
use tonic::{Code, Status};

use super::diff::{TAR, describe};
use super::staging::{DIFF_ID, REF, mounting};
use super::*;
use crate::proto::types::Descriptor;

const PARENT_CHAIN: &str = "containerd.io/snapshot/parent-chain-id";

/// One layer of an image.
#[derive(Debug, Clone)]
struct Layer {
    data: Vec<u8>,
    chain: String,
    /// The chain below.
    below: Option<String>,
}

impl Layer {
    fn diff_id(&self) -> String {
        Digest::of(&self.data).to_string()
    }

    fn labels(&self) -> Vec<(&'static str, String)> {
        let mut labels = vec![(REF, self.chain.clone()), (DIFF_ID, self.diff_id())];
        labels.extend(self.below.clone().map(|below| (PARENT_CHAIN, below)));
        labels
    }

    fn describe(&self) -> Descriptor {
        describe(&self.data, TAR)
    }
}

/// An image of these layers.
fn image(layers: impl IntoIterator<Item = Vec<u8>>) -> Vec<Layer> {
    let mut image: Vec<Layer> = Vec::new();
    for data in layers {
        let diff_id = Digest::of(&data).to_string();
        let below = image.last().map(|layer| layer.chain.clone());
        let chain = below.as_ref().map_or(diff_id.clone(), |below| {
            Digest::of(format!("{below} {diff_id}").as_bytes()).to_string()
        });
        image.push(Layer { data, chain, below });
    }
    image
}

fn dir(name: &str, mode: u64, owner: u64) -> Header {
    Header::new(b'5', name).mode(mode).owner(owner, owner)
}

/// A private directory, one that every user may write to and one with the set-group-ID bit; then only files in them.
fn undescribed() -> Vec<Layer> {
    image([
        Tarball::new().header(&dir("data/", 0o700, 1000)).header(&dir("tmp/", 0o1777, 0)).end(),
        Tarball::new()
            .file("data/f2", "2")
            .file("tmp/f2", "2")
            .header(&dir("home/", 0o2750, 7))
            .end(),
        Tarball::new().dir("etc/").file("etc/f3", "3").end(),
        Tarball::new().file("data/f4", "4").file("home/f4", "4").file("etc/f4", "4").end(),
    ])
}

impl Node {
    async fn prepare_layer(&self, number: usize, layer: &Layer, parent: &str) -> Vec<Mount> {
        let labels = layer.labels();
        let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let key = format!("ns/{number}/extract-{number} {}", layer.chain);
        self.containerd.put(&layer.data);
        self.prepare_in("ns", &key, parent, &labels).await.unwrap()
    }

    async fn commit_layer(&self, number: usize, layer: &Layer, parent: &str) -> Result<(), Status> {
        let labels = layer.labels();
        let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let key = format!("ns/{number}/extract-{number} {}", layer.chain);
        self.commit_as(&format!("ns/{number}/{}", layer.chain), &key, parent, &labels).await
    }

    /// Unpacks one layer after the other. Returns their images.
    async fn unpack_in_order(&self, image: &[Layer]) -> Vec<Vec<u8>> {
        let (mut parent, mut images) = (String::new(), Vec::new());
        for (number, layer) in image.iter().enumerate() {
            let mounts = self.prepare_layer(number, layer, &parent).await;
            self.apply_in("ns", &layer.describe(), &mounts).await.unwrap();
            self.commit_layer(number, layer, &parent).await.unwrap();
            parent = format!("ns/{number}/{}", layer.chain);
            images.push(std::fs::read(self.image_path(&parent)).unwrap());
        }
        images
    }

    fn image_path(&self, key: &str) -> PathBuf {
        let id = self.daemon.snapshotter.store().snapshot(key).unwrap().id;
        self.dir.path().join(format!("root/snapshots/{id}/layer.erofs"))
    }

    fn id_of(&self, number: usize, layer: &Layer) -> u64 {
        let key = format!("ns/{number}/extract-{number} {}", layer.chain);
        self.daemon.snapshotter.store().snapshot(&key).unwrap().id
    }
}

/// Applies layers in the order of `order`, each once the one before it is applied, and commits them from below. Returns
/// their images.
async fn unpack_beside(
    node: &Arc<Node>,
    image: &[Layer],
    order: &[usize],
    first: usize,
) -> Vec<Vec<u8>> {
    let mut mounts = Vec::new();
    for (number, layer) in image.iter().enumerate() {
        mounts.push(node.prepare_layer(first + number, layer, "").await);
    }
    let mut applies = Vec::new();
    for &number in order {
        let (its, layer) = (mounts[number].clone(), image[number].clone());
        let id = node.id_of(first + number, &layer);
        let at = Arc::clone(node);
        applies.push(tokio::spawn(async move { at.apply_in("ns", &layer.describe(), &its).await }));
        let path = node.dir.path().join(format!("root/snapshots/{id}/layer.erofs"));
        while node.daemon.board.of(id).is_none() && !path.exists() {
            tokio::task::yield_now().await;
        }
    }
    for apply in applies {
        apply.await.unwrap().unwrap();
    }
    let (mut parent, mut images) = (String::new(), Vec::new());
    for (number, layer) in image.iter().enumerate() {
        let number = first + number;
        node.commit_layer(number, layer, &parent).await.unwrap();
        parent = format!("ns/{number}/{}", layer.chain);
        images.push(std::fs::read(node.image_path(&parent)).unwrap());
    }
    images
}

/// Every order of `count` numbers.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for order in orders(count - 1) {
        for at in 0..count {
            let mut order = order.clone();
            order.insert(at, count - 1);
            all.push(order);
        }
    }
    all
}

async fn one_at_a_time() -> Arc<Node> {
    Arc::new(Node::with(|config| config.differ.parallel = 1).await)
}

#[test]
fn the_images_are_the_same_whatever_the_order() {
    mounting(async {
        let image = undescribed();
        let want = Node::start().await.unpack_in_order(&image).await;
        for order in orders(image.len()) {
            let got = unpack_beside(&one_at_a_time().await, &image, &order, 0).await;
            for (number, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!(got == want, "layer {number} in the order {order:?}");
            }
        }
    });
}

/// Far more than threads, places and workers, the topmost first; some are the same blob.
#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_layers_waits_for_the_lowest() {
    let base = Tarball::new().header(&dir("data/", 0o700, 1000)).end();
    let upper = |n: usize| Tarball::new().file("data/f", (n % 50).to_string()).end();
    let image = image(std::iter::once(base).chain((1..200).map(upper)));
    let order: Vec<_> = (0..image.len()).rev().collect();
    let images = unpack_beside(&one_at_a_time().await, &image, &order, 0).await;
    let mode = |bytes: &Vec<u8>| {
        let opened = erolith_mkfs::image::Image::open(bytes.clone(), Vec::new()).unwrap();
        let meta = opened.lookup(b"data").unwrap().unwrap().meta();
        (meta.mode, meta.uid)
    };
    assert!(images.iter().all(|image| mode(image) == (0o700, 1000)));
}

/// Applies the upper one of two layers, once something else was done.
async fn upper_after(node: &Arc<Node>, what: impl AsyncFnOnce(&Arc<Node>, &[Layer])) -> Status {
    let image = undescribed()[..2].to_vec();
    node.prepare_layer(0, &image[0], "").await;
    let mounts = node.prepare_layer(1, &image[1], "").await;
    let (at, layer) = (Arc::clone(node), image[1].clone());
    let apply = tokio::spawn(async move { at.apply_in("ns", &layer.describe(), &mounts).await });
    let id = node.id_of(1, &image[1]);
    while node.daemon.board.of(id).is_none() {
        tokio::task::yield_now().await;
    }
    what(node, &image).await;
    apply.await.unwrap().unwrap_err()
}

/// What was held is free, and what failed before is in no layer's way.
async fn unpack_again(node: &Arc<Node>) {
    let image = undescribed()[..2].to_vec();
    unpack_beside(node, &image, &[1, 0], 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_the_layer_below_fails() {
    let node = one_at_a_time().await;
    let status = upper_after(&node, async |node, image| {
        let mounts = node.mounts_of(0, &image[0]).await;
        let bad = Descriptor { size: 1, ..image[0].describe() };
        node.apply_in("ns", &bad, &mounts).await.unwrap_err();
    })
    .await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("its own unpacking failed"), "{status}");
    unpack_again(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_the_layer_below_is_removed() {
    let node = one_at_a_time().await;
    let status = upper_after(&node, async |node, image| {
        let key = format!("ns/0/extract-0 {}", image[0].chain);
        let remove = api::RemoveSnapshotRequest { key, ..Default::default() };
        node.snapshots().remove(remove).await.unwrap();
    })
    .await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    unpack_again(&node).await;
}

/// containerd gives a layer up, and calls Remove at its next garbage collection.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_containerd_has_given_the_layer_below_up() {
    let node = Arc::new(Node::with(|config| config.differ.below_seconds = 2).await);
    *node.containerd.snapshots.lock().unwrap() = Some(std::collections::BTreeSet::new());
    let status = upper_after(&node, async |_, _| {}).await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("was removed"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_nothing_is_heard() {
    let node = Arc::new(Node::with(|config| config.differ.below_seconds = 1).await);
    let status = upper_after(&node, async |_, _| {}).await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("nothing was heard"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_it_is_called_off() {
    let node = one_at_a_time().await;
    let status = upper_after(&node, async |node, _| node.daemon.diff.stop()).await;
    assert_eq!(status.code(), Code::Cancelled, "{status}");
}

/// As containerd's walking differ unpacks side by side: into the upper directory, without the layers below.
#[tokio::test(flavor = "multi_thread")]
async fn another_differ_sees_an_overlay_and_its_layer_inherits_at_the_commit() {
    let node = Arc::new(Node::start().await);
    let image = undescribed()[..2].to_vec();
    let below = node.prepare_layer(0, &image[0], "").await;
    let mounts = node.prepare_layer(1, &image[1], "").await;
    let [mount] = mounts.as_slice() else { panic!("{mounts:?}") };
    assert_eq!(mount.r#type, "overlay");
    let option = |name: &str| mount.options.iter().find_map(|option| option.strip_prefix(name));
    let upper = PathBuf::from(option("upperdir=").unwrap());
    assert_eq!(std::fs::read_dir(option("lowerdir=").unwrap()).unwrap().count(), 0);
    let write = |path: &str| {
        let path = upper.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap();
    };
    write("data/f2");
    write("other/f2");
    // One that the archive describes, with mode and owner as below nothing.
    std::fs::create_dir(upper.join("tmp")).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(7);
    std::fs::File::open(upper.join("tmp")).unwrap().set_modified(long_ago).unwrap();
    node.apply_in("ns", &image[0].describe(), &below).await.unwrap();
    node.commit_layer(0, &image[0], "").await.unwrap();
    let parent = format!("ns/0/{}", image[0].chain);
    node.commit_layer(1, &image[1], &parent).await.unwrap();
    let bytes = std::fs::read(node.image_path(&format!("ns/1/{}", image[1].chain))).unwrap();
    let opened = erolith_mkfs::image::Image::open(bytes, Vec::new()).unwrap();
    let meta = |path: &[u8]| {
        let meta = opened.lookup(path).unwrap().unwrap().meta();
        (meta.mode, meta.uid)
    };
    assert_eq!(meta(b"data"), (0o700, 1000), "made on the way");
    assert_eq!(meta(b"tmp"), (0o755, 0), "described");
    assert_eq!(meta(b"other"), (0o755, 0), "new");
}

/// The lowest layer, and one whose chains do not fit: only an annotation says such things.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_an_annotation_names_is_passed_over() {
    let node = Node::start().await;
    let [base, top, ..] = &undescribed()[..] else { panic!() };
    for (number, layer) in [
        Layer { below: Some(top.chain.clone()), ..base.clone() },
        Layer { below: Some(Digest::of(b"other").to_string()), ..top.clone() },
    ]
    .iter()
    .enumerate()
    {
        let mounts = node.prepare_layer(number, layer, "").await;
        assert_eq!(mounts[0].r#type, "bind");
        node.apply_in("ns", &layer.describe(), &mounts).await.unwrap();
    }
}

impl Node {
    async fn mounts_of(&self, number: usize, layer: &Layer) -> Vec<Mount> {
        let key = format!("ns/{number}/extract-{number} {}", layer.chain);
        let request = api::MountsRequest { key, ..Default::default() };
        self.snapshots().mounts(request).await.unwrap().into_inner().mounts
    }
}
