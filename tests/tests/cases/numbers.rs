//! N: numbers and what they mean.

use super::oracle::check;

#[test]
fn n01_spaces_around_octal_are_fine() {
    check("N01");
}

#[test]
fn n02_large_owners() {
    check("N02");
}

#[test]
fn n03_owners_beyond_32_bits_are_refused() {
    check("N03");
}

#[test]
fn n04_owner_minus_one_is_refused() {
    check("N04");
}

#[test]
fn n05_pax_owners_are_digits() {
    check("N05");
}

#[test]
fn n06_owner_names_are_ignored() {
    check("N06");
}

#[test]
fn n07_type_bits_in_the_mode_are_cleared() {
    check("N07");
}

#[test]
fn n08_special_mode_bits_are_kept() {
    check("N08");
}

#[test]
fn n09_symlinks_have_mode_0777() {
    check("N09");
}

#[test]
fn n10_nanoseconds_are_kept() {
    check("N10");
}

#[test]
fn n11_fractions_are_cut_or_filled() {
    check("N11");
}

#[test]
fn n12_times_before_1970_are_kept() {
    check("N12");
}

#[test]
fn n13_times_after_2106_are_kept() {
    check("N13");
}

#[test]
fn n14_times_are_decimal() {
    check("N14");
}

#[test]
fn n15_bad_pax_sizes_are_refused() {
    check("N15");
}

#[test]
fn n16_size_2_80_is_refused() {
    check("N16");
}

#[test]
fn n17_negative_sizes_are_refused() {
    check("N17");
}

#[test]
fn n18_a_file_beyond_the_budget_is_refused() {
    check("N18");
}

#[test]
fn n20_schily_device_numbers_are_ignored() {
    check("N20");
}

#[test]
fn n21_directory_times_survive_their_children() {
    check("N21");
}

#[test]
fn n22_atime_and_ctime_are_ignored() {
    check("N22");
}
