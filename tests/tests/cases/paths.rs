//! P: names and paths.

use super::court::hold;

#[test]
fn p01_absolute_paths_are_relative() {
    hold("P01");
}

#[test]
fn p02_paths_are_cleaned() {
    hold("P02");
}

#[test]
fn p03_the_root_can_be_described() {
    hold("P03");
}

#[test]
fn p04_an_empty_name_is_refused() {
    hold("P04");
}

#[test]
fn p05_dot_as_another_type() {
    hold("P05");
}

#[test]
fn p06_names_of_255_bytes() {
    hold("P06");
}

#[test]
fn p07_names_of_256_bytes_are_refused() {
    hold("P07");
}

#[test]
fn p08_paths_end_at_4095_bytes() {
    hold("P08");
}

#[test]
fn p09_names_are_bytes() {
    hold("P09");
}

#[test]
fn p10_names_equal_to_the_eye_are_distinct() {
    hold("P10");
}

#[test]
fn p12_parents_may_be_symlinks() {
    hold("P12");
}

#[test]
fn p13_symlinked_parents_stay_inside() {
    hold("P13");
}

#[test]
fn p14_symlink_loops_are_refused() {
    hold("P14");
}

#[test]
fn p16_a_file_is_no_parent() {
    hold("P16");
}
