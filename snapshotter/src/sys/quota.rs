//! Project quotas: quotactl(2), in the words that ext4, XFS and F2FS all understand.
//!
//! The structures are those of `include/uapi/linux/dqblk_xfs.h`. The kernel translates them for filesystems that keep
//! their quotas in another form.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

const Q_XGETQUOTA: u32 = xfs_command(3);
const Q_XSETQLIM: u32 = xfs_command(4);
const Q_XGETQSTATV: u32 = xfs_command(8);
const PRJQUOTA: u32 = 2;

/// `XQM_CMD`, as `QCMD` puts it together with the kind of quota.
const fn xfs_command(number: u32) -> u32 {
    (((b'X' as u32) << 8) + number) << 8 | PRJQUOTA
}

const FS_DQUOT_VERSION: i8 = 1;
const FS_QSTATV_VERSION1: i8 = 1;
const FS_PROJ_QUOTA: i8 = 2;
/// Hard and soft limits of inodes and of blocks.
const FS_DQ_LIMIT_MASK: u16 = 0b1111;
const FS_QUOTA_PDQ_ACCT: u16 = 1 << 4;
const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;
/// Bytes of a block in all these numbers.
const BLOCK: u64 = 512;

/// `struct fs_disk_quota`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fieldmask: u16,
    id: u32,
    blk_hardlimit: u64,
    blk_softlimit: u64,
    ino_hardlimit: u64,
    ino_softlimit: u64,
    bcount: u64,
    icount: u64,
    /// Timers, warnings and the realtime device of XFS.
    rest: [u64; 7],
}

/// `struct fs_quota_statv`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct QuotaStat {
    version: i8,
    pad1: u8,
    flags: u16,
    incoredqs: u32,
    /// Files, timers and warnings.
    rest: [u64; 19],
}

const _: () = assert!(size_of::<DiskQuota>() == 112);
const _: () = assert!(std::mem::offset_of!(DiskQuota, bcount) == 40);
const _: () = assert!(size_of::<QuotaStat>() == 160);

/// What a project may have, and has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    /// Bytes on disk. As a limit, 0 is none.
    pub(crate) bytes: u64,
    /// Files, directories and everything else with an inode. As a limit, 0 is none.
    pub(crate) inodes: u64,
}

/// The quotas of one filesystem.
#[derive(Debug)]
pub(crate) struct Quotas<'f> {
    /// Some file or directory there.
    file: BorrowedFd<'f>,
    /// Finds the block device of the filesystem of a file, for kernels before 5.14.
    device: FindDevice,
}

