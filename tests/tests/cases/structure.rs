//! T: how members add up to a tree.

use super::court::hold;

#[test]
fn t01_missing_parents_are_made() {
    hold("T01");
}

#[test]
fn t03_a_late_directory_describes() {
    hold("T03");
}

#[test]
fn t04_the_last_duplicate_wins() {
    hold("T04");
}

#[test]
fn t05_a_directory_twice_is_one() {
    hold("T05");
}

#[test]
fn t06_a_file_replaces_a_directory() {
    hold("T06");
}

#[test]
fn t07_a_directory_replaces_anything_else() {
    hold("T07");
}

#[test]
fn t08_hard_links_share_an_inode() {
    hold("T08");
}

#[test]
fn t09_a_missing_target_is_refused() {
    hold("T09");
}

#[test]
fn t10_a_target_in_a_lower_layer_is_refused() {
    hold("T10");
}

#[test]
fn t11_links_to_anything_but_directories() {
    hold("T11");
}

#[test]
fn t12_links_to_directories_are_refused() {
    hold("T12");
}

#[test]
fn t13_a_link_to_itself_is_refused() {
    hold("T13");
}

#[test]
fn t17_an_empty_symlink_is_refused() {
    hold("T17");
}

#[test]
fn t18_symlinks_end_at_4095_bytes() {
    hold("T18");
}

#[test]
fn t20_devices_and_fifos() {
    hold("T20");
}

#[test]
fn t21_a_device_0_0_stays() {
    hold("T21");
}

#[test]
fn t22_trees_without_files() {
    hold("T22");
}

#[test]
fn t23_sizes_around_boundaries() {
    hold("T23");
}
