//! Images that are not what they should be.

use std::io;
use std::path::PathBuf;

use erolith_errors::{ErrorClass, ErrorStatus, error_chain, error_table};
use erolith_verity::dmverity;
use erolith_verity::dmverity::sidecar::Sidecar;
use rustix::io::Errno;

use super::status::of_io;
use crate::protect::FsVerityMismatch;

error_table! {
    /// Why the image of a layer is not used.
    pub enum IntegrityError {
        /// No EROFS magic where the superblock should be.
        NotErofs {
            /// The layer's name.
            image: String,
            /// What is there instead.
            reason: String,
        } => {
            code: "not-erofs",
            class: Input,
            status: DataLoss,
            text: ("{image}: no EROFS image: {reason}"),
        }
        /// A file that is shorter than its image. The kernel mounts it and answers EIO later, so sizes are compared before.
        Truncated {
            /// The layer's name, and the device's number when it is not the primary.
            image: String,
            /// Bytes in the file.
            size: u64,
            /// Bytes that the superblock or the device slot promises.
            need: u64,
        } => {
            code: "image-truncated",
            class: Input,
            status: DataLoss,
            text: ("{image}: truncated: the file has {size} bytes, the image needs {need}"),
            advice: "fetch or build the image again; the kernel would mount it and fail later",
        }
        /// The structural check refused the image. It reads the descriptor that would have been mounted.
        Check {
            /// The layer's name.
            image: String,
            /// What the checker found.
            source: Box<dyn std::error::Error + Send + Sync>,
        } => {
            code: "image-check",
            class: Input,
            status: DataLoss,
            text: ("{image}: the image is damaged or hostile and was not mounted"),
            cause: source.as_ref(),
            advice: "`erolith fsck` shows every finding; --no-check mounts at your own risk",
        }
        /// Reading the image failed.
        Read {
            /// The layer's name.
            image: String,
            /// What storage said.
            source: io::Error,
        } => {
            code: "image-read",
            class: Io,
            status: { of_io(source) },
            text: ("{image}"),
            cause: source,
        }
        /// An image is not what its dm-verity hash tree says, or the tree not what the sidecar says.
        DmVerity {
            /// The layer's name.
            image: String,
            /// What is wrong. It is part of the message, and no cause.
            fault: dmverity::Error,
        } => {
            code: { fault.code() },
            class: {
                match fault {
                    dmverity::Error::Io { .. } => ErrorClass::Io,
                    _ => ErrorClass::Input,
                }
            },
            status: {
                match fault {
                    dmverity::Error::Io { source, .. } => of_io(source),
                    _ => ErrorStatus::DataLoss,
                }
            },
            text: ("{image}: dm-verity: {}; it was not mounted", error_chain(fault)),
            advice: "remove the image and pull it again",
        }
        /// The sidecar of a layer is not the one that the layer was committed with.
        Sidecar {
            /// The layer's name.
            image: String,
            /// What it said.
            pinned: Sidecar,
            /// What it says; nothing where there is none, or none that can be read.
            found: Option<Sidecar>,
        } => {
            code: "verity-sidecar",
            class: Input,
            status: DataLoss,
            text: (
                "{image}: not used: its dm-verity sidecar says {}, and said {} when it came in",
                found.as_ref().map_or("nothing".to_owned(), tree_text),
                tree_text(pinned)
            ),
            advice: "remove the image and pull it again",
        }
        /// A layer without dm-verity where it is required.
        Unprotected {
            /// The layer's name.
            image: String,
            /// Why not.
            why: &'static str,
        } => {
            code: "unprotected",
            class: Environment,
            status: FailedPrecondition,
            text: ("{image}: dm-verity is required, but {why}"),
            advice: "load dm_verity and let the differ write hash trees, or set dm_verity to \"auto\"",
        }
        /// The kernel does not accept the signature of a layer's root hash.
        Untrusted {
            /// The layer's name.
            image: String,
            /// The kernel's answer: ENOKEY for a certificate that it does not know, EKEYREJECTED and EBADMSG for a signature
            /// that is wrong, or none.
            errno: Errno,
        } => {
            code: "untrusted",
            class: Environment,
            status: FailedPrecondition,
            text: ("{image}: the kernel does not trust who signed the root hash: {errno}"),
            advice: "let the kernel know the certificate (keyrings .dm-verity, .secondary_trusted_keys, .platform), or set dm_verity to \"required\"",
        }
        /// An image is not the one that was committed, or is not protected by fs-verity as it should be.
        FsVerity {
            /// The image.
            image: String,
            /// What is wrong. It is part of the message, and no cause.
            fault: FsVerityMismatch,
        } => {
            code: { fault.code() },
            class: { if fault.is_damage() { ErrorClass::Input } else { ErrorClass::Environment } },
            status: { if fault.is_damage() { ErrorStatus::DataLoss } else { ErrorStatus::FailedPrecondition } },
            text: ("{image}: not used: {fault}"),
            advice: {
                Some(match fault.is_damage() {
                    true => "the file was changed or replaced: pull the image again",
                    false => "pull the image again, or let `fs_verity` be \"auto\"",
                })
            },
        }
        /// fs-verity is required where there is none.
        NoFsVerity {
            /// Where it was tried.
            dir: PathBuf,
            /// The result.
            reason: String,
        } => {
            code: "verity-unavailable",
            class: Environment,
            status: FailedPrecondition,
            text: ("{}: fs-verity is required, and does not work here: {reason}", dir.display()),
            advice: "`erolith doctor` says what is missing (for ext4: tune2fs -O verity); or let `fs_verity` be \"auto\"",
        }
        /// A layer was found damaged, now or before, and is quarantined.
        Damaged {
            /// Number of the snapshot.
            id: u64,
            /// Its name.
            name: String,
            /// What was found.
            reason: String,
        } => {
            code: "layer-damaged",
            class: Input,
            status: DataLoss,
            text: ("layer {name} (snapshot {id}) is damaged and quarantined: {reason}"),
            advice: "the log of the daemon says why it could not be rebuilt, and which command brings the layer",
        }
        /// A file that a snapshot needs is not there.
        Gone {
            /// Number of the snapshot.
            id: u64,
            /// The file.
            path: PathBuf,
        } => {
            code: "gone",
            class: Io,
            status: DataLoss,
            text: ("snapshot {id}: {} is gone", path.display()),
            advice: "remove the image and pull it again",
        }
    }
}

impl IntegrityError {
    /// Whether it tells that an image is not what it was.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::NotErofs { .. }
            | Self::Truncated { .. }
            | Self::Check { .. }
            | Self::Sidecar { .. }
            | Self::Gone { .. } => true,
            // What fs-verity says to a page that was changed, and a disk to one that it lost.
            Self::Read { source, .. } => source.raw_os_error() == Some(Errno::IO.raw_os_error()),
            Self::FsVerity { fault, .. } => fault.is_damage(),
            Self::DmVerity { .. }
            | Self::Unprotected { .. }
            | Self::Untrusted { .. }
            | Self::NoFsVerity { .. }
            | Self::Damaged { .. } => false,
        }
    }
}

/// What a sidecar says, as messages have it.
fn tree_text(tree: &Sidecar) -> String {
    format!("root hash {} at byte {}", tree.root, tree.hash_offset)
}
