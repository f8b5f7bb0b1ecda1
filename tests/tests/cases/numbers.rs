//! N: numbers and what they mean.

use super::court::hold;

#[test]
fn n01_spaces_around_octal_are_fine() {
    hold("N01");
}

#[test]
fn n02_large_owners() {
    hold("N02");
}

#[test]
fn n03_owners_beyond_32_bits_are_refused() {
    hold("N03");
}

#[test]
fn n04_owner_minus_one_is_refused() {
    hold("N04");
}

#[test]
fn n05_pax_owners_are_digits() {
    hold("N05");
}

#[test]
fn n06_owner_names_are_ignored() {
    hold("N06");
}

#[test]
fn n07_type_bits_in_the_mode_are_cleared() {
    hold("N07");
}

#[test]
fn n08_special_mode_bits_are_kept() {
    hold("N08");
}

#[test]
fn n09_symlinks_have_mode_0777() {
    hold("N09");
}

#[test]
fn n10_nanoseconds_are_kept() {
    hold("N10");
}

#[test]
fn n11_fractions_are_cut_or_filled() {
    hold("N11");
}

#[test]
fn n12_times_before_1970_are_kept() {
    hold("N12");
}

#[test]
fn n13_times_after_2106_are_kept() {
    hold("N13");
}

#[test]
fn n14_times_are_decimal() {
    hold("N14");
}

#[test]
fn n15_bad_pax_sizes_are_refused() {
    hold("N15");
}

#[test]
fn n16_size_2_80_is_refused() {
    hold("N16");
}

#[test]
fn n17_negative_sizes_are_refused() {
    hold("N17");
}

#[test]
fn n18_a_file_beyond_the_budget_is_refused() {
    hold("N18");
}

#[test]
fn n20_schily_device_numbers_are_ignored() {
    hold("N20");
}

#[test]
fn n21_directory_times_survive_their_children() {
    hold("N21");
}

#[test]
fn n22_atime_and_ctime_are_ignored() {
    hold("N22");
}
