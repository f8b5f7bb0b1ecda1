//! Any bytes as an image, checked. Findings are fine; a panic, a hang or a runaway allocation is a bug. So is
//! an image that is found clean and then cannot be walked.

#![no_main]

use erolith_mkfs::check::{Limits, check};
use erolith_mkfs::image::Image;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let image = erolith_fuzz::sealed(data);
    let report = check(&image, &[], &Limits::default()).expect("memory can always be read");
    if !report.is_clean() {
        return;
    }
    let image = Image::open(&image, Vec::new()).expect("it was found clean");
    let mut walk = image.walk();
    while let Some(entry) = walk.next_entry().expect("it was found clean") {
        let inode = entry.inode;
        image.xattrs(&inode).expect("it was found clean");
        if inode.is_symlink() {
            image.read_link(&inode).expect("it was found clean");
        }
        for extent in image.extents(&inode) {
            extent.expect("it was found clean");
        }
        let found = image.lookup(entry.path).expect("it was found clean");
        assert_eq!(found.map(|found| found.nid), Some(inode.nid), "names are sorted");
    }
});
