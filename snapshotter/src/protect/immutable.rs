//! The flag that keeps even root from writing to an image, or deleting it, by accident.
//!
//! It belongs to the inode and not to the name, so it is set only where the inode has one name, which is ours: never on
//! what a content store shares with us, nor on images that several layers have. It goes only from what is removed next.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, IFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::Result;
use crate::fault::point;
use crate::files::{failed, unlink};

/// Makes the image at `path` immutable, if it is a file with that name only. Returns whether it is so now. A filesystem
/// that has no such flag is no error.
pub(crate) fn set_immutable(path: &Path) -> Result<bool> {
    let Some(file) = open(path)? else { return Ok(false) };
    let stat = rustix::fs::fstat(&file).map_err(failed("examining", path))?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    // Whether the inode has only our name, so that a flag concerns no other program.
    if !is_file || stat.st_nlink != 1 {
        return Ok(false);
    }
    let flags = match rustix::fs::ioctl_getflags(&file) {
        Ok(flags) if flags.contains(IFlags::IMMUTABLE) => return Ok(true),
        Ok(flags) => flags,
        Err(errno) if is_unknown(errno) => return Ok(false),
        Err(errno) => return Err(failed("reading the flags of", path)(errno)),
    };
    match rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE) {
        Ok(()) => Ok(true),
        Err(errno) if is_unknown(errno) || errno == Errno::PERM => Ok(false),
        Err(errno) => Err(failed("setting the flags of", path)(errno)),
    }
}

/// Removes the image at `path`, with the flag that keeps it from that if it is ours. Returns whether it was there.
pub(crate) fn remove_image(path: &Path) -> Result<bool> {
    clear(path)?;
    point("remove.after_clear")?;
    unlink(path)
}

/// Clears the flag of a file that is removed or quarantined next. On a file with other names, another program has set it.
pub(crate) fn clear(path: &Path) -> Result<()> {
    let Some(file) = open(path)? else { return Ok(()) };
    let Ok(flags) = rustix::fs::ioctl_getflags(&file) else { return Ok(()) };
    let links = rustix::fs::fstat(&file).map_err(failed("examining", path))?.st_nlink;
    if !flags.contains(IFlags::IMMUTABLE) || links > 1 {
        return Ok(());
    }
    rustix::fs::ioctl_setflags(&file, flags.difference(IFlags::IMMUTABLE))
        .map_err(failed("clearing the flags of", path))
}

fn is_unknown(errno: Errno) -> bool {
    matches!(errno, Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
}

/// Opens a file; nothing for what is not there, or is a symbolic link, which leads to another program's file.
fn open(path: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(failed("opening", path)(errno)),
    }
}

/// Whether the file has the flag.
#[cfg(test)]
pub(crate) fn is_immutable(path: &Path) -> bool {
    let file = std::fs::File::open(path).unwrap();
    rustix::fs::ioctl_getflags(&file).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// A file without the flag after a test that fails.
    struct Image(std::path::PathBuf);

    impl Drop for Image {
        fn drop(&mut self) {
            clear(&self.0).ok();
        }
    }

    #[test]
    fn a_file_with_one_name_becomes_immutable_until_it_is_removed() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let image = Image(dir.path().join("image"));
        let path = &image.0;
        File::create(path).unwrap();
        if !set_immutable(path).unwrap() {
            assert!(std::env::var_os("CI").is_none(), "no immutable files on /var/tmp");
            println!("skipped: no immutable files on /var/tmp");
            return;
        }
        assert!(is_immutable(path) && set_immutable(path).unwrap());
        let denied = std::fs::remove_file(path).unwrap_err();
        assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(File::options().write(true).open(path).is_err());
        assert!(remove_image(path).unwrap());
        assert!(!remove_image(path).unwrap());
    }

    #[test]
    fn what_is_shared_or_a_link_is_left_alone() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (blob, name, link) =
            (dir.path().join("blob"), dir.path().join("name"), dir.path().join("link"));
        File::create(&blob).unwrap();
        std::fs::hard_link(&blob, &name).unwrap();
        std::os::unix::fs::symlink(&blob, &link).unwrap();
        assert!(!set_immutable(&name).unwrap());
        assert!(!set_immutable(&link).unwrap());
        assert!(!set_immutable(dir.path()).unwrap());
        assert!(!set_immutable(&dir.path().join("none")).unwrap());
        assert!(!is_immutable(&blob));
        assert!(remove_image(&name).unwrap() && remove_image(&link).unwrap());
        assert!(blob.exists());
    }
}
