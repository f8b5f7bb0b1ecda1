//! What cannot be mounted as it was asked for.

use std::path::PathBuf;

use super::table::error_table;
use super::{Class, Status};

error_table! {
    /// Why something is not mounted or unmounted as it was asked for.
    pub enum MountError {
        /// An empty list of layers.
        NoLayers => {
            code: "no-layers",
            class: Class::Usage,
            status: Status::InvalidArgument,
            text: ("there is no layer to mount"),
        }
        /// overlayfs has a fixed limit (`OVL_MAX_STACK` in fs/overlayfs/params.h).
        TooManyLayers {
            /// Layers asked for.
            count: usize,
            /// The kernel's limit.
            limit: usize,
        } => {
            code: "too-many-layers",
            class: Class::Usage,
            status: Status::FailedPrecondition,
            text: ("{count} layers; overlayfs stacks at most {limit}"),
            advice: "merge layers, for example by converting the image into fewer",
        }
        /// mount(2) silently cuts its option string at one page, and the mount then succeeds without the lost layers;
        /// containerd takes less than that.
        OptionsTooLong {
            /// Lower directories.
            layers: usize,
            /// Bytes of the whole option string.
            bytes: usize,
            /// Bytes that are never cut.
            limit: usize,
        } => {
            code: "mount-options-too-long",
            class: Class::Usage,
            status: Status::FailedPrecondition,
            text: (
                "{layers} lower directories need {bytes} bytes of mount options; at most {limit} reach the kernel whole"
            ),
        }
        /// fsconfig(2) takes strings of at most 255 bytes.
        ValueTooLong {
            /// The option.
            key: String,
            /// Bytes of its value.
            bytes: usize,
            /// Bytes the kernel takes.
            limit: usize,
        } => {
            code: "mount-value-too-long",
            class: Class::Usage,
            status: Status::InvalidArgument,
            text: ("the mount option `{key}` has {bytes} bytes; the kernel takes {limit}"),
        }
        /// A mount option we do not pass on.
        BadOption {
            /// As it was given.
            option: String,
            /// Why not.
            reason: &'static str,
        } => {
            code: "mount-option",
            class: Class::Usage,
            status: Status::InvalidArgument,
            text: ("mount option `{option}`: {reason}"),
        }
        /// The device table and the devices given disagree.
        Devices {
            /// The layer's name.
            image: String,
            /// Slots in the device table.
            slots: usize,
            /// Files given.
            given: usize,
        } => {
            code: "image-devices",
            class: Class::Usage,
            status: Status::DataLoss,
            text: ("{image}: the image has {slots} extra devices, {given} were given"),
            advice: "give the device files with --device, in the order of the device table",
        }
        /// Nothing is mounted exactly there.
        NotMounted {
            /// What was given.
            dir: PathBuf,
        } => {
            code: "not-mounted",
            class: Class::Usage,
            status: Status::FailedPrecondition,
            text: ("{}: not a mount point", dir.display()),
        }
        /// Something is mounted there, but not by us.
        NotOurs {
            /// The mount point.
            dir: PathBuf,
            /// Its filesystem.
            fs_type: String,
            /// Its source, as the mount table has it.
            from: String,
        } => {
            code: "not-ours",
            class: Class::Usage,
            status: Status::FailedPrecondition,
            text: ("{}: {fs_type} from `{from}` was not mounted by erolith", dir.display()),
            advice: "use umount(8), or --force",
        }
    }
}
