//! `MetaStoreSuite` of containerd (`core/snapshots/storage/metastore_test.go`), test by test.

use super::*;

/// The seven snapshots of `basePopulate`: name, parent, kind.
const BASE: [(&str, &str, Kind); 7] = [
    ("committed-1", "", Kind::Committed),
    ("committed-2", "committed-1", Kind::Committed),
    ("active-1", "", Kind::Active),
    ("active-2", "committed-1", Kind::Active),
    ("active-3", "committed-2", Kind::Active),
    ("view-1", "", Kind::View),
    ("view-2", "committed-2", Kind::View),
];

fn populated() -> Fixture {
    let store = empty();
    for (n, (name, parent, kind)) in (1..).zip(BASE) {
        if kind == Kind::Committed {
            create(&store, Kind::Active, &format!("committed-tmp-{n}"), parent).unwrap();
            let usage = Usage { size: n, inodes: 0 };
            let key = format!("committed-tmp-{n}");
            store.commit(name, &key, "", &Labels::new(), usage, &mut nowhere).unwrap();
        } else {
            create(&store, kind, name, parent).unwrap();
        }
    }
    store
}

fn assert_is(info: &Info, (name, parent, kind): (&str, &str, Kind)) {
    assert_eq!((info.name.as_str(), info.parent.as_str(), info.kind), (name, parent, kind));
    assert_eq!(info.labels, Labels::new());
    assert_eq!(info.created, info.updated);
}

#[test]
fn get_info() {
    let store = populated();
    for expected in BASE {
        assert_is(&store.info(expected.0).unwrap(), expected);
    }
}

#[test]
fn get_info_not_exist() {
    assert_eq!(status(populated().info("active-not-exist")), ErrorStatus::NotFound);
}

#[test]
fn get_info_empty_db() {
    assert_eq!(status(empty().info("active-not-exist")), ErrorStatus::NotFound);
}

#[test]
fn walk() {
    let store = populated();
    let infos = store.list(&Filters::default()).unwrap();
    assert_eq!(infos.len(), BASE.len());
    for (info, expected) in infos.iter().zip(BASE) {
        assert_is(info, expected);
        assert_eq!(*info, store.info(&info.name).unwrap());
    }
}

#[test]
fn walk_empty_db() {
    assert_eq!(empty().list(&Filters::default()).unwrap(), []);
}

#[test]
fn get_snapshot() {
    let store = empty();
    layer(&store, "committed-1", "");
    for (kind, key, parent) in [
        (Kind::Active, "active-1", ""),
        (Kind::Active, "active-2", "committed-1"),
        (Kind::View, "view-1", ""),
        (Kind::View, "view-2", "committed-1"),
    ] {
        let made = create(&store, kind, key, parent).unwrap();
        assert_eq!(made.kind, kind);
        assert_eq!(store.snapshot(key).unwrap(), made, "{key}");
    }
}

#[test]
fn get_snapshot_not_exist() {
    assert_eq!(status(populated().snapshot("active-not-exist")), ErrorStatus::NotFound);
    assert_eq!(status(empty().snapshot("active-not-exist")), ErrorStatus::NotFound);
}

/// The reference refuses committed ones here; our caller does, and sees by the kind that it must.
#[test]
fn get_snapshot_committed() {
    let store = populated();
    let snapshot = store.snapshot("committed-2").unwrap();
    assert_eq!(snapshot.kind, Kind::Committed);
    assert_eq!(snapshot.parents, [store.snapshot("committed-1").unwrap().id]);
}

#[test]
fn create_active() {
    let store = empty();
    let active = create(&store, Kind::Active, "active-1", "").unwrap();
    let view = create(&store, Kind::View, "view-1", "").unwrap();
    assert_eq!((active.kind, view.kind), (Kind::Active, Kind::View));
    assert_ne!(active.id, view.id);
    assert_eq!(commit(&store, "active-1", "committed-1").unwrap().id, active.id);
    let above = create(&store, Kind::Active, "active-3", "committed-1").unwrap();
    assert_ne!(above.id, active.id);
    assert_eq!(above.parents, [active.id]);
    let view = create(&store, Kind::View, "view-2", "committed-1").unwrap();
    assert_ne!(view.id, active.id);
    assert_eq!((view.kind, view.parents), (Kind::View, vec![active.id]));
}

#[test]
fn create_active_not_exist() {
    let store = empty();
    let outcome = create(&store, Kind::Active, "active-1", "does-not-exist");
    assert_eq!(status(outcome), ErrorStatus::NotFound);
    assert_eq!(names(&store), [""; 0]);
}

#[test]
fn create_active_exist() {
    let store = populated();
    for kind in [Kind::Active, Kind::View] {
        for (taken, ..) in BASE {
            assert_eq!(
                status(create(&store, kind, taken, "")),
                ErrorStatus::AlreadyExists,
                "{taken}"
            );
        }
    }
}

#[test]
fn create_active_from_active() {
    let store = populated();
    for parent in ["active-1", "view-1"] {
        let outcome = create(&store, Kind::Active, "active-new", parent);
        assert_eq!(status(outcome), ErrorStatus::InvalidArgument);
    }
}

