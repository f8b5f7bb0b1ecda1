//! Every rule of the plan, as tables.

use super::*;
use crate::store::{Labels, Usage};

fn entry(id: u64, key: &str, parent: Option<u64>, kind: Kind) -> Entry {
    Entry {
        id,
        key: key.to_owned(),
        parent,
        kind,
        created: 1,
        updated: 1,
        labels: Labels::new(),
        usage: Usage::default(),
        pin: None,
        tree: None,
        origin: None,
        damage: None,
    }
}

fn found(entry: Entry) -> LayerDirState {
    let has_image = entry.kind == Kind::Committed;
    LayerDirState { id: entry.id, record: Some(Ok(entry)), announced: None, has_image }
}

/// A layer called after its number.
fn layer(id: u64, parent: impl Into<Option<u64>>) -> LayerDirState {
    found(entry(id, &id.to_string(), parent.into(), Kind::Committed))
}

fn active(id: u64, key: &str, parent: impl Into<Option<u64>>) -> LayerDirState {
    found(entry(id, key, parent.into(), Kind::Active))
}

fn bare(id: u64) -> LayerDirState {
    LayerDirState { id, record: None, announced: None, has_image: false }
}

fn rows(plan: &Plan) -> Vec<u64> {
    plan.entries.iter().map(|entry| entry.id).collect()
}

fn faults(plan: &Plan) -> Vec<(u64, Inconsistency)> {
    plan.problems.iter().map(|problem| (problem.id, problem.fault.clone())).collect()
}

/// What is said of a case, what is found, the rows in their order, and what is wrong.
type Case = (&'static str, Vec<LayerDirState>, Vec<u64>, Vec<(u64, Inconsistency)>);

fn records() -> Vec<Case> {
    use Inconsistency::*;
    let unreadable = || super::Unreadable::Version(9);
    let bad = LayerDirState { record: Some(Err(unreadable())), ..bare(1) };
    let name = |id| found(entry(id, "n", None, Kind::Committed));
    let key = |id| active(id, "k", None);
    vec![
        ("nothing", vec![], vec![], vec![]),
        ("a chain", vec![layer(1, None), layer(2, 1), active(3, "k", 2)], vec![1, 2, 3], vec![]),
        ("a parent that is newer", vec![layer(1, 2), layer(2, None)], vec![2, 1], vec![]),
        ("no record", vec![bare(1), layer(2, None)], vec![2], vec![(1, NoRecord)]),
        ("a bad record", vec![bad], vec![], vec![(1, Unreadable(unreadable()))]),
        ("two with one key", vec![key(3), key(5)], vec![5], vec![(3, KeyTaken(5))]),
        (
            "what stands on the one that loses",
            vec![name(1), active(2, "k", 1), name(4)],
            vec![4],
            vec![(1, KeyTaken(4)), (2, ParentMissing(1))],
        ),
        ("no number of ours", vec![bare(u64::MAX)], vec![], vec![(u64::MAX, NoRecord)]),
    ]
}

fn parents() -> Vec<Case> {
    use Inconsistency::*;
    let gone = |found| LayerDirState { has_image: false, ..found };
    vec![
        (
            "a missing parent takes along what is above",
            vec![layer(2, 1), layer(3, 2), active(4, "k", 3), layer(5, None)],
            vec![5],
            vec![(2, ParentMissing(1)), (3, ParentMissing(2)), (4, ParentMissing(3))],
        ),
        (
            "as does one whose record is gone",
            vec![bare(1), layer(2, 1)],
            vec![],
            vec![(1, NoRecord), (2, ParentMissing(1))],
        ),
        (
            "a parent that is no layer",
            vec![active(1, "k", None), layer(2, 1), layer(3, 2)],
            vec![1],
            vec![(2, ParentNotLayer(1)), (3, ParentMissing(2))],
        ),
        (
            "a circle, and what is above it",
            vec![layer(1, 2), layer(2, 1), layer(3, 2), layer(4, 4), layer(5, None)],
            vec![5],
            vec![(1, Circle), (2, Circle), (3, Circle), (4, Circle)],
        ),
        (
            "a layer without image is kept",
            vec![gone(layer(1, None)), layer(2, 1)],
            vec![1, 2],
            vec![(1, NoImage)],
        ),
        (
            "but not where it has no place",
            vec![gone(layer(2, 1))],
            vec![],
            vec![(2, ParentMissing(1))],
        ),
    ]
}

#[test]
fn rows_come_with_parents_first_and_the_rest_is_told() {
    for (said, found, want, problems) in records().into_iter().chain(parents()) {
        let mut reversed = found.clone();
        reversed.reverse();
        for found in [found, reversed] {
            let mut all: Vec<_> = found.iter().map(|found| found.id).collect();
            let plan = plan(found, &BTreeSet::new());
            assert_eq!(rows(&plan), want, "{said}");
            assert_eq!(faults(&plan), problems, "{said}");
            let left_out = plan.left_out().map(|problem| problem.id);
            let mut told: Vec<_> = rows(&plan).into_iter().chain(left_out).collect();
            all.sort_unstable();
            told.sort_unstable();
            assert_eq!(told, all, "{said}: each has a row or is left out");
        }
    }
}

#[test]
fn a_commit_that_was_cut_short_is_done_when_there_is_an_image() {
    let (before, after) =
        (entry(1, "k", None, Kind::Active), entry(1, "name", None, Kind::Committed));
    let bad = Unreadable::TooLong;
    let (ok, err) = (Some(Ok(after.clone())), Some(Err(bad.clone())));
    let old = Some(Ok(before.clone()));
    let table = [
        (old.clone(), ok.clone(), true, Ok(after.clone())),
        (old.clone(), ok.clone(), false, Ok(before.clone())),
        (old.clone(), err.clone(), true, Ok(before)),
        (err.clone(), ok.clone(), true, Ok(after.clone())),
        (None, ok.clone(), true, Ok(after)),
        (None, ok.clone(), false, Err(Inconsistency::NoRecord)),
        (err.clone(), ok, false, Err(Inconsistency::Unreadable(bad.clone()))),
        (None, err, true, Err(Inconsistency::Unreadable(bad))),
    ];
    for (record, announced, has_image, want) in table {
        let found = LayerDirState { id: 1, record, announced, has_image };
        assert_eq!(state(found.clone()), want, "{found:?}");
    }
}

#[test]
fn damage_that_is_known_stays_known() {
    let mut quarantine = entry(1, "a", None, Kind::Committed);
    quarantine.damage = Some("cut off".to_owned());
    let gone = LayerDirState { has_image: false, ..found(quarantine) };
    let plan =
        plan(vec![gone, LayerDirState { has_image: false, ..layer(2, None) }], &BTreeSet::new());
    let reasons: Vec<_> = plan.entries.iter().map(|entry| entry.damage.as_deref()).collect();
    assert_eq!(reasons[0], Some("cut off"));
    assert!(reasons[1].unwrap().contains("gone"));
    assert_eq!(faults(&plan), [(2, Inconsistency::NoImage)]);
}

#[test]
fn ids_do_not_come_again() {
    let used = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(plan(vec![], &used(&[])).next, 1 + MARGIN);
    assert_eq!(plan(vec![layer(7, None), bare(9)], &used(&[3])).next, 10 + MARGIN);
    assert_eq!(plan(vec![layer(7, None)], &used(&[30, u64::MAX])).next, 31 + MARGIN);
}
