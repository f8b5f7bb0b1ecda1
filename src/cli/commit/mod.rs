//! `erolith commit`: what a container changed becomes a layer, and an image of that layer and those below.

mod local;
mod node;
mod options;
mod show;
mod subject;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_differ::commit::Change;
use erolith_differ::decode::Cancel;
use erolith_differ::oci::Location;
use erolith_overlay::Range;

use self::options::{Compression, Format};
use self::show::Made;
use crate::containerd::version::RUNS_EROFS_NOTE;
use crate::exit::{Usage, complain};
use crate::progress::Line;
use crate::text::parse_image_time;

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
    container: Option<String>,
    /// Name of the new image.
    #[arg(required_unless_present = "upper")]
    #[arg(conflicts_with_all = ["upper", "lower", "output", "base", "work", "userxattr", "uid_map", "gid_map"])]
    image: Option<String>,
    /// Upper directory of an overlay.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["address", "namespace", "snapshotter"])]
    upper: Option<PathBuf>,
    /// EROFS image, archive or directory below it, once for each, the topmost first, as in the option lowerdir of overlayfs.
    #[arg(long, value_name = "IMAGE", requires = "output", conflicts_with = "container")]
    lower: Vec<PathBuf>,
    /// File to write the layer to.
    #[arg(short, long, value_name = "LAYER", requires = "upper")]
    #[arg(conflicts_with_all = ["container", "author", "message", "change"])]
    output: Option<PathBuf>,
    /// Image below the upper directory.
    #[arg(long, value_name = "LOCATION", requires = "upper", conflicts_with = "output")]
    base: Option<Location>,
    /// Work directory of the overlay, where it was mounted with index=on [default: found beside the upper directory].
    #[arg(long, value_name = "DIR", requires = "upper")]
    work: Option<PathBuf>,
    /// The overlay was mounted with the option userxattr, or is one of fuse-overlayfs. Without this, an upper directory
    /// with such marks is refused; =false takes them for attributes of the files.
    #[arg(long, value_name = "BOOL", requires = "upper")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    userxattr: Option<bool>,
    /// Users of the user namespace that the upper directory was written in, once for each range, as in `ctr run --uidmap`
    /// and /proc/PID/uid_map: the first inside, the first outside, and how many. The layer has those inside.
    #[arg(long, value_name = "CONTAINER:HOST:SIZE", requires_all = ["upper", "gid_map"])]
    uid_map: Vec<Range>,
    /// The same for its groups.
    #[arg(long, value_name = "CONTAINER:HOST:SIZE", requires_all = ["upper", "uid_map"])]
    gid_map: Vec<Range>,
    /// Socket of containerd [default: $CONTAINERD_ADDRESS or /run/containerd/containerd.sock].
    #[arg(long, value_name = "SOCKET")]
    address: Option<PathBuf>,
    /// Namespace of containerd [default: $CONTAINERD_NAMESPACE or default].
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Snapshotter of the snapshot [default: the container's; erolith for a snapshot].
    #[arg(long, value_name = "NAME")]
    snapshotter: Option<String>,
    /// What the layer is.
    #[arg(long, value_name = "FORMAT", default_value = "oci")]
    format: Format,
    /// How the layer is compressed [default: gzip; none for erofs].
    #[arg(long, value_name = "METHOD")]
    compression: Option<Compression>,
    /// Who made the image.
    #[arg(short, long, value_name = "WHO")]
    author: Option<String>,
    /// What is to be said of it.
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Instruction of a Dockerfile for the new image, may be repeated: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER,
    /// VOLUME or WORKDIR.
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<Change>,
    /// Stop the container's processes while the layer is made.
    #[arg(
        short,
        long,
        value_name = "BOOL",
        default_value_t = true,
        default_missing_value = "true"
    )]
    #[arg(num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pause: bool,
    /// Time of the image, in seconds since 1970, and of files that are younger [default: $SOURCE_DATE_EPOCH, or now].
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_image_time)]
    source_date_epoch: Option<i64>,
    /// Print nothing.
    #[arg(long)]
    quiet: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let cancel = Cancel::default();
    let interrupted = cancel.clone();
    ctrlc::set_handler(move || interrupted.cancel()).context("handling signals")?;
    let made = args.commit(&cancel)?;
    if args.json {
        made.print_json(out)?;
    } else if !args.quiet {
        made.print(out)?;
    }
    // Where containerd makes the image, it was asked for its version.
    if args.upper.is_some() && args.format == Format::Erofs && !args.quiet {
        complain(RUNS_EROFS_NOTE);
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Where it is shown how far the work is.
    fn line(&self) -> Line {
        Line::new(self.quiet || self.json)
    }

    fn commit(&self, cancel: &Cancel) -> anyhow::Result<Made> {
        let (first, second) = (self.container.as_deref(), self.image.as_deref());
        match (&self.upper, &self.output, &self.base, first, second) {
            (None, _, _, Some(container), Some(image)) => {
                node::commit(self, container, image, cancel)
            }
            (Some(upper), Some(output), ..) => local::layer(self, upper, output, cancel),
            (Some(upper), None, Some(base), Some(destination), _) => {
                local::image(self, upper, base, &destination.parse()?, cancel)
            }
            _ => {
                Err(Usage("--upper needs --output LAYER, or --base and a destination".into())
                    .into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Result<Args, clap::Error> {
        let line = [&["commit", "container", "image"], line].concat();
        Line::try_parse_from(line).map(|line| line.args)
    }

    #[test]
    fn containers_are_paused_unless_they_must_not_be() {
        for (line, pause) in [
            (&[][..], true),
            (&["--pause"], true),
            (&["-p"], true),
            (&["--pause=true"], true),
            (&["--pause=false"], false),
            (&["-p=false"], false),
        ] {
            assert_eq!(args(line).unwrap().pause, pause, "{line:?}");
        }
    }

    #[test]
    fn every_form_has_its_own_options() {
        let parsed = |line: &str| {
            let words = ["commit"].into_iter().chain(line.split_whitespace());
            Line::try_parse_from(words).is_ok()
        };
        for line in [
            "a b",
            "--upper u -o l",
            "--upper u --lower x --lower y -o l",
            "--upper u --base oci:x oci:y",
            "--upper u --userxattr --base oci:x:z oci:y -m why",
            "--upper u --work w --userxattr=false -o l",
            "--upper u --uid-map 0:9:1 --uid-map 1:1:1 --gid-map 0:9:1 -o l",
        ] {
            assert!(parsed(line), "{line}");
        }
        for line in [
            "a",
            "a b -o l",
            "a b --upper u",
            "a b --lower x",
            "a b --base oci:x",
            "a b --userxattr",
            "a b --work w",
            "--upper u",
            "--upper u -o l a",
            "--upper u -o l -m why",
            "--upper u --lower x --base oci:x oci:y",
            "--upper u --base oci:x",
            "--upper u --base x oci:y",
            "--upper u --address s -o l",
            "a b --uid-map 0:9:1 --gid-map 0:9:1",
            "--upper u --uid-map 0:9:1 -o l",
            "--upper u --gid-map 0:9:1 -o l",
            "--upper u --uid-map 0:9:0 --gid-map 0:9:1 -o l",
            "--upper u --uid-map 0:9:1 --gid-map 0:4294967295:1 -o l",
        ] {
            assert!(!parsed(line), "{line}");
        }
    }

    #[test]
    fn instructions_are_judged_before_anything_is_done() {
        let line = ["-c", "CMD x", "--change", "USER 1"];
        assert_eq!(args(&line).unwrap().change.len(), 2);
        let error = args(&["-c", "RUN x"]).unwrap_err().to_string();
        assert!(error.contains("none of CMD"), "{error}");
    }
}
