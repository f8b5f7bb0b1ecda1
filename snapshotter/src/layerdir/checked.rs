//! Images that need no further check before a kernel sees them.
//!
//! Ours are correct by construction, or were checked when they came in. A foreign differ may write
//! anything: that is checked before it is first mounted or committed. What was found good carries a mark, with the size
//! and time it had, so that a file that was written again is not taken for the one that was looked at.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use erolith_mkfs::check::{Limits, check};
use rustix::fs::{FileType, Stat, XattrFlags};

use super::IMAGE;
use crate::files::{failed, stat};
use crate::{Error, IntegrityError, Result};

/// Only root can set it, and no container sees it: it is on the image and not in it.
const MARK: &str = "trusted.erolith.checked";

/// Notes that the image in the layer directory `dir` has been checked, or was made by erolith. For those who publish
/// one there; without it the first who mounts or commits the layer checks it.
///
/// # Errors
/// [`Error::Storage`], as on a filesystem without extended attributes: a check more is all that follows.
pub fn mark_checked(dir: &Path) -> Result<()> {
    let path = dir.join(IMAGE);
    let file = File::open(&path).map_err(failed("opening", &path))?;
    set_mark(&file).map_err(failed("marking", &path))
}

/// Marks an image that is finished. Where it cannot carry a mark it is checked more often, and that is all.
pub(crate) fn mark(file: &File) {
    if let Err(error) = set_mark(file) {
        tracing::debug!(%error, "an image carries no mark");
    }
}

fn set_mark(file: &File) -> std::io::Result<()> {
    let value = state(file)?;
    Ok(rustix::fs::fsetxattr(file, MARK, value.as_bytes(), XattrFlags::empty())?)
}

/// What changes when a file is written.
fn state(file: &File) -> std::io::Result<String> {
    let meta = file.metadata()?;
    Ok(format!("{} {}.{:09}", meta.len(), meta.mtime(), meta.mtime_nsec()))
}

pub(crate) fn is_marked(file: &File) -> bool {
    let mut buffer = [0; 64];
    let value = rustix::fs::fgetxattr(file, MARK, &mut buffer).ok();
    let value = value.and_then(|len| buffer.get(..len));
    state(file).is_ok_and(|state| value == Some(state.as_bytes()))
}

/// Checks the structure of the image at `path`, open as `file`, when it carries no mark, and marks it. A link leads
/// into a cache that the configuration declares trusted.
///
/// # Errors
/// [`IntegrityError::Check`] with the first thing that is wrong, [`IntegrityError::Read`].
pub(crate) fn require_checked(path: &Path, file: &File) -> Result<()> {
    if is_link(path)? || is_marked(file) {
        return Ok(());
    }
    let name = || path.display().to_string();
    let report = check(file, &[], &Limits::default())
        .map_err(|source| Error::Integrity(IntegrityError::Read { image: name(), source }))?;
    if let Some(finding) = report.errors().next() {
        return Err(Error::Integrity(IntegrityError::Check {
            image: name(),
            source: finding.to_string().into(),
        }));
    }
    mark(file);
    Ok(())
}

/// Whether an image is that of a cache: a symbolic link.
pub(crate) fn is_link(path: &Path) -> Result<bool> {
    let is_link = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    Ok(stat(path)?.is_some_and(is_link))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_mark_goes_with_the_bytes_it_was_made_for() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join(IMAGE);
        let file = File::create_new(&path).unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        assert!(!is_marked(&file));
        assert_eq!(require_checked(&path, &file).unwrap_err().code(), "image-check");
        if let Err(error) = mark_checked(dir.path()) {
            assert!(std::env::var_os("CI").is_none(), "no trusted attributes: {error}");
            println!("skipped: no trusted attributes: {error}");
            return;
        }
        assert!(is_marked(&file));
        require_checked(&path, &file).unwrap();
        let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        file.set_modified(hour_ago).unwrap();
        assert!(!is_marked(&file));
        mark_checked(dir.path()).unwrap();
        file.set_len(4096).unwrap();
        assert!(!is_marked(&file));
    }
}
