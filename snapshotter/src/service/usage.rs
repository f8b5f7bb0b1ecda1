//! What a snapshot takes on disk, counted as containerd counts (`fs.DiskUsage` of containerd/continuity): allocated
//! blocks of 512 bytes and inodes, each once.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::files::{failed, open_dir, stat};
use crate::store::Usage;
use crate::{Error, Result};

/// A file, or a link itself; nothing when it is not there.
pub(super) fn of_file(path: &Path) -> Result<Usage> {
    Ok(stat(path)?.map_or_else(Usage::default, |stat| of_stat(&stat)))
}

/// The tree of an upper directory.
pub(super) fn of_tree(upper: &Path) -> Result<Usage> {
    let mut count = Count { usage: Usage::default(), seen: BTreeSet::new() };
    match open_dir(upper) {
        Ok(root) => count.tree(&root).map_err(failed("counting", upper))?,
        // Removed since it was listed.
        Err(Error::Storage { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(count.usage)
}

/// The first without the second, which is part of it.
pub(super) fn without(all: Usage, part: Usage) -> Usage {
    Usage {
        size: all.size.saturating_sub(part.size),
        inodes: all.inodes.saturating_sub(part.inodes),
    }
}

/// Both together.
pub(super) fn sum(one: Usage, other: Usage) -> Usage {
    Usage {
        size: one.size.saturating_add(other.size),
        inodes: one.inodes.saturating_add(other.inodes),
    }
}

/// An inode.
pub(super) fn of_stat(stat: &Stat) -> Usage {
    Usage { size: u64::try_from(stat.st_blocks).unwrap_or(0) * 512, inodes: 1 }
}

struct Count {
    usage: Usage,
    /// Inodes with several names.
    seen: BTreeSet<(u64, u64)>,
}

impl Count {
    /// A container may change the tree at the same time, so no symbolic link is followed and what vanishes is passed over.
    fn tree(&mut self, root: &OwnedFd) -> Result<(), Errno> {
        self.add(&rustix::fs::fstat(root)?);
        let mut todo = vec![b".".to_vec()];
        while let Some(path) = todo.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let dir =
                match rustix::fs::openat2(root, path.as_slice(), flags, Mode::empty(), resolve) {
                    Ok(dir) => dir,
                    // Gone, replaced, or deeper than a path can tell.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
                        continue;
                    }
                    Err(errno) => return Err(errno),
                };
            for entry in rustix::fs::Dir::read_from(&dir)? {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    other => other?,
                };
                self.add(&stat);
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    todo.push([path.as_slice(), b"/", name.to_bytes()].concat());
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, stat: &Stat) {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1 && !is_dir && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.usage = sum(self.usage, of_stat(stat));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layerdir::{self, IMAGE, UPPER};
    use crate::store::Kind;

    #[test]
    fn inodes_and_blocks_count_once_and_links_are_not_followed() {
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let dir = root.path().join("1");
        layerdir::make(&dir, Kind::Active).unwrap();
        let upper = dir.join(UPPER);
        std::fs::create_dir(upper.join("d")).unwrap();
        let file = std::fs::File::create(upper.join("d/f")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 9000], 0).unwrap();
        file.sync_all().unwrap();
        std::fs::hard_link(upper.join("d/f"), upper.join("g")).unwrap();
        std::os::unix::fs::symlink("/usr", upper.join("link")).unwrap();
        let usage = of_tree(&upper).unwrap();
        assert_eq!(usage.inodes, 4);
        assert!((9000..40_000).contains(&usage.size), "{}", usage.size);
        let image = std::fs::File::create(dir.join(IMAGE)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&image, &[1; 4096], 0).unwrap();
        image.sync_all().unwrap();
        let of_image = of_file(&dir.join(IMAGE)).unwrap();
        assert_eq!(of_image, Usage { size: 4096, inodes: 1 });
        assert_eq!(sum(usage, of_image).inodes, 5);
        for missing in [of_tree, of_file] {
            assert_eq!(missing(&root.path().join("none")).unwrap(), Usage::default());
        }
    }
}
