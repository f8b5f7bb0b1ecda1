//! Making the filesystem of a writable layer: ext4, by `mkfs.ext4` of e2fsprogs.
//!
//! What it makes holds nothing but two directories and, until it is written to, takes some 100 KiB on disk.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;

use crate::{Error, LimitError, Result};

const PROGRAM: &str = "mkfs.ext4";
const PACKAGE: &str = "e2fsprogs";
/// Where it is when `PATH` is that of a user.
const PLACES: &str = "/usr/local/sbin:/usr/sbin:/sbin";
/// The program reads and writes what it is given as standard input.
const TARGET: &str = "/proc/self/fd/0";

/// Bytes of the largest one: 2^32 blocks, which is also the largest file that ext4 holds. What XFS would hold beyond
/// that is no size for a writable layer, and `mkfs.ext4` gives up on it in other words on each host.
const MAX: u64 = 1 << 44;

/// Bytes of a layer for each inode that it may have, those of the defaults of `mkfs.ext4`. Quotas have the same: a
/// host has a fixed number of inodes, and a container could use them all up with empty files.
pub(super) fn bytes_per_inode(limit: u64) -> u64 {
    if limit < 512 << 20 { 4096 } else { 16384 }
}

/// Makes a filesystem of `bytes` bytes in `image`, which is empty and open for reading and writing, with what is in
/// the directory `tree`. `name` is what errors call it.
///
/// # Errors
/// [`LimitError::Program`] when the program is not there, [`LimitError::Mkfs`] with what it says, [`Error::Storage`].
pub(crate) fn make(image: &File, name: &str, bytes: u64, tree: Option<&Path>) -> Result<()> {
    let storage = |source| Error::Storage { action: format!("making {name}"), source };
    if bytes > MAX {
        return Err(storage(Errno::FBIG.into()));
    }
    image.set_len(bytes).map_err(storage)?;
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(OsString::from(format!(":{PLACES}")));
    let mut command = Command::new(PROGRAM);
    command.args(options(bytes));
    if let Some(tree) = tree {
        command.arg("-d").arg(tree);
    }
    let output = command
        .arg(TARGET)
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::from(image.try_clone().map_err(storage)?))
        .output()
        .map_err(|source| {
            Error::Limit(LimitError::Program { program: PROGRAM, package: PACKAGE, source })
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    if said.contains("No space left on device") {
        return Err(storage(Errno::NOSPC.into()));
    }
    Err(Error::Limit(LimitError::Mkfs { image: name.to_owned(), status: output.status, said }))
}

/// - Nothing is kept back for root: the container is root.
/// - Blocks are those of the loop device, so that direct I/O is possible.
/// - The journal is small: it is written over and over, and so the first part of the file that takes real space.
/// - Inode tables are left to be, since the file is empty: the background writes would be for nothing.
/// - No room for growing.
fn options(bytes: u64) -> Vec<String> {
    let journal = format!("size={}", journal_mib(bytes));
    let inodes = bytes_per_inode(bytes).to_string();
    let lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    let words =
        ["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-e", "remount-ro"];
    let more = ["-O", "^resize_inode", "-i", &inodes, "-J", &journal, "-E", lazy];
    words.into_iter().chain(more).map(str::to_owned).collect()
}

/// The kernel needs 4 MiB with blocks of 4 KiB.
fn journal_mib(bytes: u64) -> u32 {
    match bytes >> 20 {
        0..256 => 4,
        256..4096 => 16,
        _ => 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_made_says_why() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let open = |name: &str| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(true);
            options.open(dir.path().join(name)).unwrap()
        };
        let error = make(&open("small"), "small", 65536, None).unwrap_err();
        assert_eq!(error.code(), "mkfs");
        assert!(error.to_string().contains("small"), "{error}");
        for bytes in [MAX + 4096, u64::MAX >> 1] {
            let error = make(&open("huge"), "huge", bytes, None).unwrap_err();
            assert_eq!(error.status(), erolith_errors::ErrorStatus::ResourceExhausted, "{error}");
        }
    }
}
