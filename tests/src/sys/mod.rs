//! The only `unsafe` of the tests.
#![allow(unsafe_code)]

pub(crate) mod notify;

use std::fs::File;
use std::io;

use erofs_rs::backend::MmapImage;

/// Maps an image that nobody changes while the test looks at it.
///
/// # Errors
/// What `mmap` says.
pub(crate) fn map_image(file: &File) -> io::Result<MmapImage> {
    // SAFETY: images under test are private files of the test, written before they are mapped and never after.
    unsafe { MmapImage::new_from_file(file) }
}
