use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_lives_from_prepare_to_remove() {
    let node = Node::start().await;
    let mut client = node.snapshots();
    let mounts = node.prepare("active").await;
    let upper = layer_dir(&mounts).join("fs");
    assert_eq!(mounts[0].options, ["rw", "rbind"]);
    std::fs::File::create(upper.join("file")).unwrap();
    let again = api::MountsRequest { key: "active".into(), ..Default::default() };
    assert_eq!(client.mounts(again).await.unwrap().into_inner().mounts, mounts);
    assert_eq!(node.stat("active").await.unwrap().kind(), api::Kind::Active);

    let commit = api::CommitSnapshotRequest {
        name: "layer".into(),
        key: "active".into(),
        labels: labels(&[("containerd.io/snapshot.ref", "sha256:x"), ("a.b", "1")]),
        ..Default::default()
    };
    client.commit(commit).await.unwrap();
    let info = node.stat("layer").await.unwrap();
    assert_eq!((info.kind(), info.parent.as_str()), (api::Kind::Committed, ""));
    assert_eq!(info.created_at, info.updated_at);
    assert_eq!(info.labels["a.b"], "1");
    assert_eq!(node.stat("active").await.unwrap_err().code(), tonic::Code::NotFound);
    let usage = api::UsageRequest { key: "layer".into(), ..Default::default() };
    let usage = client.usage(usage).await.unwrap().into_inner();
    assert!(usage.size > 0 && usage.inodes > 0, "{usage:?}");

    let update = api::UpdateSnapshotRequest {
        info: Some(api::Info {
            name: "layer".into(),
            labels: labels(&[("a.b", "2"), ("c", "3")]),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["labels.a.b".into()] }),
        ..Default::default()
    };
    let updated = client.update(update).await.unwrap().into_inner().info.unwrap();
    let want = labels(&[("containerd.io/snapshot.ref", "sha256:x"), ("a.b", "2")]);
    assert_eq!(updated.labels, want);
    assert_eq!(updated, node.stat("layer").await.unwrap());

    let remove = api::RemoveSnapshotRequest { key: "layer".into(), ..Default::default() };
    client.remove(remove.clone()).await.unwrap();
    assert_eq!(client.remove(remove).await.unwrap_err().code(), tonic::Code::NotFound);
    client.cleanup(api::CleanupRequest::default()).await.unwrap();
    assert!(!upper.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_can_come_with_the_commit() {
    let node = Node::start().await;
    let mut client = node.snapshots();
    for (key, name, parent) in [("a", "base", ""), ("b", "top", "base")] {
        node.prepare(key).await;
        let commit = api::CommitSnapshotRequest {
            name: name.into(),
            key: key.into(),
            parent: parent.into(),
            ..Default::default()
        };
        client.commit(commit).await.unwrap();
        assert_eq!(node.stat(name).await.unwrap().parent, parent);
    }
    let remove = api::RemoveSnapshotRequest { key: "base".into(), ..Default::default() };
    let status = client.remove(remove).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(status.message().contains("remove"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_other_calls_go_on_meanwhile() {
    let node = Node::start().await;
    let mut client = node.snapshots();
    let list = |filters: &[&str]| api::ListSnapshotsRequest {
        filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        ..Default::default()
    };
    let mut empty = client.list(list(&[])).await.unwrap().into_inner();
    assert!(empty.message().await.unwrap().is_none());

    for n in 0..101 {
        node.prepare(&format!("k{n}")).await;
    }
    let mut stream = client.list(list(&[])).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().info;
    assert_eq!(first.len(), 100);
    for info in &first {
        assert_eq!(node.stat(&info.name).await.unwrap(), *info);
    }
    assert_eq!(stream.message().await.unwrap().unwrap().info.len(), 1);
    assert!(stream.message().await.unwrap().is_none());

    let mut some = client.list(list(&["name==k7", "name==k8"])).await.unwrap().into_inner();
    assert_eq!(some.message().await.unwrap().unwrap().info.len(), 2);
    let status = client.list(list(&["name=="])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_codes_of_containerd() {
    let node = Node::start().await;
    let mut client = node.snapshots();
    node.prepare("k").await;
    let prepare = |key: &str, parent: &str| api::PrepareSnapshotRequest {
        key: key.into(),
        parent: parent.into(),
        ..Default::default()
    };
    for (key, parent, code) in [
        ("k", "", tonic::Code::AlreadyExists),
        ("x", "nowhere", tonic::Code::NotFound),
        ("x", "k", tonic::Code::InvalidArgument),
        ("", "", tonic::Code::InvalidArgument),
    ] {
        let status = client.prepare(prepare(key, parent)).await.unwrap_err();
        assert_eq!(status.code(), code, "{key} on {parent}: {status}");
    }
    let view = api::ViewSnapshotRequest { key: "v".into(), ..Default::default() };
    client.view(view).await.unwrap();
    let commit = |name: &str, key: &str, parent: &str| api::CommitSnapshotRequest {
        name: name.into(),
        key: key.into(),
        parent: parent.into(),
        ..Default::default()
    };
    for (name, key, parent, code) in [
        ("n", "v", "", tonic::Code::FailedPrecondition),
        ("n", "nowhere", "", tonic::Code::NotFound),
        ("v", "k", "", tonic::Code::AlreadyExists),
        ("n", "k", "nowhere", tonic::Code::NotFound),
    ] {
        let status = client.commit(commit(name, key, parent)).await.unwrap_err();
        assert_eq!(status.code(), code, "{key} as {name}: {status}");
    }
    let update = api::UpdateSnapshotRequest::default();
    let status = client.update(update).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}
