//! What the kernel answered.

use erolith_errors::{ErrorClass, ErrorStatus, error_table};
use rustix::io::Errno;

use super::status::of_errno;
use crate::errno::describe;

error_table! {
    /// Why the kernel did not do what it was asked for.
    pub enum KernelError {
        /// A system call failed.
        Call {
            /// What was tried, and on what.
            action: String,
            /// What the kernel answered.
            errno: Errno,
            /// What the filesystem wrote into its context's log.
            log: Vec<String>,
        } => {
            code: "kernel",
            class: { class_of(*errno) },
            status: { if is_damage(*errno) { ErrorStatus::DataLoss } else { of_errno(*errno) } },
            text: ("{action}: {}{}", describe(*errno), log_text(log)),
            advice: { advice_for(*errno) },
        }
        /// Every free loop device was taken by another process first.
        LoopRace {
            /// Devices tried.
            tries: u32,
        } => {
            code: "loop-race",
            class: Environment,
            status: Unavailable,
            text: ("no free loop device: {tries} were taken by others before we could"),
            advice: "try again, or mount file-backed (kernel 6.12)",
        }
        /// A free loop device without a node in /dev.
        LoopNode {
            /// The device's number.
            number: u32,
            /// What open(2) said.
            errno: Errno,
        } => {
            code: "loop-node",
            class: Environment,
            status: { of_errno(*errno) },
            text: ("/dev/loop{number}: {}", describe(*errno)),
            advice: "mount devtmpfs on /dev, or make the node: mknod /dev/loopN b 7 N",
        }
        /// A line of the mount table that cannot be read.
        MountTable {
            /// Counted from 1.
            line: usize,
        } => {
            code: "mount-table",
            class: Environment,
            status: Internal,
            text: ("/proc/thread-self/mountinfo line {line}: not in the form that proc(5) gives"),
        }
    }
}

impl KernelError {
    /// Whether it tells that an image is not what it was.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Call { errno, .. } if is_damage(*errno))
    }

    /// The kernel's answer, when there is one.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Call { errno, .. } | Self::LoopNode { errno, .. } => Some(*errno),
            Self::LoopRace { .. } | Self::MountTable { .. } => None,
        }
    }
}

/// Whether a filesystem answers this to an image that is not what it was.
fn is_damage(errno: Errno) -> bool {
    matches!(errno, Errno::BADMSG | Errno::UCLEAN)
}

fn class_of(errno: Errno) -> ErrorClass {
    match errno {
        // The caller named a directory that is not there.
        Errno::NOENT | Errno::NOTDIR => ErrorClass::Usage,
        Errno::IO => ErrorClass::Io,
        errno if is_damage(errno) => ErrorClass::Input,
        _ => ErrorClass::Environment,
    }
}

/// What usually helps when a mount call fails like this.
fn advice_for(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::PERM | Errno::ACCESS => "mounting needs CAP_SYS_ADMIN: run as root",
        Errno::NODEV => {
            "the filesystem is not in this kernel: try `modprobe erofs` or `modprobe overlay`"
        }
        Errno::NOTBLK => {
            "this filesystem cannot back an EROFS mount directly: use --loop, or put the image elsewhere"
        }
        Errno::BADMSG => "the superblock checksum is wrong: fetch or build the image again",
        Errno::UCLEAN => "the image is damaged: `erolith fsck` says where",
        Errno::OPNOTSUPP => {
            "the image uses a feature this kernel lacks: `erolith doctor` lists what it has"
        }
        Errno::INVAL => {
            "the image may use a block size or feature this kernel lacks: see `erolith doctor` and dmesg"
        }
        Errno::BUSY => "something still uses the mount: `fuser -vm DIR` shows what",
        Errno::NOSPC => "a limit is reached: fs.mount-max, or the number of loop devices",
        Errno::MFILE | Errno::NFILE => "too many open files: raise the limit with `ulimit -n`",
        _ => return None,
    })
}

/// The log of a filesystem context, as it is appended to a message.
fn log_text(log: &[String]) -> String {
    if log.is_empty() { String::new() } else { format!(" ({})", log.join("; ")) }
}
