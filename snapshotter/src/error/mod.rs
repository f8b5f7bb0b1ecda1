//! The error of this crate: what failed, on what, what the kernel said, and what to do next.

mod status;

use std::io;
use std::path::{Path, PathBuf};

use erolith_verity::dmverity::sidecar::Sidecar;
use rustix::io::Errno;

use crate::errno::describe;
use crate::protect::FsVerityMismatch;
use crate::store;

pub use status::Status;

/// What this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns what storage says into an error that tells what was tried.
pub(crate) fn failed<E: Into<io::Error>>(action: &str, path: &Path) -> impl FnOnce(E) -> Error {
    move |source| {
        let action = format!("{action} {}", path.display());
        Error::Storage { action, source: source.into() }
    }
}

/// Whose fault an error is; decides the exit code of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The caller asked for something that cannot be.
    Usage,
    /// An image is not what it should be.
    Input,
    /// The kernel, its configuration, or our rights.
    Environment,
    /// Storage failed.
    Io,
}

/// Why an image could not be mounted or unmounted, or a snapshot not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An empty list of layers.
    #[error("there is no layer to mount")]
    NoLayers,
    /// overlayfs has a fixed limit (`OVL_MAX_STACK` in fs/overlayfs/params.h).
    #[error("{count} layers; overlayfs stacks at most {limit}")]
    TooManyLayers {
        /// Layers asked for.
        count: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// mount(2) silently cuts its option string at one page, and the mount then succeeds without the lost layers;
    /// containerd takes less than that.
    #[error(
        "{layers} lower directories need {bytes} bytes of mount options; at most {limit} reach the kernel whole"
    )]
    OptionsTooLong {
        /// Lower directories.
        layers: usize,
        /// Bytes of the whole option string.
        bytes: usize,
        /// Bytes that are never cut.
        limit: usize,
    },
    /// fsconfig(2) takes strings of at most 255 bytes.
    #[error("the mount option `{key}` has {bytes} bytes; the kernel takes {limit}")]
    ValueTooLong {
        /// The option.
        key: String,
        /// Bytes of its value.
        bytes: usize,
        /// Bytes the kernel takes.
        limit: usize,
    },
    /// A mount option we do not pass on.
    #[error("mount option `{option}`: {reason}")]
    Option {
        /// As it was given.
        option: String,
        /// Why not.
        reason: &'static str,
    },
    /// No EROFS magic where the superblock should be.
    #[error("{image}: no EROFS image: {reason}")]
    NotErofs {
        /// The layer's name.
        image: String,
        /// What is there instead.
        reason: String,
    },
    /// The kernel mounts a truncated image and gives EIO later, so the size is compared before.
    #[error("{image}: truncated: the file has {size} bytes, the image needs {need}")]
    Truncated {
        /// The layer's name, and the device's number when it is not the primary.
        image: String,
        /// Bytes in the file.
        size: u64,
        /// Bytes that the superblock or the device slot promises.
        need: u64,
    },
    /// The device table and the devices given disagree.
    #[error("{image}: the image has {slots} extra devices, {given} were given")]
    Devices {
        /// The layer's name.
        image: String,
        /// Slots in the device table.
        slots: usize,
        /// Files given.
        given: usize,
    },
    /// An image is not what its dm-verity hash tree says, or the tree not what the sidecar says.
    #[error("{image}: not mounted: dm-verity")]
    Verity {
        /// The layer's name.
        image: String,
        /// What is wrong.
        source: erolith_verity::dmverity::Error,
    },
    /// The sidecar of a layer is not the one that the layer was committed with.
    #[error(
        "{image}: not used: its dm-verity sidecar says {}, and said {} when it came in",
        .found.as_ref().map_or("nothing".to_owned(), tree_text), tree_text(.pinned)
    )]
    Sidecar {
        /// The layer's name.
        image: String,
        /// What it said.
        pinned: Sidecar,
        /// What it says; nothing where there is none, or none that can be read.
        found: Option<Sidecar>,
    },
    /// A layer that shall be mounted with dm-verity cannot be.
    #[error("{image}: dm-verity is required, but {why}")]
    Unprotected {
        /// The layer's name.
        image: String,
        /// Why not.
        why: &'static str,
    },
    /// The kernel does not accept the signature of a layer's root hash.
    #[error("{image}: the kernel does not trust who signed the root hash: {errno}")]
    Untrusted {
        /// The layer's name.
        image: String,
        /// The kernel's answer: ENOKEY for a certificate that it does not know, EKEYREJECTED and EBADMSG for a signature
        /// that is wrong, or none.
        errno: Errno,
    },
    /// The structural check, run on the very descriptor that would have been mounted, said no.
    #[error("{image}: the image is damaged or hostile and was not mounted")]
    Check {
        /// The layer's name.
        image: String,
        /// What the checker found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Reading the image failed.
    #[error("{image}")]
    Read {
        /// The layer's name.
        image: String,
        /// What storage said.
        source: std::io::Error,
    },
    /// A system call failed.
    #[error("{action}: {}{}", describe(*.errno), log_text(.log))]
    Kernel {
        /// What was tried, and on what.
        action: String,
        /// What the kernel answered.
        errno: Errno,
        /// What the filesystem wrote into its context's log.
        log: Vec<String>,
    },
    /// Every device that LOOP_CTL_GET_FREE named was taken by someone else first.
    #[error("no free loop device: {tries} were taken by others before we could")]
    LoopRace {
        /// Devices tried.
        tries: u32,
    },
    /// There is a free loop device, but no node to open it by.
    #[error("/dev/loop{number}: {}", describe(*.errno))]
    LoopNode {
        /// The device's number.
        number: u32,
        /// What open(2) said.
        errno: Errno,
    },
    /// Nothing is mounted exactly there.
    #[error("{}: not a mount point", .dir.display())]
    NotMounted {
        /// What was given.
        dir: PathBuf,
    },
    /// Something is mounted there, but not by us.
    #[error("{}: {fs_type} from `{from}` was not mounted by erolith", .dir.display())]
    NotOurs {
        /// The mount point.
        dir: PathBuf,
        /// Its filesystem.
        fs_type: String,
        /// Its source, as the mount table has it.
        from: String,
    },
    /// The database of snapshots.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A label of containerd that maps owners has another form than `container:host:length[,...]`.
    #[error("label {label}={value}: {reason}")]
    IdMap {
        /// The label.
        label: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting that cannot be.
    #[error("{setting} {value}: {reason}")]
    Config {
        /// Which one.
        setting: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// Committed snapshots have no mounts of their own.
    #[error("snapshot {key} is committed: only active snapshots and views have mounts")]
    Committed {
        /// Its name.
        key: String,
    },
    /// A layer cannot be written where one is in use.
    #[error("{}: the snapshot is not active, its layer is not written again", .dir.display())]
    Finished {
        /// The directory of the layer.
        dir: PathBuf,
    },
    /// Another daemon works on the same directory.
    #[error("{}: in use by {}", .dir.display(), .pid.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process, as it wrote itself down.
        pid: Option<u32>,
    },
    /// Snapshots lie there, but the database that knows them does not.
    #[error("{}: there are snapshots but no database", .root.display())]
    DatabaseMissing {
        /// The root of the service.
        root: PathBuf,
    },
    /// There is a database that needs no repair.
    #[error("{}: {state}", .path.display())]
    DatabaseSound {
        /// The database.
        path: PathBuf,
        /// What it is.
        state: &'static str,
    },
    /// A file that a snapshot needs is not there.
    #[error("snapshot {id}: {} is gone", .path.display())]
    Gone {
        /// Number of the snapshot.
        id: u64,
        /// The file.
        path: PathBuf,
    },
    /// Another request changed the snapshot in the middle of this one.
    #[error("snapshot {key} was changed by another request meanwhile")]
    Raced {
        /// Its name.
        key: String,
    },
    /// A file or directory of ours could not be made, read, synced or removed.
    #[error("{action}")]
    Storage {
        /// What was tried, and on what.
        action: String,
        /// What storage said.
        source: std::io::Error,
    },
    /// fs-verity is required where there is none.
    #[error("{}: fs-verity is required, and does not work here: {reason}", .dir.display())]
    NoVerity {
        /// Where it was tried.
        dir: PathBuf,
        /// The result.
        reason: String,
    },
    /// An image is not the one that was committed, or is not protected as it should be.
    #[error("{image}: not used: {fault}")]
    Unsealed {
        /// The image.
        image: String,
        /// What is wrong.
        fault: FsVerityMismatch,
    },
    /// A layer was found damaged, now or before, and is quarantined.
    #[error("layer {name} (snapshot {id}) is damaged and quarantined: {reason}")]
    Damaged {
        /// Number of the snapshot.
        id: u64,
        /// Its name.
        name: String,
        /// What was found.
        reason: String,
    },
    /// The content of a snapshot could not be made an image.
    #[error("snapshot {id}: making its image")]
    Convert {
        /// Number of the snapshot.
        id: u64,
        /// Why.
        source: erolith_overlay::Error,
    },
    /// A label or a setting that gives the size of writable layers is not one.
    #[error("{what} {value}: {reason}")]
    Limit {
        /// The label or the setting.
        what: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A snapshot was made with a limit that would not be enforced.
    #[error("{}: the limit of the writable layer would not be kept: {reason}", .dir.display())]
    Unlimited {
        /// Its directory.
        dir: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A program of the system could not be started.
    #[error("starting {program}, of the package {package}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The program that makes filesystems did not.
    #[error("{image}: mkfs.ext4 ended with {status}: {said}")]
    Mkfs {
        /// Where the filesystem should be.
        image: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        said: String,
    },
    /// The mount table has a line we cannot read.
    #[error("/proc/thread-self/mountinfo line {line}: not in the form that proc(5) gives")]
    MountTable {
        /// Counted from 1.
        line: usize,
    },
}

impl Error {
    /// A stable name for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoLayers => "no-layers",
            Self::TooManyLayers { .. } => "too-many-layers",
            Self::OptionsTooLong { .. } => "mount-options-too-long",
            Self::ValueTooLong { .. } => "mount-value-too-long",
            Self::Option { .. } => "mount-option",
            Self::NotErofs { .. } => "not-erofs",
            Self::Truncated { .. } => "image-truncated",
            Self::Devices { .. } => "image-devices",
            Self::Verity { source, .. } => source.code(),
            Self::Sidecar { .. } => "verity-sidecar",
            Self::Unprotected { .. } => "unprotected",
            Self::Untrusted { .. } => "untrusted",
            Self::DatabaseSound { .. } => "database-sound",
            Self::Check { .. } => "image-check",
            Self::Read { .. } => "image-read",
            Self::Kernel { .. } => "kernel",
            Self::LoopRace { .. } => "loop-race",
            Self::LoopNode { .. } => "loop-node",
            Self::NotMounted { .. } => "not-mounted",
            Self::NotOurs { .. } => "not-ours",
            Self::MountTable { .. } => "mount-table",
            Self::Store(error) => error.code(),
            Self::IdMap { .. } => "id-map",
            Self::Config { .. } => "config",
            Self::Committed { .. } => "committed",
            Self::Finished { .. } => "finished",
            Self::InUse { .. } => "in-use",
            Self::DatabaseMissing { .. } => "database-missing",
            Self::Gone { .. } => "gone",
            Self::Raced { .. } => "raced",
            Self::Storage { .. } => "storage",
            Self::Convert { source, .. } => source.code(),
            Self::Unsealed { fault: FsVerityMismatch::Changed { .. }, .. } => "verity-mismatch",
            Self::Unsealed { fault: FsVerityMismatch::Lost { .. }, .. } => "verity-lost",
            Self::Unsealed { fault: FsVerityMismatch::Missing, .. } => "verity-missing",
            Self::Damaged { .. } => "layer-damaged",
            Self::NoVerity { .. } => "verity-unavailable",
            Self::Limit { .. } => "limit",
            Self::Unlimited { .. } => "unlimited",
            Self::Program { .. } => "program",
            Self::Mkfs { .. } => "mkfs",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::NoLayers
            | Self::TooManyLayers { .. }
            | Self::OptionsTooLong { .. }
            | Self::ValueTooLong { .. }
            | Self::Option { .. }
            | Self::Devices { .. }
            | Self::NotMounted { .. }
            | Self::NotOurs { .. }
            | Self::IdMap { .. }
            | Self::Config { .. }
            | Self::Committed { .. }
            | Self::Finished { .. }
            | Self::Limit { .. }
            | Self::DatabaseSound { .. }
            | Self::Raced { .. } => Class::Usage,
            Self::Unsealed { fault: FsVerityMismatch::Missing, .. } => Class::Environment,
            Self::Verity { source: erolith_verity::dmverity::Error::Io { .. }, .. } => Class::Io,
            Self::NotErofs { .. }
            | Self::Truncated { .. }
            | Self::Check { .. }
            | Self::Verity { .. }
            | Self::Sidecar { .. }
            | Self::Unsealed { .. }
            | Self::Damaged { .. } => Class::Input,
            Self::Store(error) => error.class(),
            Self::Gone { .. } | Self::DatabaseMissing { .. } | Self::Storage { .. } => Class::Io,
            Self::Convert { .. } => Class::Input,
            // The caller named a directory that is not there.
            Self::Kernel { errno: Errno::NOENT | Errno::NOTDIR, .. } => Class::Usage,
            Self::Kernel { errno: Errno::IO, .. } | Self::Read { .. } => Class::Io,
            Self::Kernel { errno: Errno::BADMSG | Errno::UCLEAN, .. } => Class::Input,
            Self::Kernel { .. }
            | Self::LoopRace { .. }
            | Self::LoopNode { .. }
            | Self::InUse { .. }
            | Self::Unlimited { .. }
            | Self::NoVerity { .. }
            | Self::Unprotected { .. }
            | Self::Untrusted { .. }
            | Self::Program { .. }
            | Self::Mkfs { .. }
            | Self::MountTable { .. } => Class::Environment,
        }
    }

    /// The error and what caused it on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        erolith_mkfs::error_chain(self)
    }

    /// A system call failed: what was tried, on what, and what the kernel answered.
    pub(crate) fn kernel(action: impl Into<String>, errno: Errno) -> Self {
        Self::Kernel { action: action.into(), errno, log: Vec::new() }
    }

    /// As [`Error::kernel`] for what was tried on `path`.
    pub(crate) fn kernel_on(action: &str, path: &Path) -> impl Fn(Errno) -> Self {
        move |errno| Self::kernel(format!("{action} {}", path.display()), errno)
    }

    /// Whether it tells that the image of a layer is not what it was: gone, cut off, written over or replaced. Then only
    /// another image helps.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::NotErofs { .. }
            | Self::Truncated { .. }
            | Self::Check { .. }
            | Self::Gone { .. }
            | Self::Sidecar { .. }
            | Self::Kernel { errno: Errno::BADMSG | Errno::UCLEAN, .. } => true,
            Self::Unsealed { fault, .. } => fault.is_damage(),
            // What fs-verity says to a page that was changed, and a disk to one that it lost.
            Self::Read { source, .. } => source.raw_os_error() == Some(Errno::IO.raw_os_error()),
            _ => false,
        }
    }

    /// The kernel's answer, when there is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } | Self::LoopNode { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// What to do about it, when something can be done.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::TooManyLayers { .. } => {
                "merge layers, for example by converting the image into fewer"
            }
            Self::Truncated { .. } => {
                "fetch or build the image again; the kernel would mount it and fail later"
            }
            Self::Devices { .. } => {
                "give the device files with --device, in the order of the device table"
            }
            Self::Check { .. } => {
                "`erolith fsck` shows every finding; --no-check mounts at your own risk"
            }
            Self::LoopRace { .. } => "try again, or mount file-backed (kernel 6.12)",
            Self::LoopNode { .. } => {
                "mount devtmpfs on /dev, or make the node: mknod /dev/loopN b 7 N"
            }
            Self::NotOurs { .. } => "use umount(8), or --force",
            Self::InUse { .. } => "stop the other daemon, or give this one directories of its own",
            Self::DatabaseMissing { .. } => {
                "run `erolith repair`, which makes it anew; or put metadata.db back, with metadata.db-wal if there is one"
            }
            Self::DatabaseSound { .. } => {
                "start the daemon; --force makes the database from the records all the same"
            }
            Self::Gone { .. } | Self::Verity { .. } | Self::Sidecar { .. } => {
                "remove the image and pull it again"
            }
            Self::NoVerity { .. } => {
                "`erolith doctor` says what is missing (for ext4: tune2fs -O verity); or let `fs_verity` be \"auto\""
            }
            Self::Unsealed { fault: FsVerityMismatch::Missing, .. } => {
                "pull the image again, or let `fs_verity` be \"auto\""
            }
            Self::Unsealed { .. } => "somebody changed or replaced the file: pull the image again",
            Self::Damaged { .. } => {
                "the log of the daemon says why it could not be rebuilt, and which command brings the layer"
            }
            Self::Unprotected { .. } => {
                "load dm_verity and let the differ write hash trees, or set dm_verity to \"auto\""
            }
            Self::Untrusted { .. } => {
                "let the kernel know the certificate (keyrings .dm-verity, .secondary_trusted_keys, .platform), or set dm_verity to \"required\""
            }
            Self::Unlimited { .. } => {
                "mount the filesystem with project quota (prjquota or pquota), or let limits be kept by images"
            }
            Self::Program { .. } => "install the package, or use a filesystem with project quota",
            Self::Store(error) => return error.advice(),
            Self::Kernel { errno, .. } => return kernel_advice(*errno),
            _ => return None,
        })
    }
}

/// What a sidecar says, as messages have it.
fn tree_text(tree: &Sidecar) -> String {
    format!("root hash {} at byte {}", tree.root, tree.hash_offset)
}

/// What usually helps when a mount call fails like this.
fn kernel_advice(errno: Errno) -> Option<&'static str> {
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

#[cfg(test)]
mod tests;
