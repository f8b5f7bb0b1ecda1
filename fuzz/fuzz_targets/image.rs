//! Any bytes as an image, read: every name, every attribute, and the first MiB and the end of every file.
//! Errors are fine; a panic, a hang or a runaway allocation is a bug.

#![no_main]

use erolith_mkfs::image::Image;
use libfuzzer_sys::fuzz_target;

/// Names looked at, errors included.
const NAMES: usize = 2000;
/// Bytes read of one file, and of all.
const FILE: u64 = 1 << 20;
const ALL: u64 = 32 << 20;

fuzz_target!(|data: &[u8]| {
    let image = erolith_fuzz::sealed(data);
    let Ok(image) = Image::open(&image, Vec::new()) else { return };
    let mut walk = image.walk();
    let mut buf = vec![0; 64 << 10];
    let mut budget = ALL;
    for _ in 0..NAMES {
        let entry = match walk.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(_) => continue,
        };
        let inode = entry.inode;
        let _ = image.xattrs(&inode);
        let _ = image.read_link(&inode);
        let _ = image.lookup(entry.path);
        let _ = image.extents(&inode).take(4096).filter(Result::is_err).count();
        let mut pos = 0;
        while pos < inode.size.min(FILE) && budget > 0 {
            match image.read_at(&inode, &mut buf, pos) {
                Ok(n) if n > 0 => {
                    pos += n as u64;
                    budget = budget.saturating_sub(n as u64);
                }
                _ => break,
            }
        }
        let _ = image.read_at(&inode, &mut buf[..100], inode.size.saturating_sub(100));
    }
});
