//! Loop devices, for kernels and filesystems where EROFS cannot be mounted from a file, and for writable layers that
//! are filesystems of their own.
//!
//! Devices are autoclear: the kernel frees one when its last user, the mounted filesystem, is gone. They are recorded
//! nowhere, and a killed process leaks none. Numbers and layouts are those of `include/uapi/linux/loop.h`.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{self, Getter, Ioctl, IoctlOutput, Opcode, Setter};

use crate::KernelError;
use crate::error::failed;
use crate::{Error, Result};

/// Attempts against other programs, which may configure the device that was named free to us. Among ourselves a
/// lock decides: eight threads that only retry lose eight times in a row.
const TRIES: u32 = 64;
/// What our devices carry as `lo_file_name`, by which an unmount knows them. The true backing file is in
/// `/sys/block/loopN/loop/backing_file`.
const TAG: &[u8] = b"erolith";

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

const LOOP_GET_STATUS64: Opcode = 0x4C05;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;

/// `struct loop_info64`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);
const _: () = assert!(std::mem::offset_of!(LoopInfo64, flags) == 52);
const _: () = assert!(std::mem::offset_of!(LoopInfo64, file_name) == 56);
const _: () = assert!(size_of::<LoopConfig>() == 304);
const _: () = assert!(std::mem::offset_of!(LoopConfig, info) == 8);

impl LoopInfo64 {
    const ZERO: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// `LOOP_CTL_GET_FREE` takes nothing and returns the number as the result of the call.
struct GetFree;

// SAFETY: the opcode takes no argument, writes no memory, and its result is the plain return value.
unsafe impl Ioctl for GetFree {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<u32> {
        u32::try_from(out).map_err(|_| Errno::RANGE)
    }
}

/// What a device allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Writes are refused.
    ReadOnly,
    /// Writes reach the backing file, which is open for writing.
    ReadWrite,
}

impl Access {
    fn open_flags(self) -> OFlags {
        match self {
            Self::ReadOnly => OFlags::RDONLY | OFlags::CLOEXEC,
            Self::ReadWrite => OFlags::RDWR | OFlags::CLOEXEC,
        }
    }
}

/// A configured loop device. It stays configured while this, or a filesystem mounted from it, lives.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    fd: OwnedFd,
    number: u32,
}

/// What the kernel says of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// Filesystem of the backing file, as `st_dev`.
    pub(crate) device: u64,
    /// Inode number of the backing file.
    pub(crate) inode: u64,
    /// Writes are refused.
    pub(crate) read_only: bool,
    /// It goes away with its last user.
    pub(crate) autoclear: bool,
    /// Reads bypass the page cache of the backing file.
    pub(crate) direct_io: bool,
    /// It was made by [`attach`].
    pub(crate) ours: bool,
}

impl LoopDevice {
    /// The node by which the device is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        node(self.number)
    }

    /// What the kernel made of our wishes.
    pub(crate) fn status(&self) -> Result<Status> {
        status_of(self.fd.as_fd(), self.number)
    }
}

/// Puts `backing` behind a free loop device: autoclear, with direct I/O where the backing filesystem can.
///
/// `block_size` is the device's logical block size; the image's block size must be a multiple of it.
///
/// # Errors
/// [`KernelError::Call`] when there is no loop driver, no right or no free device; [`KernelError::LoopNode`] when the
/// node is missing; [`KernelError::LoopRace`] when others were quicker [`TRIES`] times.
pub(crate) fn attach(
    backing: BorrowedFd<'_>,
    block_size: u32,
    access: Access,
) -> Result<LoopDevice> {
    let control = open_control()?;
    // Released with the descriptor, also when we are killed.
    rustix::fs::flock(&control, FlockOperation::LockExclusive)
        .map_err(|errno| Error::kernel("lock /dev/loop-control", errno))?;
    for _ in 0..TRIES {
        let number = free_number(&control)?;
        let fd = rustix::fs::open(node(number), access.open_flags(), Mode::empty())
            .map_err(|errno| Error::Kernel(KernelError::LoopNode { number, errno }))?;
        match configure(&fd, backing, block_size, access) {
            Ok(()) => return Ok(LoopDevice { fd, number }),
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(Error::kernel(format!("configure /dev/loop{number}"), errno)),
        }
    }
    Err(Error::Kernel(KernelError::LoopRace { tries: TRIES }))
}

