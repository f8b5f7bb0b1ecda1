//! `erolith commit`: what a container changed becomes a layer, and an image of that layer and those below.

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

use self::options::{Compression, Format};

/// Make an image of what a container changed.
///
/// CONTAINER is the ID of a container in containerd, the start of one, its name in nerdctl, or the key of a snapshot. IMAGE
/// is the name in containerd of the new image, taken as it is: what nerdctl calls NAME is docker.io/library/NAME:latest
/// there. An image that has the name loses it.
///
/// The new image has the layers of the one that the container stands on, and one more. Only that one is made; the
/// container's processes stop meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Container, or the key of a snapshot.
    container: String,
    /// Name of the new image.
    image: String,
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
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
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
    let committed = node::commit(args, &cancel)?;
    if args.json {
        show::json(&committed, out)?;
    } else if !args.quiet {
        show::text(&committed, out)?;
    }
    Ok(ExitCode::SUCCESS)
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
    fn instructions_are_judged_before_anything_is_done() {
        let line = ["-c", "CMD x", "--change", "USER 1"];
        assert_eq!(args(&line).unwrap().change.len(), 2);
        let error = args(&["-c", "RUN x"]).unwrap_err().to_string();
        assert!(error.contains("none of CMD"), "{error}");
    }
}
