//! X: extension headers.

use super::court::hold;

#[test]
fn x01_pax_size_wins() {
    hold("X01");
}

#[test]
fn x02_pax_size_is_for_the_member() {
    hold("X02");
}

#[test]
fn x03_two_long_names_are_refused() {
    hold("X03");
}

#[test]
fn x04_two_long_targets_are_refused() {
    hold("X04");
}

#[test]
fn x05_two_headers_of_a_kind_are_refused() {
    hold("X05");
}

#[test]
fn x06_the_last_of_two_records_wins() {
    hold("X06");
}

#[test]
fn x07_an_empty_value_takes_a_record_back() {
    hold("X07");
}

#[test]
fn x08_malformed_records_are_refused() {
    hold("X08");
}

#[test]
fn x09_values_are_bytes() {
    hold("X09");
}

#[test]
fn x10_nul_in_a_name_is_refused() {
    hold("X10");
}

#[test]
fn x12_binary_names() {
    hold("X12");
}

#[test]
fn x14_a_sparse_name_without_a_map_is_ignored() {
    hold("X14");
}

#[test]
fn x15_sizes_without_data() {
    hold("X15");
}

#[test]
fn x16_a_hard_link_with_data_is_refused() {
    hold("X16");
}

#[test]
fn x17_comments_are_ignored() {
    hold("X17");
}

#[test]
fn x18_libarchive_attributes() {
    hold("X18");
}

#[test]
fn x19_acl_text_is_ignored() {
    hold("X19");
}
