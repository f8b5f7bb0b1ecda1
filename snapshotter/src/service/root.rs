//! The root directory: ours alone, closed to others, and known by an identity of its own.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use erolith_durable::Durability;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::files::{failed, names, replace, stat};
use crate::layerdir::{SNAPSHOTS, snapshot_id};
use crate::store::Store;
use crate::{Error, IntegrityError, Result, ServiceError};

const LOCK: &str = "lock";
const IDENTITY: &str = "identity";
/// The database.
pub(crate) const DATABASE: &str = "metadata.db";

/// Makes the root if need be, closes it to others and locks it. The lock goes with the returned file, also when the
/// process is killed.
pub(crate) fn take(root: &Path) -> Result<File> {
    match stat(root)? {
        None => {
            let mut make = DirBuilder::new();
            make.recursive(true).mode(0o700).create(root).map_err(failed("making", root))?;
        }
        // Container files with their setuid bits lie below: other users must not reach them (CVE-2021-41103).
        Some(found) if found.st_mode & 0o077 != 0 => {
            let is_ours = |name: &String| [LOCK, DATABASE, SNAPSHOTS].contains(&name.as_str());
            let names = names(root)?;
            if !names.is_empty() && !names.iter().any(is_ours) {
                return Err(Error::Service(ServiceError::Config {
                    setting: "root",
                    value: root.display().to_string(),
                    reason: "open to others, and holds files that are not erolith's",
                }));
            }
            rustix::fs::chmod(root, Mode::from_raw_mode(0o700))
                .map_err(failed("setting the mode of", root))?;
        }
        Some(_) => {}
    }
    lock(root)
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
        .map_err(failed("opening", &path))?;
    let mut file = File::from(fd);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Only for the message: the lock counts, not what is written there.
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(Error::Service(ServiceError::InUse { dir: root.to_owned(), pid }));
        }
        Err(errno) => return Err(failed("locking", &path)(errno)),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0).map_err(failed("writing", &path))?;
    file.write_all_at(pid.as_bytes(), 0).map_err(failed("writing", &path))?;
    Ok(file)
}

/// What tells this root from every other, also from one made later at the same path. Made at first use.
pub(super) fn identity(root: &Path) -> Result<String> {
    let path = root.join(IDENTITY);
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(text),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(failed("reading", &path)(e)),
    }
    let random = Path::new("/proc/sys/kernel/random/uuid");
    let text = std::fs::read_to_string(random).map_err(failed("reading", random))?;
    replace(&path, text.as_bytes(), 0o600, Durability::Synced)?;
    Ok(text)
}

/// The database and the snapshots of a root that is there.
pub(crate) fn parts(root: &Path) -> Result<(PathBuf, PathBuf)> {
    let (database, snapshots) = (root.join(DATABASE), root.join(SNAPSHOTS));
    require_database(root)?;
    if stat(&database)?.is_none() {
        let value = root.display().to_string();
        return Err(Error::Service(ServiceError::Config {
            setting: "root",
            value,
            reason: "there is no database in it",
        }));
    }
    Ok((database, snapshots))
}

/// fs-verity is required, and this is what came of trying it.
pub(super) fn no_verity(dir: &Path, error: &Error) -> Error {
    Error::Integrity(IntegrityError::NoFsVerity { dir: dir.to_owned(), reason: error.line() })
}

/// Refuses a root whose database was lost, or has nothing in it: with a new one every snapshot there would be taken for
/// garbage.
pub(super) fn require_database(root: &Path) -> Result<()> {
    let is_snapshot = |name: &String| snapshot_id(name).is_some();
    if !Store::is_there(&root.join(DATABASE))
        && names(&root.join(SNAPSHOTS))?.iter().any(is_snapshot)
    {
        return Err(Error::Service(ServiceError::DatabaseMissing { root: root.to_owned() }));
    }
    Ok(())
}
