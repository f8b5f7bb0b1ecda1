//! Whose mounts lie in the state directory.
//!
//! Mounts are named by numbers of snapshots, which mean something else below another root. So the directory belongs
//! to one root, and what another one left is undone before the first number is trusted.

use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::{LowerId, space, unmount};
use crate::files::{failed, names};
use crate::{Error, Result, ServiceError};

const OWNER: &str = "owner";

/// Makes the state directory if need be, locks it and makes it that of the root `identity`.
pub(super) fn take(state: &Path, identity: &str) -> Result<File> {
    // What is there keeps its mode: it may also hold the socket, and every space has a mode of its own.
    let mut make = DirBuilder::new();
    make.recursive(true).mode(0o700).create(state).map_err(failed("making directory", state))?;
    let path = state.join(OWNER);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    let fd = rustix::fs::open(&path, flags, mode).map_err(failed("opening", &path))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(Error::Service(ServiceError::InUse { dir: state.to_owned(), pid: None }));
        }
        Err(errno) => return Err(failed("locking", &path)(errno)),
    }
    let mut file = File::from(fd);
    let mut known = String::new();
    // Bytes that are no text are no identity.
    let is_read = file.read_to_string(&mut known).is_ok();
    if !is_read || known != identity {
        disown(state)?;
        file.set_len(0).map_err(failed("writing", &path))?;
        file.write_all_at(identity.as_bytes(), 0).map_err(failed("writing", &path))?;
    }
    Ok(file)
}

/// Undoes every mount in every space. Detached, so that no user of a mount keeps it.
fn disown(state: &Path) -> Result<()> {
    let spaces = space::all(state)?;
    let uppers = state.join(crate::uppers::PLACE);
    for dir in spaces.iter().chain([&uppers]) {
        for name in names(dir)?.iter().filter(|name| LowerId::from_name(name).is_some()) {
            unmount(&dir.join(name), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        }
    }
    space::remove_unused(&spaces)
}
