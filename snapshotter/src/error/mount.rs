//! What cannot be mounted as it was asked for.

use std::path::PathBuf;

use erolith_errors::error_table;

error_table! {
    /// Why something is not mounted or unmounted as it was asked for.
    pub enum MountError {
        /// An empty list of layers.
        NoLayers => {
            code: "no-layers",
            class: Usage,
            status: InvalidArgument,
            text: ("there is no layer to mount"),
        }
        /// More layers than overlayfs stacks. Its limit is fixed (`OVL_MAX_STACK` in fs/overlayfs/params.h).
        TooManyLayers {
            /// Layers asked for.
            count: usize,
            /// The kernel's limit.
            limit: usize,
        } => {
            code: "too-many-layers",
            class: Usage,
            status: FailedPrecondition,
            text: ("{count} layers; overlayfs stacks at most {limit}"),
            advice: "merge layers, for example by converting the image into fewer",
        }
        /// Lower directories that need more option bytes than the kernel reads. mount(2) silently cuts its option string at
        /// one page, and the mount then succeeds without the lost layers; containerd takes less than that.
        OptionsTooLong {
            /// Lower directories.
            layers: usize,
            /// Bytes of the whole option string.
            bytes: usize,
            /// Bytes that are never cut.
            limit: usize,
        } => {
            code: "mount-options-too-long",
            class: Usage,
            status: FailedPrecondition,
            text: (
                "{layers} lower directories need {bytes} bytes of mount options; at most {limit} reach the kernel whole"
            ),
        }
        /// A mount option of more than 255 bytes, the limit of fsconfig(2).
        ValueTooLong {
            /// The option.
            key: String,
            /// Bytes of its value.
            bytes: usize,
            /// Bytes the kernel takes.
            limit: usize,
        } => {
            code: "mount-value-too-long",
            class: Usage,
            status: InvalidArgument,
            text: ("the mount option `{key}` has {bytes} bytes; the kernel takes {limit}"),
        }
        /// A mount option that is not passed on.
        BadOption {
            /// As it was given.
            option: String,
            /// Why not.
            reason: &'static str,
        } => {
            code: "mount-option",
            class: Usage,
            status: InvalidArgument,
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
            class: Usage,
            status: DataLoss,
            text: ("{image}: the image has {slots} extra devices, {given} were given"),
            advice: "give the device files with --device, in the order of the device table",
        }
        /// Nothing is mounted exactly there.
        NotMounted {
            /// What was given.
            dir: PathBuf,
        } => {
            code: "not-mounted",
            class: Usage,
            status: FailedPrecondition,
            text: ("{}: not a mount point", dir.display()),
        }
        /// A mount that erolith did not make.
        NotOurs {
            /// The mount point.
            dir: PathBuf,
            /// Its filesystem.
            fs_type: String,
            /// Its source, as the mount table has it.
            from: String,
        } => {
            code: "not-ours",
            class: Usage,
            status: FailedPrecondition,
            text: ("{}: {fs_type} from `{from}` was not mounted by erolith", dir.display()),
            advice: "use umount(8), or --force",
        }
    }
}