/// Finds the block device of the filesystem that a file is on.
pub(crate) type FindDevice = fn(BorrowedFd<'_>) -> Result<CString, Errno>;

impl<'f> Quotas<'f> {
    /// Those of the filesystem that `file` is on.
    pub(crate) fn of(file: BorrowedFd<'f>, device: FindDevice) -> Self {
        Self { file, device }
    }

    /// Whether projects are counted and kept to their limits.
    ///
    /// # Errors
    /// ENOSYS where neither kernel nor filesystem knows quotas, and what looking for the device gives.
    pub(crate) fn are_enforced(&self) -> Result<bool, Errno> {
        let mut stat = QuotaStat {
            version: FS_QSTATV_VERSION1,
            pad1: 0,
            flags: 0,
            incoredqs: 0,
            rest: [0; 19],
        };
        let both = FS_QUOTA_PDQ_ACCT | FS_QUOTA_PDQ_ENFD;
        self.call(Q_XGETQSTATV, 0, (&raw mut stat).cast())?;
        Ok(stat.flags & both == both)
    }

    /// Limit and use of project `id`.
    ///
    /// # Errors
    /// What the kernel answers: EPERM without CAP_SYS_ADMIN.
    pub(crate) fn get(&self, id: u32) -> Result<(Amount, Amount), Errno> {
        let mut quota = DiskQuota::new(id);
        match self.call(Q_XGETQUOTA, id, (&raw mut quota).cast()) {
            // XFS has nothing on a project that never was.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let bytes = |blocks: u64| blocks.saturating_mul(BLOCK);
        let limit = Amount { bytes: bytes(quota.blk_hardlimit), inodes: quota.ino_hardlimit };
        Ok((limit, Amount { bytes: bytes(quota.bcount), inodes: quota.icount }))
    }

    /// The first project from `id` on that the filesystem knows.
    #[cfg(test)]
    pub(crate) fn next(&self, id: u32) -> Option<u32> {
        let mut quota = DiskQuota::new(id);
        self.call(xfs_command(9), id, (&raw mut quota).cast()).ok()?;
        Some(quota.id)
    }

    /// Sets the limit of project `id`.
    ///
    /// # Errors
    /// What the kernel answers: EPERM without CAP_SYS_ADMIN, ERANGE for more than the filesystem can count.
    pub(crate) fn set_limit(&self, id: u32, limit: Amount) -> Result<(), Errno> {
        let mut quota = DiskQuota::new(id);
        quota.fieldmask = FS_DQ_LIMIT_MASK;
        quota.blk_hardlimit = limit.bytes.div_ceil(BLOCK);
        quota.ino_hardlimit = limit.inodes;
        self.call(Q_XSETQLIM, id, (&raw mut quota).cast())
    }

    /// quotactl_fd(2), and where the kernel does not have it (before 5.14), quotactl(2) on the device.
    fn call(&self, command: u32, id: u32, data: *mut libc::c_void) -> Result<(), Errno> {
        let fd = self.file.as_raw_fd();
        // SAFETY: `data` is the structure that `command` reads or fills, of the size asserted above, and outlives
        // the call.
        let ret = unsafe { libc::syscall(libc::SYS_quotactl_fd, fd, command, id, data) };
        match result(ret) {
            Err(Errno::NOSYS) => self.call_on_device(command, id, data),
            other => other,
        }
    }

    fn call_on_device(&self, command: u32, id: u32, data: *mut libc::c_void) -> Result<(), Errno> {
        let device = (self.device)(self.file)?;
        // SAFETY: as for quotactl_fd; the path is NUL-terminated and outlives the call.
        let ret = unsafe { libc::syscall(libc::SYS_quotactl, command, device.as_ptr(), id, data) };
        result(ret)
    }
}

impl DiskQuota {
    fn new(id: u32) -> Self {
        Self {
            version: FS_DQUOT_VERSION,
            flags: FS_PROJ_QUOTA,
            fieldmask: 0,
            id,
            blk_hardlimit: 0,
            blk_softlimit: 0,
            ino_hardlimit: 0,
            ino_softlimit: 0,
            bcount: 0,
            icount: 0,
            rest: [0; 7],
        }
    }
}

fn result(ret: libc::c_long) -> Result<(), Errno> {
    if ret == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::mounts::table::block_device;

    /// Where there are quotas, the older call answers as the newer one does, and what is set is read back.
    #[test]
    fn both_calls_have_the_same_answers() {
        let dir = std::fs::File::open("/var/tmp").unwrap();
        let quotas = Quotas::of(dir.as_fd(), block_device);
        if std::env::var("EROLITH_TEST_QUOTA").as_deref() != Ok("on") {
            assert_ne!(quotas.are_enforced(), Ok(true), "tests/vm/quota.sh did not say so");
            return;
        }
        assert_eq!(quotas.are_enforced(), Ok(true));
        let limit = Amount { bytes: 1 << 20, inodes: 77 };
        let id = 0x64FE_0000;
        quotas.set_limit(id, limit).unwrap();
        assert_eq!(quotas.get(id), Ok((limit, Amount::default())));
        let mut quota = DiskQuota::new(id);
        quotas.call_on_device(Q_XGETQUOTA, id, (&raw mut quota).cast()).unwrap();
        assert_eq!((quota.id, quota.blk_hardlimit, quota.ino_hardlimit), (id, 2048, 77));
        quotas.set_limit(id, Amount::default()).unwrap();
        assert_eq!(quotas.get(id), Ok((Amount::default(), Amount::default())));
    }
}
