//! `erolith commit`: what a container changed becomes a layer, and an image of that layer and those below.

mod args;
mod local;
mod node;
mod options;
mod show;
mod subject;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_differ::decode::Cancel;

pub(crate) use self::args::Args;
use self::args::Format;
use self::show::Made;
use crate::containerd::version::RUNS_EROFS_NOTE;
use crate::exit::{Usage, complain};
use crate::progress::Line;

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
