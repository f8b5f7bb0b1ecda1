//! The kernel's part: enabling fs-verity on an image, measuring it, and the note that goes with the file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use erolith_durable::scratch;
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::policy::{FsVerityMismatch, FsVerityPolicy, Pin, enabled};
use super::{Digest, Step, at_commit};
use crate::fault::point;
use crate::files::{failed, open_dir};
use crate::sys::fs_verity::{self, Measured};
use crate::{Error, IntegrityError, Result};

/// The digest of an image, on its file. Only root can set it, and no container sees it.
const NOTE: &str = "trusted.erolith.verity";

/// `BTRFS_SUPER_MAGIC` of `include/uapi/linux/magic.h`.
const BTRFS_SUPER_MAGIC: u64 = 0x9123_683e;

/// How often, and how long between, it is tried to enable fs-verity on a file that is open for writing. A process that
/// is forked in between has our descriptors until it starts its program.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Seals images before they get their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protector {
    /// Whether by fs-verity.
    pub verity: FsVerityPolicy,
}

impl Protector {
    /// Whether new images are sealed, so that it is good to know their digest.
    #[must_use]
    pub fn seals(self) -> bool {
        self.verity != FsVerityPolicy::Off
    }

    /// Seals an image that is complete, open in `file`, and open for writing in no other process. The descriptor that is given back
    /// is read-only; the one that was given is closed, since a writer stands in the way.
    ///
    /// With `is_durable` the bytes are synced before fs-verity is enabled, where there is any. `digest` is their digest, if
    /// that is known; else it is computed beside the sync. The file, with what fs-verity and the note add, has to be synced by the
    /// caller, on the descriptor that is given back, before it gets its name; see also [`Self::is_beyond_fsync`]. A sync that
    /// fails means that the image has to be made again: nothing is known of what reached the disk.
    ///
    /// # Errors
    /// [`Error::Storage`], [`crate::KernelError::Call`] when fs-verity cannot be enabled where it is required, and
    /// [`IntegrityError::FsVerity`] when the kernel measures something else than what was written.
    pub fn seal(
        self,
        file: File,
        name: &Path,
        is_durable: bool,
        digest: Option<Digest>,
    ) -> Result<File> {
        if !self.seals() {
            return Ok(file);
        }
        let digest = match digest {
            None => digest_and_sync(&file, is_durable),
            // Where there is no fs-verity nothing is done to the file but the note, and the sync after it serves for both.
            Some(digest) if is_durable && fs_verity::is_known(file.as_fd()) => {
                file.sync_all().map(|()| digest)
            }
            Some(digest) => Ok(digest),
        };
        let digest = digest.map_err(failed("syncing", name))?;
        point("seal.after_digest")?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let sealed =
            rustix::fs::open(path, flags, Mode::empty()).map_err(failed("opening", name))?;
        drop(file);
        let sealed = File::from(sealed);
        self.enable(&sealed, name, digest)?;
        point("seal.after_enable")?;
        note(&sealed, digest);
        point("seal.after_note")?;
        Ok(sealed)
    }

    /// What is to be remembered of the image at `name`, open in `file`, which is about to be committed. One that has no
    /// seal is sealed now, as far as that is wanted.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub(crate) fn commit(self, file: &File, name: &Path) -> Result<Option<Pin>> {
        if self.verity == FsVerityPolicy::Off {
            return Ok(None);
        }
        let FsVerityState { noted, measured, is_shared } = FsVerityState::of(file, name)?;
        match at_commit(self.verity, is_shared, noted, measured) {
            Step::Remember(pin) => Ok(pin),
            Step::Refuse(fault) => Err(unsealed(name, fault)),
            Step::Seal => {
                let digest = Digest::of(file, &mut |_| {}).map_err(failed("reading", name))?;
                let is_enforced = self.enable(file, name, digest)?;
                if is_enforced {
                    self.settle(file, name)?;
                }
                note(file, digest);
                Ok(Some(Pin { digest, is_enforced }))
            }
        }
    }

    /// Refuses the image at `name`, open in `file`, when it is not the one that `pin` tells of.
    ///
    /// # Errors
    /// [`IntegrityError::FsVerity`], and [`crate::KernelError::Call`] when it cannot be measured.
    pub(crate) fn require(self, file: &File, name: &Path, pin: Option<Pin>) -> Result<()> {
        if self.verity == FsVerityPolicy::Off {
            return Ok(());
        }
        let measured = measure(file, name)?;
        super::judge(self.verity, pin, measured).map_err(|fault| unsealed(name, fault))
    }

    /// Whether what fs-verity added, if it did, reaches the disk by a sync of the whole filesystem only. And only once the
    /// file has a name, though not the one by which others find it.
    ///
    /// In the log that btrfs writes for fsync(2) is the flag of the file, and not the tree. And a file that had no name
    /// when the filesystem was synced has its tree taken away when that log is replayed. Neither can be opened then.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn needs_syncfs(self, file: &File, name: &Path) -> Result<bool> {
        let found = rustix::fs::fstatfs(file).map_err(failed("examining", name))?;
        let is_btrfs = u64::try_from(found.f_type) == Ok(BTRFS_SUPER_MAGIC);
        Ok(is_btrfs && self.seals() && measure(file, name)?.is_some())
    }

    /// Syncs what fsync(2) does not, of a file that has a name.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub(crate) fn settle(self, file: &File, name: &Path) -> Result<()> {
        if self.needs_syncfs(file, name)? {
            rustix::fs::syncfs(file).map_err(failed("syncing the filesystem of", name))?;
        }
        Ok(())
    }

    /// Enables fs-verity and compares. Returns whether the file has it now.
    fn enable(self, file: &File, name: &Path, digest: Digest) -> Result<bool> {
        match enabled(self.verity, enable_patiently(file)) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(errno) => return Err(Error::kernel_on("enable fs-verity on", name)(errno)),
        }
        let pin = Some(Pin { digest, is_enforced: true });
        self.require(file, name, pin)?;
        Ok(true)
    }
}

