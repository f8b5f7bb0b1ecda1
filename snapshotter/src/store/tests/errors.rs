//! Every answer of the store that is not what was asked for, and what surrounds the suite.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

#[test]
fn an_empty_key_names_nothing() {
    let store = empty();
    let made = create(&store, Kind::Active, "", "");
    assert_eq!(error(made).code(), "empty-key");
    create(&store, Kind::Active, "key", "").unwrap();
    let committed = error(commit(&store, "key", ""));
    assert_eq!((committed.code(), committed.status()), ("empty-key", ErrorStatus::InvalidArgument));
    assert_eq!(status(store.info("")), ErrorStatus::NotFound);
    assert_eq!(status(store.remove("")), ErrorStatus::NotFound);
}

#[test]
fn layers_are_not_made_directly() {
    let error = error(create(&empty(), Kind::Committed, "key", ""));
    assert_eq!((error.code(), error.status()), ("snapshot-kind", ErrorStatus::InvalidArgument));
}

/// As in the reference: it decides what a caller sees that has both wrong.
#[test]
fn the_parent_is_looked_at_before_the_key() {
    let store = empty();
    create(&store, Kind::Active, "key", "").unwrap();
    assert_eq!(status(create(&store, Kind::Active, "key", "none")), ErrorStatus::NotFound);
    assert_eq!(status(create(&store, Kind::Active, "key", "key")), ErrorStatus::InvalidArgument);
}

#[test]
fn unknown_keys_are_not_found_by_anything() {
    let store = empty();
    for outcome in [
        status(store.info("k")),
        status(store.snapshot("k")),
        status(store.usage("k")),
        status(store.remove("k")),
        status(store.update("k", &Labels::new(), &UpdateMask::All)),
        // Whether there is such a snapshot is asked before the mask is read.
        status(store.update("k", &Labels::new(), &UpdateMask::Paths(vec!["parent".into()]))),
        status(commit(&store, "k", "n")),
    ] {
        assert_eq!(outcome, ErrorStatus::NotFound);
    }
}

#[test]
fn keys_are_any_text() {
    let store = empty();
    let long = "k".repeat(1 << 20);
    let keys =
        ["k8s.io/12/extract-1-a b sha256:0", " ", "a\nb", "nul\0", "nul\0\0", "ß", "'; --", &long];
    for key in keys {
        let made = create(&store, Kind::Active, key, "").unwrap();
        assert_eq!(store.snapshot(key).unwrap(), made);
        assert_eq!(store.info(key).unwrap().name, key);
        assert_eq!(status(create(&store, Kind::View, key, "")), ErrorStatus::AlreadyExists);
    }
    assert_eq!(names(&store), keys);
    let message = error(create(&store, Kind::View, &long, "")).to_string();
    assert!(message.len() < 500, "messages are cut");
    for key in keys {
        store.remove(key).unwrap();
    }
}

/// Names are compared byte by byte: containerd's keys are.
#[test]
fn case_matters() {
    let store = empty();
    create(&store, Kind::Active, "a", "").unwrap();
    create(&store, Kind::Active, "A", "").unwrap();
    assert_eq!(status(store.info("á")), ErrorStatus::NotFound);
}

#[test]
fn what_place_refuses_never_was() {
    let store = empty();
    layer(&store, "base", "");
    let mut seen = Vec::new();
    let outcome = store.create(Kind::Active, "key", "base", &Labels::new(), &mut |snapshot| {
        seen.push(snapshot.clone());
        Err(crate::Error::Mount(crate::MountError::NoLayers))
    });
    assert!(
        matches!(outcome, Err(crate::Error::Mount(crate::MountError::NoLayers))),
        "the error comes through"
    );
    assert_eq!(status(store.info("key")), ErrorStatus::NotFound);
    assert_eq!(store.remove("base").unwrap().id, seen[0].parents[0]);

    create(&store, Kind::Active, "key", "").unwrap();
    let given = labels(&[("a", "b")]);
    let outcome = store.commit("name", "key", "", &given, Usage::default(), &mut |snapshot| {
        assert_eq!((snapshot.kind, &snapshot.labels), (Kind::Committed, &given));
        Err(crate::Error::Mount(crate::MountError::NoLayers))
    });
    assert!(outcome.is_err());
    assert_eq!(names(&store), ["key"]);
    let again = store.snapshot("key").unwrap();
    assert_eq!((again.kind, again.labels), (Kind::Active, Labels::new()));
    assert!(again.id > seen[0].id, "the id that was placed in vain does not come again");
}

