//! A: extended attributes.

use super::oracle::check;

#[test]
fn a01_file_capabilities_are_bit_exact() {
    check("A01");
}

#[test]
fn a02_selinux_labels_are_bit_exact() {
    check("A02");
}

#[test]
fn a03_user_attributes_only_where_the_kernel_takes_them() {
    check("A03");
}

#[test]
fn a04_trusted_attributes_are_dropped() {
    check("A04");
}

#[test]
fn a05_overlay_attributes_are_escaped() {
    check("A05");
}

#[test]
fn a06_acls_are_bit_exact() {
    check("A06");
}

#[test]
fn a07_an_empty_value_is_present() {
    check("A07");
}

#[test]
fn a08_names_and_values_have_limits() {
    check("A08");
}

#[test]
fn a09_the_last_of_two_values_wins() {
    check("A09");
}

#[test]
fn a11_ima_and_evm_are_kept() {
    check("A11");
}

#[test]
fn a12_access_lists_are_taken_as_the_kernel_takes_them() {
    check("A12");
}

#[test]
fn a13_capabilities_that_the_kernel_does_not_take_are_refused() {
    check("A13");
}