#[test]
fn commit_active() {
    let store = empty();
    let active = create(&store, Kind::Active, "active-1", "").unwrap();
    let committed = commit(&store, "active-1", "committed-1").unwrap();
    assert_eq!((committed.id, committed.kind), (active.id, Kind::Committed));
    assert_eq!(status(store.snapshot("active-1")), ErrorStatus::NotFound);
    assert_eq!(store.snapshot("committed-1").unwrap(), committed);
}

#[test]
fn commit_not_exist() {
    assert_eq!(status(commit(&populated(), "active-not-exist", "new")), ErrorStatus::NotFound);
    assert_eq!(status(commit(&empty(), "active-not-exist", "new")), ErrorStatus::NotFound);
}

#[test]
fn commit_exist() {
    let store = populated();
    assert_eq!(status(commit(&store, "active-1", "committed-1")), ErrorStatus::AlreadyExists);
    // The name is looked at before the key.
    assert_eq!(
        status(commit(&store, "active-not-exist", "committed-1")),
        ErrorStatus::AlreadyExists
    );
    assert_eq!(status(commit(&store, "active-1", "active-1")), ErrorStatus::AlreadyExists);
}

#[test]
fn commit_committed() {
    let outcome = commit(&populated(), "committed-1", "committed-3");
    assert_eq!(status(outcome), ErrorStatus::FailedPrecondition);
}

#[test]
fn commit_view_fails() {
    let outcome = commit(&populated(), "view-1", "committed-3");
    assert_eq!(status(outcome), ErrorStatus::FailedPrecondition);
}

#[test]
fn remove() {
    let store = empty();
    create(&store, Kind::Active, "active-1", "").unwrap();
    let committed = commit(&store, "active-1", "committed-1").unwrap();
    let first = create(&store, Kind::View, "view-1", "committed-1").unwrap();
    let second = create(&store, Kind::View, "view-2", "committed-1").unwrap();
    assert_eq!(status(store.remove("active-1")), ErrorStatus::NotFound);
    assert_eq!(store.remove("view-2").unwrap(), second);
    assert_eq!(store.remove("view-1").unwrap(), first);
    assert_eq!(store.remove("committed-1").unwrap(), committed);
    assert_eq!(names(&store), [""; 0]);
}

#[test]
fn remove_not_exist() {
    assert_eq!(status(populated().remove("does-not-exist")), ErrorStatus::NotFound);
    assert_eq!(status(empty().remove("does-not-exist")), ErrorStatus::NotFound);
}

#[test]
fn remove_with_children() {
    let store = populated();
    for name in ["committed-1", "committed-2", "committed-1"] {
        let error = error(store.remove(name));
        assert_eq!(error.status(), ErrorStatus::FailedPrecondition);
        assert!(error.to_string().contains("cannot remove snapshot with child"), "{error}");
    }
    assert_eq!(names(&store).len(), BASE.len());
}

#[test]
fn parent_ids() {
    let store = populated();
    let ids: Vec<u64> = BASE.iter().map(|(name, ..)| store.snapshot(name).unwrap().id).collect();
    let chains: [&[u64]; 7] =
        [&[], &ids[..1], &[], &ids[..1], &[ids[1], ids[0]], &[], &[ids[1], ids[0]]];
    for ((name, ..), chain) in BASE.into_iter().zip(chains) {
        assert_eq!(store.snapshot(name).unwrap().parents, chain, "{name}");
    }
}

#[test]
fn rebase() {
    let store = populated();
    for (n, (old, given)) in
        [("", "committed-1"), ("committed-1", "committed-1"), ("committed-1", "")]
            .into_iter()
            .enumerate()
    {
        let (key, name) = (format!("rebase-active-{n}"), format!("rebase-committed-{n}"));
        let active = create(&store, Kind::Active, &key, old).unwrap();
        let committed = commit_on(&store, &key, &name, given).unwrap();
        let parent = store.snapshot("committed-1").unwrap().id;
        assert_eq!((committed.id, &committed.parents[..]), (active.id, &[parent][..]));
        assert_eq!(store.info(&name).unwrap().parent, "committed-1");
        let view = create(&store, Kind::View, &format!("{name}-view"), &name).unwrap();
        assert_eq!(view.parents, [committed.id, parent]);
        assert_eq!(status(store.remove(&name)), ErrorStatus::FailedPrecondition);
    }
}

#[test]
fn rebase_refused() {
    let store = populated();
    for (old, given, expected) in [
        ("", "nonexist", ErrorStatus::NotFound),
        ("", "active-1", ErrorStatus::FailedPrecondition),
        ("", "view-1", ErrorStatus::FailedPrecondition),
        // Itself, by either name: no circle.
        ("", "key", ErrorStatus::FailedPrecondition),
        ("", "name", ErrorStatus::NotFound),
        ("committed-1", "committed-2", ErrorStatus::InvalidArgument),
        ("committed-1", "nonexist", ErrorStatus::InvalidArgument),
        ("committed-1", "active-1", ErrorStatus::InvalidArgument),
    ] {
        let before = create(&store, Kind::Active, "key", old).unwrap();
        let outcome = commit_on(&store, "key", "name", given);
        assert_eq!(status(outcome), expected, "{old} to {given}");
        assert_eq!(store.remove("key").unwrap(), before, "nothing changed");
    }
}
