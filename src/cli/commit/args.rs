//! The arguments of `erolith commit`.

use std::path::PathBuf;

use clap::ValueEnum;
use erolith_differ::commit::Change;
use erolith_differ::oci::Location;
use erolith_overlay::Range;

use crate::term::parse_image_time;

/// What a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A tar archive, as every runtime knows it
    Oci,
    /// An EROFS image, which is mounted as it is
    Erofs,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    /// Every reader knows it
    Gzip,
    /// Faster, and smaller
    Zstd,
    /// Not at all
    None,
}

/// Make an image of what a container changed.
///
/// CONTAINER is the ID of a container in containerd, the start of one, its name in nerdctl, or the key of a snapshot. IMAGE
/// is the name in containerd of the new image, taken as it is: what nerdctl calls NAME is docker.io/library/NAME:latest
/// there. An image that has the name loses it.
///
/// The new image has the layers of the container's image, and one more. Only that one is made; the container's processes
/// are paused until it is.
///
/// With --upper, no containerd is asked: what changed is in the upper directory of an overlay that is not written to. With
/// --output, the layer is written to a file; with --base, which is a location as `erolith convert` has them, to the image
/// DESTINATION. Layers that are archives are read once more for that, to look up what was there before.
#[derive(Debug, clap::Args)]
#[command(override_usage = "erolith commit [OPTIONS] CONTAINER IMAGE\n       \
    erolith commit [OPTIONS] --upper DIR [--lower IMAGE]... --output LAYER\n       \
    erolith commit [OPTIONS] --upper DIR --base LOCATION DESTINATION")]
pub(crate) struct Args {
    /// Container, or the key of a snapshot; with --base where the image goes.
    #[arg(required_unless_present = "output")]
    pub(super) container: Option<String>,
    /// Name of the new image.
    #[arg(required_unless_present = "upper")]
    #[arg(conflicts_with_all = ["upper", "lower", "output", "base", "work", "userxattr", "uid_map", "gid_map"])]
    pub(super) image: Option<String>,
    /// Upper directory of an overlay.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["address", "namespace", "snapshotter"])]
    pub(super) upper: Option<PathBuf>,
    /// EROFS image, archive or directory below it, once for each, the topmost first, as in the option lowerdir of overlayfs.
    #[arg(long, value_name = "IMAGE", requires = "output", conflicts_with = "container")]
    pub(super) lower: Vec<PathBuf>,
    /// File to write the layer to.
    #[arg(short, long, value_name = "LAYER", requires = "upper")]
    #[arg(conflicts_with_all = ["container", "author", "message", "change"])]
    pub(super) output: Option<PathBuf>,
    /// Image below the upper directory.
    #[arg(long, value_name = "LOCATION", requires = "upper", conflicts_with = "output")]
    pub(super) base: Option<Location>,
    /// Work directory of the overlay, where it was mounted with index=on [default: found beside the upper directory].
    #[arg(long, value_name = "DIR", requires = "upper")]
    pub(super) work: Option<PathBuf>,
    /// The overlay was mounted with the option userxattr, or is one of fuse-overlayfs. Without this, an upper directory
    /// with such marks is refused; =false takes them for attributes of the files.
    #[arg(long, value_name = "BOOL", requires = "upper")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) userxattr: Option<bool>,
    /// Users of the user namespace that the upper directory was written in, once for each range, as in `ctr run --uidmap`
    /// and /proc/PID/uid_map: the first inside, the first outside, and how many. The layer has those inside.
    #[arg(long, value_name = "CONTAINER:HOST:SIZE", requires_all = ["upper", "gid_map"])]
    pub(super) uid_map: Vec<Range>,
    /// The same for its groups.
    #[arg(long, value_name = "CONTAINER:HOST:SIZE", requires_all = ["upper", "uid_map"])]
    pub(super) gid_map: Vec<Range>,
    /// Socket of containerd [default: $CONTAINERD_ADDRESS or /run/containerd/containerd.sock].
    #[arg(long, value_name = "SOCKET")]
    pub(super) address: Option<PathBuf>,
    /// Namespace of containerd [default: $CONTAINERD_NAMESPACE or default].
    #[arg(long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// Snapshotter of the snapshot [default: the container's; erolith for a snapshot].
    #[arg(long, value_name = "NAME")]
    pub(super) snapshotter: Option<String>,
    /// What the layer is.
    #[arg(long, value_name = "FORMAT", default_value = "oci")]
    pub(super) format: Format,
    /// How the layer is compressed [default: gzip; none for erofs].
    #[arg(long, value_name = "METHOD")]
    pub(super) compression: Option<Compression>,
    /// Who made the image.
    #[arg(short, long, value_name = "WHO")]
    pub(super) author: Option<String>,
    /// What is to be said of it.
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    pub(super) message: String,
    /// Instruction of a Dockerfile for the new image, may be repeated: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER,
    /// VOLUME or WORKDIR.
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(super) change: Vec<Change>,
    /// Stop the container's processes while the layer is made.
    #[arg(
        short,
        long,
        value_name = "BOOL",
        default_value_t = true,
        default_missing_value = "true"
    )]
    #[arg(num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub(super) pause: bool,
    /// Time of the image, in seconds since 1970, and of files that are younger [default: $SOURCE_DATE_EPOCH, or now].
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_image_time)]
    pub(super) source_date_epoch: Option<i64>,
    /// Print nothing.
    #[arg(long)]
    pub(super) quiet: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}