#[test]
fn usage_is_kept_from_commit_on() {
    let store = empty();
    let active = create(&store, Kind::Active, "key", "").unwrap();
    assert_eq!(store.usage("key").unwrap(), (active, Usage::default()));
    let usage = Usage { size: 1 << 40, inodes: 7 };
    store.commit("name", "key", "", &Labels::new(), usage, &mut nowhere).unwrap();
    assert_eq!(store.usage("name").unwrap().1, usage);
    create(&store, Kind::View, "view", "name").unwrap();
    assert_eq!(store.usage("view").unwrap().1, Usage::default());
    create(&store, Kind::Active, "key", "").unwrap();
    let endless = Usage { size: u64::MAX, inodes: u64::MAX };
    store.commit("most", "key", "", &Labels::new(), endless, &mut nowhere).unwrap();
    assert_eq!(store.usage("most").unwrap().1.size, u64::MAX / 2);
}

#[test]
fn times_are_those_of_the_call() {
    let clock = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp { seconds: now.as_secs().cast_signed(), nanos: now.subsec_nanos() }
    };
    let store = empty();
    let start = clock();
    create(&store, Kind::Active, "key", "").unwrap();
    let made = store.info("key").unwrap();
    assert!(start <= made.created && made.created <= clock());
    assert_eq!(made.created, made.updated);
    let middle = clock();
    commit(&store, "key", "name").unwrap();
    let committed = store.info("name").unwrap();
    assert!(middle <= committed.created && committed.created <= clock());
    assert_eq!(committed.created, committed.updated);
    let updated = store.update("name", &Labels::new(), &UpdateMask::All).unwrap();
    assert_eq!(updated.created, committed.created);
    assert!(committed.updated < updated.updated && updated.updated <= clock());
    assert_eq!(store.info("name").unwrap(), updated);
}

#[test]
fn a_clock_set_back_does_not_put_updated_before_created() {
    let store = empty();
    create(&store, Kind::Active, "key", "").unwrap();
    let later = super::types::now() + 3_600_000_000_000;
    let mut writer = lock(&store.writer);
    writer
        .connection()
        .execute("UPDATE snapshots SET created = ?1, updated = ?1", [later])
        .unwrap();
    drop(writer);
    let info = store.update("key", &labels(&[("a", "b")]), &UpdateMask::All).unwrap();
    assert_eq!(info.updated, info.created);
    assert_eq!(store.info("key").unwrap(), info);
}

#[test]
fn moments_before_1970_count_forward() {
    for (count, seconds, nanos) in [
        (0, 0, 0),
        (1, 0, 1),
        (1_999_999_999, 1, 999_999_999),
        (-1, -1, 999_999_999),
        (-1_000_000_000, -1, 0),
        (i64::MAX, 9_223_372_036, 854_775_807),
        (i64::MIN, -9_223_372_037, 145_224_192),
    ] {
        assert_eq!(Timestamp::from_nanoseconds(count), Timestamp { seconds, nanos });
    }
}

#[test]
fn cleanup_learns_what_is_in_use() {
    let store = empty();
    assert_eq!(store.lowers_in_use().unwrap(), [].into());
    let base = layer(&store, "base", "").id;
    let middle = layer(&store, "middle", "base").id;
    let top = layer(&store, "top", "middle").id;
    let other = layer(&store, "other", "base").id;
    assert_eq!(store.lowers_in_use().unwrap(), [].into(), "layers alone use nothing");
    let view = create(&store, Kind::View, "view", "middle").unwrap().id;
    let active = create(&store, Kind::Active, "active", "").unwrap().id;
    assert_eq!(store.lowers_in_use().unwrap(), [base, middle].into());
    assert_eq!(store.ids().unwrap(), [base, middle, top, other, view, active].into());
    store.remove("view").unwrap();
    create(&store, Kind::Active, "more", "other").unwrap();
    assert_eq!(store.lowers_in_use().unwrap(), [base, other].into());
}

#[test]
fn blobs_are_remembered_until_many_others_are() {
    let store = empty();
    assert_eq!(store.diff_id_of("sha256:a").unwrap(), None);
    store.remember_blob("sha256:a", "sha256:1", 10).unwrap();
    store.remember_blob("sha256:b", "sha256:1", 20).unwrap();
    assert_eq!(store.diff_id_of("sha256:a").unwrap(), Some(("sha256:1".into(), 10)));
    store.remember_blob("sha256:a", "sha256:2", 30).unwrap();
    assert_eq!(store.diff_id_of("sha256:a").unwrap(), Some(("sha256:2".into(), 30)));
    let store = store.reopened();
    assert_eq!(store.diff_id_of("sha256:b").unwrap(), Some(("sha256:1".into(), 20)));
    store.remember_within("sha256:c", "sha256:3", 40, 2).unwrap();
    assert_eq!(store.diff_id_of("sha256:b").unwrap(), None, "the oldest went");
    assert!(store.diff_id_of("sha256:a").unwrap().is_some(), "it was learned again later");
}
