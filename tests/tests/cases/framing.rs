//! F: blocks, headers, the end of an archive, types of members.

use super::court::hold;

#[test]
fn f01_no_bytes_are_an_empty_layer() {
    hold("F01");
}

#[test]
fn f02_two_zero_blocks_are_an_empty_layer() {
    hold("F02");
}

#[test]
fn f03_end_blocks_may_be_missing() {
    hold("F03");
}

#[test]
fn f04_one_zero_block_at_the_end_is_an_end() {
    hold("F04");
}

#[test]
fn f05_a_padded_record_is_fine() {
    hold("F05");
}

#[test]
fn f06_garbage_after_the_end_is_ignored() {
    hold("F06");
}

#[test]
fn f07_a_second_archive_is_ignored() {
    hold("F07");
}

#[test]
fn f08_single_zero_block_mid_stream_is_refused() {
    hold("F08");
}

#[test]
fn f09_a_wrong_checksum_is_refused() {
    hold("F09");
}

#[test]
fn f10_both_sums_are_accepted() {
    hold("F10");
}

#[test]
fn f11_a_truncated_header_is_refused() {
    hold("F11");
}

#[test]
fn f12_truncated_data_is_refused() {
    hold("F12");
}

#[test]
fn f13_truncated_padding_is_fine() {
    hold("F13");
}

#[test]
fn f14_version_7_headers_are_read() {
    hold("F14");
}

#[test]
fn f15_an_old_directory_is_a_name_with_a_slash() {
    hold("F15");
}

#[test]
fn f16_type_0_with_a_slash_is_a_file() {
    hold("F16");
}

#[test]
fn f17_a_posix_prefix_is_joined() {
    hold("F17");
}

#[test]
fn f18_a_prefix_under_gnu_magic_is_joined() {
    hold("F18");
}

#[test]
fn f21_contiguous_files_are_files() {
    hold("F21");
}

#[test]
fn f22_unknown_types_are_refused() {
    hold("F22");
}

#[test]
fn f23_solaris_extended_headers_are_refused() {
    hold("F23");
}

#[test]
fn f24_global_headers_change_nothing() {
    hold("F24");
}

#[test]
fn f25_a_dangling_extension_is_refused() {
    hold("F25");
}

#[test]
fn f26_extension_headers_are_counted() {
    hold("F26");
}

#[test]
fn f27_extension_headers_are_measured() {
    hold("F27");
}
