//! F: blocks, headers, the end of an archive, types of members.

use super::oracle::check;

#[test]
fn f01_no_bytes_are_an_empty_layer() {
    check("F01");
}

#[test]
fn f02_two_zero_blocks_are_an_empty_layer() {
    check("F02");
}

#[test]
fn f03_end_blocks_may_be_missing() {
    check("F03");
}

#[test]
fn f04_one_zero_block_at_the_end_is_an_end() {
    check("F04");
}

#[test]
fn f05_a_padded_record_is_fine() {
    check("F05");
}

#[test]
fn f06_garbage_after_the_end_is_ignored() {
    check("F06");
}

#[test]
fn f07_a_second_archive_is_ignored() {
    check("F07");
}

#[test]
fn f08_single_zero_block_mid_stream_is_refused() {
    check("F08");
}

#[test]
fn f09_a_wrong_checksum_is_refused() {
    check("F09");
}

#[test]
fn f10_both_sums_are_accepted() {
    check("F10");
}

#[test]
fn f11_a_truncated_header_is_refused() {
    check("F11");
}

#[test]
fn f12_truncated_data_is_refused() {
    check("F12");
}

#[test]
fn f13_truncated_padding_is_fine() {
    check("F13");
}

#[test]
fn f14_version_7_headers_are_read() {
    check("F14");
}

#[test]
fn f15_an_old_directory_is_a_name_with_a_slash() {
    check("F15");
}

#[test]
fn f16_type_0_with_a_slash_is_a_file() {
    check("F16");
}

#[test]
fn f17_a_posix_prefix_is_joined() {
    check("F17");
}

#[test]
fn f18_a_prefix_under_gnu_magic_is_joined() {
    check("F18");
}

#[test]
fn f21_contiguous_files_are_files() {
    check("F21");
}

#[test]
fn f22_unknown_types_are_refused() {
    check("F22");
}

#[test]
fn f23_solaris_extended_headers_are_refused() {
    check("F23");
}

#[test]
fn f24_global_headers_change_nothing() {
    check("F24");
}

#[test]
fn f25_a_dangling_extension_is_refused() {
    check("F25");
}

#[test]
fn f26_extension_headers_are_counted() {
    check("F26");
}

#[test]
fn f27_extension_headers_are_measured() {
    check("F27");
}
