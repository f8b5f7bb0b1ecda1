//! Labels: at creation, at commit, and by every form of update.

use proptest::prelude::*;

use super::*;
use crate::store::update::updated;

fn paths(paths: &[&str]) -> UpdateMask {
    UpdateMask::Paths(paths.iter().map(|&p| p.to_owned()).collect())
}

#[test]
fn commit_replaces_labels() {
    let store = empty();
    let before = labels(&[("a", "1"), ("b", "2")]);
    let made = store.create(Kind::Active, "key", "", &before, &mut nowhere).unwrap();
    assert_eq!(made.labels, before);
    assert_eq!(store.info("key").unwrap().labels, before);
    let after = labels(&[("c", "3")]);
    store.commit("name", "key", "", &after, Usage::default(), &mut nowhere).unwrap();
    assert_eq!(store.info("name").unwrap().labels, after);
    assert_eq!(store.snapshot("name").unwrap().labels, after);
}

#[test]
fn empty_values_are_no_labels() {
    let store = empty();
    let given = labels(&[("a", "1"), ("b", "")]);
    let kept = labels(&[("a", "1")]);
    let made = store.create(Kind::Active, "key", "", &given, &mut nowhere).unwrap();
    assert_eq!(made.labels, kept);
    assert_eq!(store.info("key").unwrap().labels, kept);
    store.commit("name", "key", "", &given, Usage::default(), &mut nowhere).unwrap();
    assert_eq!(store.info("name").unwrap().labels, kept);
    assert_eq!(store.update("name", &given, &UpdateMask::All).unwrap().labels, kept);
}

#[test]
fn labels_go_with_their_snapshot() {
    let store = empty();
    let given = labels(&[("a", "1")]);
    let id = store.create(Kind::Active, "key", "", &given, &mut nowhere).unwrap().id;
    assert_eq!(store.remove("key").unwrap().labels, given);
    let again = create(&store, Kind::Active, "key", "").unwrap();
    assert_ne!(again.id, id);
    assert_eq!(again.labels, Labels::new());
    let mut writer = lock(&store.writer);
    let left: i64 =
        writer.connection().query_row("SELECT count(*) FROM labels", (), |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

/// The cases of `checkUpdate` in containerd's suite, and those its code decides.
#[test]
fn masks_decide_what_an_update_sets() {
    let current = labels(&[("l1", "old"), ("l2", "old"), ("x.y", "old")]);
    let given = labels(&[("l1", "new"), ("l3", "new"), ("l4", ""), ("x.y", "new")]);
    let all = labels(&[("l1", "new"), ("l3", "new"), ("x.y", "new")]);
    for (mask, expected) in [
        (UpdateMask::All, all.clone()),
        (paths(&[]), all.clone()),
        (paths(&["labels"]), all.clone()),
        (paths(&["labels.l1", "labels.l2"]), labels(&[("l1", "new"), ("x.y", "old")])),
        (paths(&["labels.l3"]), {
            labels(&[("l1", "old"), ("l2", "old"), ("l3", "new"), ("x.y", "old")])
        }),
        (paths(&["labels.l4", "labels.none"]), current.clone()),
        (paths(&["labels.x.y"]), labels(&[("l1", "old"), ("l2", "old"), ("x.y", "new")])),
        (paths(&["labels.l2", "labels"]), all),
    ] {
        assert_eq!(updated(current.clone(), &given, &mask).unwrap(), expected, "{mask:?}");
    }
    for path in [
        "parent", "kind", "name", "created", "updated", "", "label", "Labels", "labels.", "labelsx",
    ] {
        for mask in [paths(&[path]), paths(&["labels", path])] {
            let error = updated(current.clone(), &given, &mask).unwrap_err();
            assert_eq!(
                (error.code(), error.status()),
                ("field-path", ErrorStatus::InvalidArgument)
            );
        }
    }
}

#[test]
fn an_update_changes_labels_and_time_only() {
    let store = empty();
    layer(&store, "base", "");
    for (kind, key) in [(Kind::Active, "a"), (Kind::View, "v")] {
        create(&store, kind, key, "base").unwrap();
    }
    for name in ["base", "a", "v"] {
        let before = store.info(name).unwrap();
        let set = store.update(name, &labels(&[("k", "v")]), &UpdateMask::All).unwrap();
        assert_eq!(set, Info { updated: set.updated, labels: labels(&[("k", "v")]), ..before });
        assert_eq!(store.info(name).unwrap(), set);
        let refused = store.update(name, &Labels::new(), &paths(&["labels.k", "parent"]));
        assert_eq!(status(refused), ErrorStatus::InvalidArgument);
        assert_eq!(store.info(name).unwrap(), set, "a refused update changes nothing");
        let cleared = store.update(name, &Labels::new(), &paths(&["labels.k"])).unwrap();
        assert_eq!(cleared.labels, Labels::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_set_is_read(given in prop::collection::btree_map(any::<String>(), any::<String>(), 0..8)) {
        let store = empty();
        let made = store.create(Kind::Active, "key", "", &given, &mut nowhere).unwrap();
        let kept: Labels = given.into_iter().filter(|(_, v)| !v.is_empty()).collect();
        prop_assert_eq!(&made.labels, &kept);
        prop_assert_eq!(&store.info("key").unwrap().labels, &kept);
        prop_assert_eq!(&store.list(&Filters::default()).unwrap()[0].labels, &kept);
    }
}