/// What is known of an image from its file alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FsVerityState {
    /// The note on it.
    pub(crate) noted: Option<Digest>,
    /// What the kernel says.
    pub(crate) measured: Option<Measured>,
    /// Its inode has other names.
    pub(crate) is_shared: bool,
}

impl FsVerityState {
    /// Of the image at `name`, open in `file`.
    pub(crate) fn of(file: &File, name: &Path) -> Result<Self> {
        let stat = rustix::fs::fstat(file).map_err(failed("examining", name))?;
        let (noted, measured) = (noted(file), measure(file, name)?);
        Ok(Self { noted, measured, is_shared: stat.st_nlink > 1 })
    }

    /// Its digest: the one that the kernel enforces before the recorded one.
    pub(crate) fn digest(&self) -> Option<Digest> {
        match self.measured {
            Some(Measured::Sha256(bytes)) => Some(Digest::from_bytes(bytes)),
            Some(Measured::Other) => None,
            None => self.noted,
        }
    }
}

/// Tries fs-verity in `dir`, on a file without a name.
///
/// # Errors
/// What the kernel says to it.
pub(crate) fn try_out(dir: &Path) -> Result<()> {
    let file = scratch(open_dir(dir)?.as_fd()).map_err(failed("making a file in", dir))?;
    rustix::io::write(&file, &[7; 5000]).map_err(failed("writing a file in", dir))?;
    Protector { verity: FsVerityPolicy::Required }.seal(file, dir, false, None).map(drop)
}

/// The digest of a file, while it is synced.
fn digest_and_sync(file: &File, is_durable: bool) -> io::Result<Digest> {
    if !is_durable {
        return Digest::of(file, &mut |_| {});
    }
    std::thread::scope(|scope| {
        let sync = std::thread::Builder::new().name("sync".into());
        let sync = sync.spawn_scoped(scope, || file.sync_all())?;
        let digest = Digest::of(file, &mut |_| {});
        match sync.join() {
            Ok(synced) => synced.and(digest),
            Err(_) => Err(io::Error::other("the thread that syncs died")),
        }
    })
}

fn enable_patiently(file: &File) -> Result<(), Errno> {
    for _ in 0..TRIES {
        match fs_verity::enable(file.as_fd()) {
            Err(Errno::TXTBSY) => std::thread::sleep(PAUSE),
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
    fs_verity::enable(file.as_fd())
}

fn measure(file: &File, name: &Path) -> Result<Option<Measured>> {
    fs_verity::measure(file.as_fd()).map_err(Error::kernel_on("measure", name))
}

/// Writes the digest on the file. Where that cannot be, the kernel's measurement is all there is.
fn note(file: &File, digest: Digest) {
    let text = digest.to_string();
    if let Err(error) = rustix::fs::fsetxattr(file, NOTE, text.as_bytes(), XattrFlags::empty()) {
        tracing::debug!(%error, "an image carries no digest");
    }
}

fn noted(file: &File) -> Option<Digest> {
    let mut buffer = [0; 128];
    let len = rustix::fs::fgetxattr(file, NOTE, &mut buffer).ok()?;
    Digest::parse(std::str::from_utf8(buffer.get(..len)?).ok()?)
}

fn unsealed(name: &Path, fault: FsVerityMismatch) -> Error {
    Error::Integrity(IntegrityError::FsVerity { image: name.display().to_string(), fault })
}

#[cfg(test)]
mod tests;