/// The device that `backing` is attached to already, by whichever process: two devices over one file would be two caches
/// of it, and a filesystem mounted from both would destroy itself.
///
/// # Errors
/// [`Error::Storage`] when the devices cannot be listed or the file not be examined.
pub(crate) fn find(backing: BorrowedFd<'_>) -> Result<Option<LoopDevice>> {
    let devices = Path::new("/proc/partitions");
    let stat = rustix::fs::fstat(backing).map_err(failed("listing", devices))?;
    let table = std::fs::read_to_string(devices).map_err(failed("reading", devices))?;
    for number in in_use(&table) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::open(node(number), flags, Mode::empty()) else { continue };
        // Held open, it cannot go away between this answer and its use.
        let is_same = |status: Status| (status.device, status.inode) == (stat.st_dev, stat.st_ino);
        if status_of(fd.as_fd(), number).is_ok_and(is_same) {
            return Ok(Some(LoopDevice { fd, number }));
        }
    }
    Ok(None)
}

/// The loop devices in a table of block devices, which has only those with something behind them: thousands of others
/// may have been made since the machine started.
fn in_use(table: &str) -> impl Iterator<Item = u32> {
    let names = table.lines().filter_map(|line| line.split_whitespace().nth(3));
    names.filter_map(|name| name.strip_prefix("loop")?.parse().ok())
}

/// The state of the loop device at `path`, which is what a mount table has as a source.
///
/// # Errors
/// [`KernelError::Call`] when it cannot be opened, or is no configured loop device.
pub(crate) fn status_of_node(path: &Path) -> Result<Status> {
    let open = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let fd = open.map_err(Error::kernel_on("open", path))?;
    status_of(fd.as_fd(), 0)
}

fn open_control() -> Result<File> {
    rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(|errno| Error::kernel("open /dev/loop-control", errno))
}

fn free_number(control: &File) -> Result<u32> {
    // SAFETY: `GetFree` passes no pointer, and /dev/loop-control understands the opcode or answers ENOTTY.
    unsafe { ioctl::ioctl(control, GetFree) }
        .map_err(|errno| Error::kernel("find a free loop device", errno))
}

