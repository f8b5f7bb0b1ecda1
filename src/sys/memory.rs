//! What the allocator is told.
#![allow(unsafe_code)] // `mallopt` has no safe wrapper.

/// Bytes from which on an allocation has pages of its own, which go back to the system with it.
#[cfg(target_env = "gnu")]
const OWN_PAGES: i32 = 128 << 10;

/// Keeps buffers out of the heap. glibc would raise the size from which they are mapped with every buffer that is freed,
/// up to 32 MiB, and then hold on to what was once used for a layer: 26 MiB more in a daemon that has unpacked two images.
pub(crate) fn give_back() {
    // SAFETY: no thread runs yet that could be in the allocator; a value that is refused changes nothing.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES) };
}
