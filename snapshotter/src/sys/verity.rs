//! fs-verity: sealing a file against change, with a Merkle tree that the filesystem checks on every read.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Setter, opcode};

/// `struct fsverity_enable_arg` of `include/uapi/linux/fsverity.h`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

const _: () = assert!(size_of::<EnableArg>() == 128);

const FS_IOC_ENABLE_VERITY: Opcode = opcode::write::<EnableArg>(b'f', 133);
const _: () = assert!(FS_IOC_ENABLE_VERITY == 0x4080_6685);

const FS_VERITY_HASH_ALG_SHA256: u32 = 1;

/// Enables fs-verity with SHA-256 over 4 KiB blocks. `file` is open for reading, and nobody has it open for
/// writing.
///
/// # Errors
/// What the kernel answers: EOPNOTSUPP or ENOTTY when the kernel or the filesystem has no fs-verity, ETXTBSY when
/// someone has the file open for writing.
pub(crate) fn enable(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let arg = EnableArg {
        version: 1,
        hash_algorithm: FS_VERITY_HASH_ALG_SHA256,
        block_size: 4096,
        salt_size: 0,
        salt_ptr: 0,
        sig_size: 0,
        reserved1: 0,
        sig_ptr: 0,
        reserved2: [0; 11],
    };
    // SAFETY: FS_IOC_ENABLE_VERITY reads one `struct fsverity_enable_arg`, which `EnableArg` is (asserted above);
    // it holds no pointers, as both sizes are 0.
    let set = unsafe { Setter::<FS_IOC_ENABLE_VERITY, EnableArg>::new(arg) };
    // SAFETY: as above; the kernel writes nothing back.
    unsafe { ioctl::ioctl(file, set) }
}
