//! Removing a tree that a container wrote: as deep, wide and odd as it could make it.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::Result;
use crate::files::{failed, open_dir};

/// Removes `dir` and everything below it. No symbolic link is followed, and a tree may be deeper than a path can be
/// long: a directory that is not empty is first moved up, beside the others that are still to be emptied.
///
/// # Errors
/// [`crate::Error::Storage`] when something cannot be removed, such as a mount point or an immutable file. What
/// could be removed before is gone then.
pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::unlinkat(rustix::fs::CWD, dir, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(failed("removing", dir)(errno)),
    }
    let top = open_dir(dir)?;
    let mut moved = 0u64;
    // What is moved up while a directory is emptied is emptied in the next round.
    loop {
        let names = names_in(&top).map_err(failed("listing", dir))?;
        if names.is_empty() {
            break;
        }
        for name in names {
            if try_remove(&top, &name).map_err(failed("removing from", dir))? {
                continue;
            }
            let below = rustix::fs::openat(&top, &name, flags, Mode::empty())
                .map_err(failed("opening a directory in", dir))?;
            for inner in names_in(&below).map_err(failed("listing below", dir))? {
                if !try_remove(&below, &inner).map_err(failed("removing below", dir))? {
                    move_up(&below, &inner, &top, &mut moved)
                        .map_err(failed("moving below", dir))?;
                }
            }
            if !try_remove(&top, &name).map_err(failed("removing from", dir))? {
                let busy = failed("emptying a directory of", dir);
                return Err(busy(Errno::NOTEMPTY));
            }
        }
    }
    rustix::fs::unlinkat(rustix::fs::CWD, dir, AtFlags::REMOVEDIR).map_err(failed("removing", dir))
}

/// Removes a file or an empty directory. Returns false for a directory that is not empty.
fn try_remove(dir: &OwnedFd, name: &CString) -> Result<bool, Errno> {
    let removed = match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        other => other,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Moves a directory to the top, under a name that is free there.
fn move_up(from: &OwnedFd, name: &CString, top: &OwnedFd, moved: &mut u64) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let free = format!(".moved-{moved}");
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(from.as_fd(), name, top.as_fd(), &free, flags) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

fn names_in(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5000 levels of 200 bytes: no path reaches the bottom, no process has the descriptors, no stack the frames.
    #[test]
    fn trees_deeper_than_any_path_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let name = "d".repeat(200);
        let mut at = open_dir(&tree).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
        }
        rustix::fs::mkdirat(&at, ".moved-1", Mode::RWXU).unwrap();
        drop(at);
        remove_tree(&tree).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (outside, tree) = (root.path().join("outside"), root.path().join("tree"));
        std::fs::create_dir_all(outside.join("kept")).unwrap();
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/b/link")).unwrap();
        std::fs::create_dir(tree.join(".moved-1")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        remove_tree(&tree).unwrap();
    }
}
