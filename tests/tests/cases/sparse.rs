//! S: sparse files.

use super::oracle::check;

#[test]
fn s01_old_gnu_maps() {
    check("S01");
}

#[test]
fn s02_pax_0_0_maps() {
    check("S02");
}

#[test]
fn s03_pax_0_1_maps() {
    check("S03");
}

#[test]
fn s04_pax_1_0_maps() {
    check("S04");
}

#[test]
fn s06_huge_sparse_files() {
    check("S06");
}

#[test]
fn s07_maps_are_limited() {
    check("S07");
}

#[test]
fn s08_maps_must_fit_the_data() {
    check("S08");
}

#[test]
fn s09_zeros_read_back() {
    check("S09");
}
