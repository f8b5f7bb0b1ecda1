//! S: sparse files.

use super::court::hold;

#[test]
fn s01_old_gnu_maps() {
    hold("S01");
}

#[test]
fn s02_pax_0_0_maps() {
    hold("S02");
}

#[test]
fn s03_pax_0_1_maps() {
    hold("S03");
}

#[test]
fn s04_pax_1_0_maps() {
    hold("S04");
}

#[test]
fn s06_huge_sparse_files() {
    hold("S06");
}

#[test]
fn s07_maps_are_limited() {
    hold("S07");
}

#[test]
fn s08_maps_must_fit_the_data() {
    hold("S08");
}

#[test]
fn s09_zeros_read_back() {
    hold("S09");
}
