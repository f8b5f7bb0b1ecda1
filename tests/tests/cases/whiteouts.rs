//! W: whiteouts and opaque directories.

use super::oracle::check;

#[test]
fn w01_a_whiteout_is_a_device_0_0() {
    check("W01");
}

#[test]
fn w02_a_name_of_the_layer_beats_its_whiteout() {
    check("W02");
}

#[test]
fn w03_opaque_directories() {
    check("W03");
}

#[test]
fn w04_opaque_without_a_directory() {
    check("W04");
}

#[test]
fn w05_no_whiteouts_below_opaque() {
    check("W05");
}

#[test]
fn w06_malformed_whiteouts_are_refused() {
    check("W06");
}

#[test]
fn w08_aufs_bookkeeping_is_skipped() {
    check("W08");
}

#[test]
fn w09_a_whiteout_is_no_directory() {
    check("W09");
}

#[test]
fn w10_a_whiteout_of_nothing() {
    check("W10");
}

#[test]
fn w11_a_directory_made_anew_is_opaque() {
    check("W11");
}

#[test]
fn w12_no_whiteouts_in_a_base_layer() {
    check("W12");
}

#[test]
fn w14_overlay_attributes_of_devices_are_escaped() {
    check("W14");
}
