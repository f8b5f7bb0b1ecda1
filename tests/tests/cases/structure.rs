//! T: how members add up to a tree.

use super::oracle::check;

#[test]
fn t01_missing_parents_are_made() {
    check("T01");
}

#[test]
fn t03_a_late_directory_describes() {
    check("T03");
}

#[test]
fn t04_the_last_duplicate_wins() {
    check("T04");
}

#[test]
fn t05_a_directory_twice_is_one() {
    check("T05");
}

#[test]
fn t06_a_file_replaces_a_directory() {
    check("T06");
}

#[test]
fn t07_a_directory_replaces_anything_else() {
    check("T07");
}

#[test]
fn t08_hard_links_share_an_inode() {
    check("T08");
}

#[test]
fn t09_a_missing_target_is_refused() {
    check("T09");
}

#[test]
fn t10_a_target_in_a_lower_layer_is_refused() {
    check("T10");
}

#[test]
fn t11_links_to_anything_but_directories() {
    check("T11");
}

#[test]
fn t12_links_to_directories_are_refused() {
    check("T12");
}

#[test]
fn t13_a_link_to_itself_is_refused() {
    check("T13");
}

#[test]
fn t17_an_empty_symlink_is_refused() {
    check("T17");
}

#[test]
fn t18_symlinks_end_at_4095_bytes() {
    check("T18");
}

#[test]
fn t20_devices_and_fifos() {
    check("T20");
}

#[test]
fn t21_a_device_0_0_stays() {
    check("T21");
}

#[test]
fn t22_trees_without_files() {
    check("T22");
}

#[test]
fn t23_sizes_around_boundaries() {
    check("T23");
}
