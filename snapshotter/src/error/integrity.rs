//! Images that are not what they should be.

use std::io;
use std::path::PathBuf;

use erolith_verity::dmverity;
use erolith_verity::dmverity::sidecar::Sidecar;
use rustix::io::Errno;

use super::status::of_io;
use super::table::error_table;
use super::{Class, Status};
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
            class: Class::Input,
            status: Status::DataLoss,
            text: ("{image}: no EROFS image: {reason}"),
            is_damage: true,
        }
        /// The kernel mounts a truncated image and gives EIO later, so the size is compared before.
        Truncated {
            /// The layer's name, and the device's number when it is not the primary.
            image: String,
            /// Bytes in the file.
            size: u64,
            /// Bytes that the superblock or the device slot promises.
            need: u64,
        } => {
            code: "image-truncated",
            class: Class::Input,
            status: Status::DataLoss,
            text: ("{image}: truncated: the file has {size} bytes, the image needs {need}"),
            advice: "fetch or build the image again; the kernel would mount it and fail later",
            is_damage: true,
        }
        /// The structural check, run on the very descriptor that would have been mounted, said no.
        Check {
            /// The layer's name.
            image: String,
            /// What the checker found.
            source: Box<dyn std::error::Error + Send + Sync>,
        } => {
            code: "image-check",
            class: Class::Input,
            status: Status::DataLoss,
            text: ("{image}: the image is damaged or hostile and was not mounted"),
            cause: source.as_ref(),
            advice: "`erolith fsck` shows every finding; --no-check mounts at your own risk",
            is_damage: true,
        }
        /// Reading the image failed.
        Read {
            /// The layer's name.
            image: String,
            /// What storage said.
            source: io::Error,
        } => {
            code: "image-read",
            class: Class::Io,
            status: of_io(source),
            text: ("{image}"),
            cause: source,
            // What fs-verity says to a page that was changed, and a disk to one that it lost.
            is_damage: source.raw_os_error() == Some(Errno::IO.raw_os_error()),
        }
        /// An image is not what its dm-verity hash tree says, or the tree not what the sidecar says.
        DmVerity {
            /// The layer's name.
            image: String,
            /// What is wrong. It is part of the message, and no cause.
            fault: dmverity::Error,
        } => {
            code: fault.code(),
            class: match fault {
                dmverity::Error::Io { .. } => Class::Io,
                _ => Class::Input,
            },
            status: match fault {
                dmverity::Error::Io { source, .. } => of_io(source),
                _ => Status::DataLoss,
            },
            text: ("{image}: dm-verity: {}; it was not mounted", erolith_mkfs::error_chain(fault)),
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
            class: Class::Input,
            status: Status::DataLoss,
            text: (
                "{image}: not used: its dm-verity sidecar says {}, and said {} when it came in",
                found.as_ref().map_or("nothing".to_owned(), tree_text),
                tree_text(pinned)
            ),
            advice: "remove the image and pull it again",
            is_damage: true,
        }
        /// A layer that shall be mounted with dm-verity cannot be.
        Unprotected {
            /// The layer's name.
            image: String,
            /// Why not.
            why: &'static str,
        } => {
            code: "unprotected",
            class: Class::Environment,
            status: Status::FailedPrecondition,
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
            class: Class::Environment,
            status: Status::FailedPrecondition,
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
            code: match fault {
                FsVerityMismatch::Changed { .. } => "verity-mismatch",
                FsVerityMismatch::Lost { .. } => "verity-lost",
                FsVerityMismatch::Missing => "verity-missing",
            },
            class: if fault.is_damage() { Class::Input } else { Class::Environment },
            status: if fault.is_damage() { Status::DataLoss } else { Status::FailedPrecondition },
            text: ("{image}: not used: {fault}"),
            advice: match fault.is_damage() {
                true => "somebody changed or replaced the file: pull the image again",
                false => "pull the image again, or let `fs_verity` be \"auto\"",
            },
            is_damage: fault.is_damage(),
        }
        /// fs-verity is required where there is none.
        NoFsVerity {
            /// Where it was tried.
            dir: PathBuf,
            /// The result.
            reason: String,
        } => {
            code: "verity-unavailable",
            class: Class::Environment,
            status: Status::FailedPrecondition,
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
            class: Class::Input,
            status: Status::DataLoss,
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
            class: Class::Io,
            status: Status::DataLoss,
            text: ("snapshot {id}: {} is gone", path.display()),
            advice: "remove the image and pull it again",
            is_damage: true,
        }
    }
}

/// What a sidecar says, as messages have it.
fn tree_text(tree: &Sidecar) -> String {
    format!("root hash {} at byte {}", tree.root, tree.hash_offset)
}
