//! W: whiteouts and opaque directories.

use super::court::hold;

#[test]
fn w01_a_whiteout_is_a_device_0_0() {
    hold("W01");
}

#[test]
fn w02_a_name_of_the_layer_beats_its_whiteout() {
    hold("W02");
}

#[test]
fn w03_opaque_directories() {
    hold("W03");
}

#[test]
fn w04_opaque_without_a_directory() {
    hold("W04");
}

#[test]
fn w05_no_whiteouts_below_opaque() {
    hold("W05");
}

#[test]
fn w06_malformed_whiteouts_are_refused() {
    hold("W06");
}

#[test]
fn w08_aufs_bookkeeping_is_skipped() {
    hold("W08");
}

#[test]
fn w09_a_whiteout_is_no_directory() {
    hold("W09");
}

#[test]
fn w10_a_whiteout_of_nothing() {
    hold("W10");
}

#[test]
fn w11_a_directory_made_anew_is_opaque() {
    hold("W11");
}

#[test]
fn w12_no_whiteouts_in_a_base_layer() {
    hold("W12");
}

#[test]
fn w14_overlay_attributes_of_devices_are_escaped() {
    hold("W14");
}
