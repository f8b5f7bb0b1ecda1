//! P: names and paths.

use super::oracle::check;

#[test]
fn p01_absolute_paths_are_relative() {
    check("P01");
}

#[test]
fn p02_paths_are_cleaned() {
    check("P02");
}

#[test]
fn p03_the_root_can_be_described() {
    check("P03");
}

#[test]
fn p04_an_empty_name_is_refused() {
    check("P04");
}

#[test]
fn p05_dot_as_another_type() {
    check("P05");
}

#[test]
fn p06_names_of_255_bytes() {
    check("P06");
}

#[test]
fn p07_names_of_256_bytes_are_refused() {
    check("P07");
}

#[test]
fn p08_paths_end_at_4095_bytes() {
    check("P08");
}

#[test]
fn p09_names_are_bytes() {
    check("P09");
}

#[test]
fn p10_names_equal_to_the_eye_are_distinct() {
    check("P10");
}

#[test]
fn p12_parents_may_be_symlinks() {
    check("P12");
}

#[test]
fn p13_symlinked_parents_stay_inside() {
    check("P13");
}

#[test]
fn p14_symlink_loops_are_refused() {
    check("P14");
}

#[test]
fn p16_a_file_is_no_parent() {
    check("P16");
}
