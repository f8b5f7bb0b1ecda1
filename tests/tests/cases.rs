//! Every crafted archive through the builder and before all judges, one test an id.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "cases/attributes.rs"]
mod attributes;
#[path = "cases/court.rs"]
mod court;
#[path = "cases/framing.rs"]
mod framing;
#[path = "cases/numbers.rs"]
mod numbers;
#[path = "cases/paths.rs"]
mod paths;
#[path = "cases/pax.rs"]
mod pax;
#[path = "cases/sparse.rs"]
mod sparse;
#[path = "cases/structure.rs"]
mod structure;
#[path = "cases/whiteouts.rs"]
mod whiteouts;

/// No case without a test.
#[test]
fn every_id_of_the_catalogue_is_tested() {
    let sources = [
        include_str!("cases/attributes.rs"),
        include_str!("cases/framing.rs"),
        include_str!("cases/numbers.rs"),
        include_str!("cases/paths.rs"),
        include_str!("cases/pax.rs"),
        include_str!("cases/sparse.rs"),
        include_str!("cases/structure.rs"),
        include_str!("cases/whiteouts.rs"),
    ];
    for case in erolith_tests::cases::all() {
        let call = format!("hold(\"{}\")", case.id);
        assert!(sources.iter().any(|s| s.contains(&call)), "no test of {}", case.name());
    }
}
