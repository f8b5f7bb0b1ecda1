//! X: extension headers.

use super::oracle::check;

#[test]
fn x01_pax_size_wins() {
    check("X01");
}

#[test]
fn x02_pax_size_is_for_the_member() {
    check("X02");
}

#[test]
fn x03_two_long_names_are_refused() {
    check("X03");
}

#[test]
fn x04_two_long_targets_are_refused() {
    check("X04");
}

#[test]
fn x05_two_headers_of_a_kind_are_refused() {
    check("X05");
}

#[test]
fn x06_the_last_of_two_records_wins() {
    check("X06");
}

#[test]
fn x07_an_empty_value_takes_a_record_back() {
    check("X07");
}

#[test]
fn x08_malformed_records_are_refused() {
    check("X08");
}

#[test]
fn x09_values_are_bytes() {
    check("X09");
}

#[test]
fn x10_nul_in_a_name_is_refused() {
    check("X10");
}

#[test]
fn x12_binary_names() {
    check("X12");
}

#[test]
fn x14_a_sparse_name_without_a_map_is_ignored() {
    check("X14");
}

#[test]
fn x15_sizes_without_data() {
    check("X15");
}

#[test]
fn x16_a_hard_link_with_data_is_refused() {
    check("X16");
}

#[test]
fn x17_comments_are_ignored() {
    check("X17");
}

#[test]
fn x18_libarchive_attributes() {
    check("X18");
}

#[test]
fn x19_acl_text_is_ignored() {
    check("X19");
}
