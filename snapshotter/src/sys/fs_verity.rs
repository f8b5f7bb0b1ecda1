//! fs-verity: sealing a file against change, with a Merkle tree that the filesystem checks on every read.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Setter, Updater, opcode};

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

/// `struct fsverity_digest`, with room behind it for the longest digest there is.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Digest {
    algorithm: u16,
    size: u16,
    bytes: [u8; MAX_DIGEST],
}

/// `FS_VERITY_MAX_DIGEST_SIZE`.
const MAX_DIGEST: usize = 64;
const _: () = assert!(size_of::<Digest>() == 4 + MAX_DIGEST);

/// The number counts the fixed part of the struct only.
const FS_IOC_MEASURE_VERITY: Opcode = opcode::read_write::<[u16; 2]>(b'f', 134);
const _: () = assert!(FS_IOC_MEASURE_VERITY == 0xC004_6686);

/// What the kernel says of a file that has fs-verity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measured {
    /// The digest of a tree of SHA-256.
    Sha256([u8; 32]),
    /// Some other algorithm.
    Other,
}

/// Enables fs-verity with SHA-256 over 4 KiB blocks. `file` is open for reading, and open for writing
/// in no process.
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

/// The digest that the kernel holds every read of `file` against; nothing for a file without fs-verity, and where there
/// is no such thing.
///
/// # Errors
/// What the kernel answers otherwise.
pub(crate) fn measure(file: BorrowedFd<'_>) -> Result<Option<Measured>, Errno> {
    let room = u16::try_from(MAX_DIGEST).unwrap_or(0);
    let mut digest = Digest { algorithm: 0, size: room, bytes: [0; MAX_DIGEST] };
    // SAFETY: FS_IOC_MEASURE_VERITY reads and fills a `struct fsverity_digest`, which `Digest` is (asserted above), with
    // at most as many bytes behind it as `size` says are there.
    let update = unsafe { Updater::<FS_IOC_MEASURE_VERITY, Digest>::new(&mut digest) };
    // SAFETY: as above; every bit pattern is a valid `Digest`.
    match unsafe { ioctl::ioctl(file, update) } {
        Ok(()) => Ok(Some(read(&digest))),
        Err(Errno::NODATA | Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether kernel and filesystem may have fs-verity for `file`. Asked of the kernel by a measurement, which fails in another
/// way where there is none.
pub(crate) fn is_known(file: BorrowedFd<'_>) -> bool {
    let mut digest = Digest { algorithm: 0, size: 0, bytes: [0; MAX_DIGEST] };
    // SAFETY: as in `measure`; no byte behind the header is said to be there.
    let update = unsafe { Updater::<FS_IOC_MEASURE_VERITY, Digest>::new(&mut digest) };
    // SAFETY: as in `measure`.
    let outcome = unsafe { ioctl::ioctl(file, update) };
    !matches!(outcome, Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS))
}

fn read(digest: &Digest) -> Measured {
    let bytes = digest.bytes.first_chunk::<32>();
    match (u32::from(digest.algorithm), digest.size, bytes) {
        (FS_VERITY_HASH_ALG_SHA256, 32, Some(bytes)) => Measured::Sha256(*bytes),
        _ => Measured::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_digest_is_told_by_its_algorithm_and_size() {
        let digest = |algorithm, size| read(&Digest { algorithm, size, bytes: [7; MAX_DIGEST] });
        assert_eq!(digest(1, 32), Measured::Sha256([7; 32]));
        assert_eq!(digest(2, 64), Measured::Other);
        assert_eq!(digest(1, 64), Measured::Other);
    }

    #[test]
    fn a_file_without_verity_has_no_measurement() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        assert_eq!(measure(file.as_fd()), Ok(None));
    }
}
