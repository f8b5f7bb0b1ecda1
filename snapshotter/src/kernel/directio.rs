//! Whether EROFS may read an image file past its page cache (the mount option `directio`, for mounts from files).

use std::fs::File;

use rustix::fs::{AtFlags, FileType, StatxFlags, statx};

/// Kernels whose file-backed mounts with `directio` free a request while it is in use (CVE-2026-23224) cannot be told by
/// trying, since that is a race. So the release decides here, and only here: the first of each stable series with the
/// repair ("erofs: fix UAF issue for file-backed mounts w/ directio option"), and 7.0. A distribution that carried it
/// back to another series is not known by its release; loop devices are used there.
const REPAIRED: [(u32, u32, u32); 3] = [(6, 12, 72), (6, 18, 11), (6, 19, 1)];
/// The first series that had the repair from its beginning.
const SOUND_SINCE: (u32, u32) = (7, 0);

/// Whether mounts with `directio` are sound on this kernel.
pub(crate) fn is_sound_here() -> bool {
    is_sound(&rustix::system::uname().release().to_string_lossy())
}

/// Whether mounts with `directio` are sound on the kernel with this release, as uname(2) has it.
fn is_sound(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return false };
    // `6.19-rc1` is older than 6.19.1, whatever the number of the candidate.
    let is_candidate = release.contains("-rc");
    let patch = numbers.next().and_then(Result::ok).filter(|_| !is_candidate).unwrap_or(0);
    let is_repaired = |&(a, b, c): &(u32, u32, u32)| (a, b) == (major, minor) && patch >= c;
    (major, minor) >= SOUND_SINCE || REPAIRED.iter().any(is_repaired)
}

/// Whether blocks of this many bytes can be read from `file` by direct I/O. EROFS passes an error of a read that is not
/// aligned on to the reader, so what is not known is no.
pub(crate) fn is_aligned(file: &File, block: u32) -> bool {
    let Ok(stat) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE | StatxFlags::DIOALIGN)
    else {
        return false;
    };
    let is_regular = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
    let is_known = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    is_regular && is_known && allows(stat.stx_dio_mem_align, stat.stx_dio_offset_align, block)
}

/// Whether these alignments, of which 0 means that there is no direct I/O, allow reads of whole blocks.
fn allows(memory: u32, offset: u32, block: u32) -> bool {
    [memory, offset].iter().all(|&align| align != 0 && align <= block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_with_the_repair_are_known_by_their_release() {
        let table = [
            ("6.12.71", false),
            ("6.12.72", true),
            ("6.12.74+deb13-amd64", true),
            ("6.12.0-160000.9-default", false),
            ("6.13.12", false),
            ("6.17.0-14-generic", false),
            ("6.18.10", false),
            ("6.18.11", true),
            ("6.18.44-fc-v669", true),
            ("6.19", false),
            ("6.19.0", false),
            ("6.19-rc7", false),
            ("6.19.0-rc7", false),
            ("6.19.1", true),
            ("7.0.0-rc3", true),
            ("7.2", true),
            ("10.0.1", true),
            ("6.1.0-42-amd64", false),
            ("", false),
            ("linux", false),
        ];
        for (release, want) in table {
            assert_eq!(is_sound(release), want, "{release}");
        }
    }

    #[test]
    fn blocks_smaller_than_the_alignment_are_not_read_directly() {
        let table = [
            (512, 512, 4096, true),
            (4, 512, 512, true),
            (512, 4096, 512, false),
            (512, 4096, 4096, true),
            (0, 0, 4096, false),
            (512, 0, 4096, false),
        ];
        for (memory, offset, block, want) in table {
            assert_eq!(allows(memory, offset, block), want, "{memory} {offset} {block}");
        }
    }

    #[test]
    fn only_regular_files_are_asked() {
        assert!(!is_aligned(&File::open("/dev/null").unwrap(), 4096));
    }
}