fn configure(
    device: &OwnedFd,
    backing: BorrowedFd<'_>,
    block_size: u32,
    access: Access,
) -> Result<(), Errno> {
    let read_only = if access == Access::ReadOnly { LO_FLAGS_READ_ONLY } else { 0 };
    let flags = read_only | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    let mut info = LoopInfo64 { flags, ..LoopInfo64::ZERO };
    if let Some(name) = info.file_name.get_mut(..TAG.len()) {
        name.copy_from_slice(TAG);
    }
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let config = LoopConfig { fd, block_size, info, reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `LoopConfig` is (asserted above); `backing`
    // outlives the call.
    let set = unsafe { Setter::<LOOP_CONFIGURE, LoopConfig>::new(config) };
    // SAFETY: as above; the driver copies the struct in and writes nothing back.
    unsafe { ioctl::ioctl(device, set) }
}

fn status_of(fd: BorrowedFd<'_>, number: u32) -> Result<Status> {
    // SAFETY: LOOP_GET_STATUS64 fills one `struct loop_info64`, which `LoopInfo64` is (asserted above).
    let get = unsafe { Getter::<LOOP_GET_STATUS64, LoopInfo64>::new() };
    // SAFETY: as above; every bit pattern is a valid `LoopInfo64`, and the call fails rather than fill a part.
    let info = unsafe { ioctl::ioctl(fd, get) }
        .map_err(|errno| Error::kernel(format!("read the state of /dev/loop{number}"), errno))?;
    Ok(Status {
        device: info.device,
        inode: info.inode,
        read_only: info.flags & LO_FLAGS_READ_ONLY != 0,
        autoclear: info.flags & LO_FLAGS_AUTOCLEAR != 0,
        direct_io: info.flags & LO_FLAGS_DIRECT_IO != 0,
        ours: info.file_name.strip_prefix(TAG).is_some_and(|rest| rest.first() == Some(&0)),
    })
}

fn node(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn needs_root() -> bool {
        if rustix::process::geteuid().is_root() {
            return true;
        }
        assert!(std::env::var_os("CI").is_none(), "loop devices need root");
        println!("skipped: loop devices need root");
        false
    }

    /// `LOOP_CTL_GET_FREE` gives all callers the same free number, and one of them gets it.
    #[test]
    fn many_at_once_all_get_a_device() {
        if !needs_root() {
            return;
        }
        let backing = tempfile::tempfile_in("/var/tmp").unwrap();
        backing.set_len(4096).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        attach(backing.as_fd(), 512, Access::ReadOnly).unwrap();
                    }
                });
            }
        });
    }

    /// Every field we set is read back from the kernel through the other ioctl, and the device has the bytes
    /// and the block size asked for: a wrong number or layout fails here.
    #[test]
    fn configured_devices_are_what_was_asked_for_and_vanish() {
        if !needs_root() {
            return;
        }
        let mut backing = tempfile::tempfile_in("/var/tmp").unwrap();
        let content: Vec<u8> = (0..8192u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        backing.write_all(&content).unwrap();
        for block_size in [512, 4096] {
            let device = attach(backing.as_fd(), block_size, Access::ReadOnly).unwrap();
            let status = device.status().unwrap();
            let file = backing.metadata().unwrap();
            assert_eq!((status.device, status.inode), (file.dev(), file.ino()));
            assert!(status.read_only && status.autoclear && status.ours, "{status:?}");
            assert_eq!(rustix::fs::ioctl_blksszget(&device.fd).unwrap(), block_size);
            let mut read = vec![0; 8192];
            File::open(device.path()).unwrap().read_exact_at(&mut read, 0).unwrap();
            assert_eq!(read, content);
            let path = device.path();
            drop(device);
            // Someone else may have the number by now, but not with our file behind it.
            let after = status_of_node(&path);
            assert!(after.is_err() || after.is_ok_and(|now| now.inode != status.inode));
        }
    }

    #[test]
    fn devices_in_use_are_read_from_the_table() {
        let table = "major minor  #blocks  name\n\n 254        0  268435456 vda\n   7        3      16384 loop3\n   \
            7       12          8 loop12\n 259        0          8 loop12p1\n";
        assert_eq!(in_use(table).collect::<Vec<_>>(), [3, 12]);
    }

    #[test]
    fn a_writable_device_writes_to_its_file_and_is_found_by_it() {
        if !needs_root() {
            return;
        }
        let open = || tempfile::tempfile_in("/var/tmp").unwrap();
        let (backing, other) = (open(), open());
        for file in [&backing, &other] {
            file.set_len(8192).unwrap();
        }
        assert!(find(backing.as_fd()).unwrap().is_none());
        let device = attach(backing.as_fd(), 4096, Access::ReadWrite).unwrap();
        assert!(!device.status().unwrap().read_only);
        let node = File::options().write(true).open(device.path()).unwrap();
        node.write_all_at(&[7; 4096], 4096).unwrap();
        node.sync_all().unwrap();
        let mut read = [0; 4096];
        backing.read_exact_at(&mut read, 4096).unwrap();
        assert_eq!(read, [7; 4096]);
        assert_eq!(find(backing.as_fd()).unwrap().unwrap().path(), device.path());
        assert!(find(other.as_fd()).unwrap().is_none());
        drop((node, device));
        // The kernel clears it when the last one has closed it, which may be another program that looks at devices.
        while find(backing.as_fd()).unwrap().is_some() {
            std::thread::yield_now();
        }
    }
}
