use std::os::unix::fs::MetadataExt;

use erolith_differ::Digest;
use erolith_differ::decode::{LayerStream, Request as Decode};
use erolith_tests::tarball::Tarball;
use tonic::{Code, Request, Status};

use super::*;
use crate::proto::diff::{ApplyRequest, DiffRequest};
use crate::proto::types::Descriptor;
use crate::serve::config::StreamProcessor;

pub(super) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const EROFS: &str = "application/vnd.erofs.layer.v1";

pub(super) fn layer() -> Vec<u8> {
    Tarball::new().dir("etc/").file("etc/name", "erolith").end()
}

pub(super) fn describe(data: &[u8], media_type: &str) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: Digest::of(data).to_string(),
        size: i64::try_from(data.len()).unwrap(),
        ..Default::default()
    }
}

impl Node {
    pub(super) async fn apply(
        &self,
        diff: &Descriptor,
        mounts: &[Mount],
    ) -> Result<Descriptor, Status> {
        let request = ApplyRequest {
            diff: Some(diff.clone()),
            mounts: mounts.to_vec(),
            ..Default::default()
        };
        let answer = self.diff().apply(request).await?;
        Ok(answer.into_inner().applied.unwrap())
    }

    /// A call in the namespace `k8s.io`.
    pub(super) async fn compare(&self, request: DiffRequest) -> Result<Descriptor, Status> {
        self.compare_for(request, None).await
    }

    /// The same of a caller who has a lease.
    async fn compare_for(
        &self,
        request: DiffRequest,
        lease: Option<&str>,
    ) -> Result<Descriptor, Status> {
        let mut request = Request::new(request);
        request.metadata_mut().insert("containerd-namespace", "k8s.io".parse().unwrap());
        if let Some(lease) = lease {
            request.metadata_mut().insert("containerd-lease", lease.parse().unwrap());
        }
        let answer = self.diff().diff(request).await?;
        Ok(answer.into_inner().diff.unwrap())
    }

    async fn view(&self, key: &str) -> Vec<Mount> {
        let request = api::ViewSnapshotRequest { key: key.into(), ..Default::default() };
        self.snapshots().view(request).await.unwrap().into_inner().mounts
    }

    /// An active snapshot with a file in it, and an empty view.
    pub(super) async fn changed(&self) -> (Vec<Mount>, Vec<Mount>) {
        let mounts = self.prepare("changed").await;
        write(&layer_dir(&mounts).join("fs/new"), b"content");
        (self.view("nothing").await, mounts)
    }
}

fn write(path: &Path, data: &[u8]) {
    std::io::Write::write_all(&mut std::fs::File::create(path).unwrap(), data).unwrap();
}

fn inode(dir: &Path) -> u64 {
    std::fs::metadata(dir.join("layer.erofs")).unwrap().ino()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_converted_once_and_linked_then() {
    let node = Node::start().await;
    let data = layer();
    let blob = node.containerd.put(&data);
    let first = node.prepare("first").await;
    let applied = node.apply(&describe(&data, TAR), &first).await.unwrap();
    assert_eq!(applied, describe(&data, TAR), "the diffID of a plain archive is its digest");

    let second = node.prepare("second").await;
    assert_eq!(node.apply(&describe(&data, TAR), &second).await.unwrap(), applied);
    assert_eq!(inode(&layer_dir(&first)), inode(&layer_dir(&second)));
    assert_eq!(*node.containerd.reads.lock().unwrap(), [blob]);
}

/// That the first blob contains the second is what a worker said of the first.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_blob_is_said_to_contain_counts_for_that_blob_alone() {
    let node = Node::start().await;
    let data = layer();
    let file = node.dir.path().join("layer");
    write(&file, &data);
    let gzip = std::process::Command::new("gzip").arg("-c").arg(&file).output().unwrap().stdout;
    let (blob, plain) = (node.containerd.put(&gzip), node.containerd.put(&data));
    let first = node.prepare("first").await;
    node.apply(&describe(&gzip, &format!("{TAR}+gzip")), &first).await.unwrap();
    let second = node.prepare("second").await;
    let applied = node.apply(&describe(&data, TAR), &second).await.unwrap();
    assert_eq!(applied, describe(&data, TAR));
    assert_ne!(inode(&layer_dir(&first)), inode(&layer_dir(&second)));
    let third = node.prepare("third").await;
    node.apply(&describe(&gzip, &format!("{TAR}+gzip")), &third).await.unwrap();
    assert_eq!(inode(&layer_dir(&first)), inode(&layer_dir(&third)));
    assert_eq!(*node.containerd.reads.lock().unwrap(), [blob, plain]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_says_that_it_was_checked() {
    let node = Node::start().await;
    let data = layer();
    node.containerd.put(&data);
    for key in ["converted", "reused"] {
        let mounts = node.prepare(key).await;
        node.apply(&describe(&data, TAR), &mounts).await.unwrap();
        let image = layer_dir(&mounts).join("layer.erofs");
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(image, "trusted.erolith.checked", &mut value);
        assert!(length.unwrap() > 0, "{key}");
    }
}

/// containerd's EROFS snapshotter may make what is in its directories immutable.
#[tokio::test(flavor = "multi_thread")]
async fn images_of_another_snapshotter_are_in_no_other_place() {
    let node = Node::start().await;
    let data = layer();
    node.containerd.put(&data);
    for key in ["1", "2"] {
        let dir = node.dir.path().join("theirs").join(key);
        std::fs::create_dir_all(dir.join("fs")).unwrap();
        std::fs::File::create(dir.join(".erofslayer")).unwrap();
        let source = dir.join("fs").to_str().unwrap().to_owned();
        let mounts = [Mount { r#type: "bind".into(), source, ..Default::default() }];
        assert_eq!(node.apply(&describe(&data, TAR), &mounts).await.unwrap(), describe(&data, TAR));
        assert_eq!(std::fs::metadata(dir.join("layer.erofs")).unwrap().nlink(), 1);
    }
    assert_eq!(node.containerd.reads.lock().unwrap().len(), 2);
    let kept = std::fs::read_dir(node.dir.path().join("root/images")).unwrap();
    assert_eq!(kept.count(), 0);
}

/// The second name that a differ was killed with, when it replaced an image.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_apply_left_goes() {
    use erolith_snapshotter::layerdir::IMAGE;
    let node = Node::start().await;
    let data = layer();
    node.containerd.put(&data);
    let mounts = node.prepare("k").await;
    let dir = layer_dir(&mounts);
    let stray = dir.join(erolith_durable::second_name(IMAGE.as_ref()));
    for again in [false, true] {
        node.apply(&describe(&data, TAR), &mounts).await.unwrap();
        assert!(!stray.exists(), "again: {again}");
        write(&stray, b"half of an image");
    }
    let commit =
        api::CommitSnapshotRequest { name: "layer".into(), key: "k".into(), ..Default::default() };
    node.snapshots().commit(commit).await.unwrap();
    assert!(!stray.exists() && dir.join(IMAGE).exists());
    write(&stray, b"half of an image");
    let remove = api::RemoveSnapshotRequest { key: "layer".into(), ..Default::default() };
    node.snapshots().remove(remove).await.unwrap();
    node.snapshots().cleanup(api::CleanupRequest::default()).await.unwrap();
    assert!(!dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_depends_on_those_below_is_converted_again() {
    let node = Node::start().await;
    // No layer describes the directory.
    let data = Tarball::new().file("etc/name", "erolith").end();
    node.containerd.put(&data);
    for key in ["first", "second"] {
        let mounts = node.prepare(key).await;
        node.apply(&describe(&data, TAR), &mounts).await.unwrap();
    }
    assert_eq!(node.containerd.reads.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decrypted_layer_is_nobody_elses() {
    let encrypted = format!("{TAR}+encrypted");
    let node = Node::with(|config| {
        let program = StreamProcessor {
            accepts: vec![encrypted.clone()],
            returns: TAR.into(),
            path: "sh".into(),
            // Succeeds only with the key.
            args: vec!["-c".into(), "grep -q the-key <&3 && exec cat".into()],
            env: vec![],
        };
        config.stream_processors.insert("decoder".into(), program);
    })
    .await;
    let data = layer();
    node.containerd.put(&data);
    let apply = async |key: &str, payload: &str| {
        let payload = prost_types::Any { type_url: "key".into(), value: payload.into() };
        let request = ApplyRequest {
            diff: Some(describe(&data, &encrypted)),
            mounts: node.prepare(key).await,
            payloads: [("decoder".to_owned(), payload)].into(),
            ..Default::default()
        };
        Ok::<_, Status>(node.diff().apply(request).await?.into_inner().applied.unwrap())
    };
    assert_eq!(apply("first", "the-key").await.unwrap(), describe(&data, TAR));
    let status = apply("second", "no key").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_convert_a_layer_once() {
    let node = Arc::new(Node::start().await);
    let data = layer();
    node.containerd.put(&data);
    let mut work = Vec::new();
    for n in 0..8 {
        let (node, data) = (Arc::clone(&node), data.clone());
        work.push(tokio::spawn(async move {
            let mounts = node.prepare(&format!("k{n}")).await;
            node.apply(&describe(&data, TAR), &mounts).await.unwrap()
        }));
    }
    for work in work {
        assert_eq!(work.await.unwrap(), describe(&data, TAR));
    }
    assert_eq!(node.containerd.reads.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_in_reach_are_not_asked_for() {
    let node = Node::start().await;
    let data = layer();
    let digest = Digest::of(&data);
    let blobs = node.dir.path().join("containerd/io.containerd.content.v1.content/blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    write(&blobs.join(digest.hex()), &data);
    node.containerd.put(&data);
    let mounts = node.prepare("k").await;
    node.apply(&describe(&data, TAR), &mounts).await.unwrap();
    assert!(node.containerd.reads.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_left_to_the_next_differ() {
    let node = Node::start().await;
    let data = layer();
    node.containerd.put(&data);
    let ours = node.prepare("k").await;
    let foreign = Mount { source: "/var/tmp/fs".into(), ..ours[0].clone() };
    let mut damaged = describe(&data, TAR);
    damaged.size += 1;
    for (diff, mounts, code) in [
        (describe(&data, TAR), vec![foreign], Code::Unimplemented),
        (describe(&data, TAR), vec![], Code::Unimplemented),
        (describe(&data, "text/plain"), ours.clone(), Code::Unimplemented),
        (describe(b"unknown", TAR), ours.clone(), Code::NotFound),
        (damaged, ours.clone(), Code::DataLoss),
        (Descriptor { size: -1, ..describe(&data, TAR) }, ours.clone(), Code::InvalidArgument),
        (
            Descriptor { digest: "x".into(), ..describe(&data, TAR) },
            ours.clone(),
            Code::InvalidArgument,
        ),
    ] {
        let status = node.apply(&diff, &mounts).await.unwrap_err();
        assert_eq!(status.code(), code, "{diff:?}: {status}");
    }
    assert!(!layer_dir(&ours).join("layer.erofs").exists());
    let request = ApplyRequest { diff: None, mounts: ours, ..Default::default() };
    assert_eq!(node.diff().apply(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_holds_becomes_a_protected_blob() {
    let node = Node::start().await;
    let (left, right) = node.changed().await;
    let request = DiffRequest {
        left,
        right,
        labels: labels(&[("mine", "1")]),
        source_date_epoch: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let diff = node.compare(request.clone()).await.unwrap();
    assert_eq!(diff.media_type, format!("{TAR}+gzip"));
    let stored = node.containerd.blobs.lock().unwrap()[&diff.digest].clone();
    assert_eq!(stored.namespace, "k8s.io");
    assert_eq!(stored.labels["mine"], "1");
    // What it was uploaded under is gone; another lease keeps it until the caller has taken it over, and ends by itself.
    let leases = node.containerd.leases.lock().unwrap().clone();
    let (id, about) = leases.first_key_value().unwrap();
    assert!(leases.len() == 1 && *id != stored.lease, "{leases:?}");
    assert!(about["containerd.io/gc.expire"].ends_with('Z'), "{about:?}");
    assert_eq!(about.len(), 1, "{about:?}");
    let held = (id.clone(), diff.digest.clone());
    assert!(node.containerd.resources.lock().unwrap().contains(&held));
    // It is what its label says.
    let decode = Decode {
        diff_id: Some(stored.labels["containerd.io/uncompressed"].parse().unwrap()),
        ..Decode::default()
    };
    LayerStream::open(std::io::Cursor::new(stored.data), decode).unwrap().finish().unwrap();

    // The same once more is there already; the new lease protects it too.
    assert_eq!(node.compare(request).await.unwrap(), diff);
    let resources = node.containerd.resources.lock().unwrap().clone();
    assert!(resources.iter().any(|(_, digest)| *digest == diff.digest), "{resources:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_under_the_lease_of_its_caller_or_named_by_the_call() {
    let node = Node::start().await;
    let (left, right) = node.changed().await;
    let request = DiffRequest { left, right, ..Default::default() };
    let leases = || node.containerd.leases.lock().unwrap().clone();
    node.containerd.leases.lock().unwrap().insert("caller".to_owned(), labels(&[]));
    let diff = node.compare_for(request.clone(), Some("caller")).await.unwrap();
    assert_eq!(node.containerd.blobs.lock().unwrap()[&diff.digest].lease, "caller");
    assert_eq!(leases().into_keys().collect::<Vec<_>>(), ["caller"]);
    // A caller without a lease finds ours by the reference it gave, and gives it up when it has the blob.
    let named = DiffRequest { r#ref: "erolith-diff-one".to_owned(), ..request };
    node.compare(named.clone()).await.unwrap();
    node.compare(DiffRequest { r#ref: "other".to_owned(), ..named }).await.unwrap();
    assert_eq!(leases().len(), 3, "{:?}", leases());
    let address = node.dir.path().join("containerd.sock");
    let containerd = crate::containerd::Containerd::at(&address).unwrap();
    let scope = crate::containerd::Scope::named("k8s.io").unwrap();
    let release = move || containerd.release(&scope, "erolith-diff-one");
    tokio::task::spawn_blocking(release).await.unwrap();
    let left: Vec<_> = leases().into_values().collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().any(|about| about.values().any(|value| value == "other")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_no_document_holds_is_refused() {
    let node = Node::start().await;
    let (left, right) = node.changed().await;
    for (seconds, code) in [(1_764_547_200_000, Code::InvalidArgument), (253_402_300_799, Code::Ok)]
    {
        let time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        let (left, right) = (left.clone(), right.clone());
        let request = DiffRequest { left, right, source_date_epoch: time, ..Default::default() };
        let code_of = node.compare(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code_of, code, "{seconds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_holds_becomes_an_image_too() {
    let node = Node::start().await;
    let (left, right) = node.changed().await;
    for suffix in ["", "+zstd"] {
        let media_type = format!("{EROFS}{suffix}");
        let request = DiffRequest {
            left: left.clone(),
            right: right.clone(),
            media_type: media_type.clone(),
            source_date_epoch: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        let diff = node.compare(request.clone()).await.unwrap();
        assert_eq!(diff.media_type, media_type);
        assert_eq!(node.compare(request).await.unwrap(), diff, "not reproducible");
        // It is applied as what it is.
        let mounts = node.prepare(&format!("again{suffix}")).await;
        let applied = node.apply(&diff, &mounts).await.unwrap();
        let stored = node.containerd.blobs.lock().unwrap()[&diff.digest].clone();
        assert_eq!(stored.labels["containerd.io/uncompressed"], applied.digest);
        assert_eq!(
            std::fs::metadata(layer_dir(&mounts).join("layer.erofs")).unwrap().len() % 4096,
            0
        );
    }
}

/// Directories under an overlay of another snapshotter, and without one.
#[tokio::test(flavor = "multi_thread")]
async fn differences_of_other_snapshotters_are_found() {
    let node = Node::start().await;
    let at = |name: &str| node.dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["base", "base/d", "upper", "upper/d", "work", "copy", "copy/d"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    for (name, data) in [("base/d/kept", "1"), ("base/gone", "2"), ("upper/d/new", "3")] {
        write(at(name).as_ref(), data.as_bytes());
    }
    for name in ["d/kept", "d/new"] {
        let from = if name == "d/kept" { "base" } else { "upper" };
        std::fs::hard_link(at(&format!("{from}/{name}")), at(&format!("copy/{name}"))).unwrap();
    }
    let whiteout = Path::new(&at("upper")).join("gone");
    let mode = rustix::fs::Mode::empty();
    let char_device = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, &whiteout, char_device, mode, 0).unwrap();
    let mount = |kind: &str, source: &str, options: &[String]| Mount {
        r#type: kind.into(),
        source: source.into(),
        options: options.to_vec(),
        ..Default::default()
    };
    let base = vec![mount("bind", &at("base"), &["ro".into(), "rbind".into()])];
    let options = [
        format!("workdir={}", at("work")),
        format!("upperdir={}", at("upper")),
        format!("lowerdir={}", at("base")),
    ];
    for right in [mount("overlay", "overlay", &options), mount("bind", &at("copy"), &[])] {
        let request = DiffRequest {
            left: base.clone(),
            right: vec![right.clone()],
            media_type: TAR.into(),
            ..Default::default()
        };
        let diff = node.compare(request).await.unwrap();
        let archive = node.containerd.blobs.lock().unwrap()[&diff.digest].data.clone();
        for (name, is_there) in [("d/new", true), (".wh.gone", true), ("d/kept", false)] {
            let found = archive.windows(name.len()).any(|part| part == name.as_bytes());
            assert_eq!(found, is_there, "{name}: {right:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_in_forms_and_of_mounts_that_are_not_known_are_left_to_the_next_differ() {
    let node = Node::start().await;
    let (left, right) = node.changed().await;
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned();
    let disk =
        vec![Mount { r#type: "ext4".into(), source: "/dev/disk".into(), ..right[0].clone() }];
    let request = |left: &[Mount], right: &[Mount]| DiffRequest {
        left: left.to_vec(),
        right: right.to_vec(),
        ..Default::default()
    };
    for request in [
        DiffRequest { media_type: docker, ..request(&left, &right) },
        request(&left, &disk),
        request(&disk, &right),
        request(&[], &right),
        DiffRequest::default(),
    ] {
        let status = node.compare(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
    }
    assert!(node.containerd.leases.lock().unwrap().is_empty());
    // Nothing changed: a layer all the same.
    node.compare(request(&left, &left)).await.unwrap();
    node.compare(request(&right, &right)).await.unwrap();
}
