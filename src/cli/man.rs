//! `erolith man`: the manual pages, made from the same definitions as the parser.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;
use roff::{Roff, roman};

use super::{Cli, EXIT_CODES, examples};

/// Write the manual pages, one for each subcommand, into a directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for the pages; it must exist.
    dir: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args, _: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut root = Cli::definition().disable_help_subcommand(true);
    root.build();
    write_pages(root, &args.dir)
        .with_context(|| format!("writing manual pages to {}", args.dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of `command` and those of its subcommands.
fn write_pages(command: Command, dir: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_pages(subcommand.clone(), dir)?;
    }
    let name = Man::new(command.clone()).get_filename();
    let mut file = io::BufWriter::new(std::fs::File::create(dir.join(name))?);
    render(command, &mut file)?;
    file.flush()
}

/// Writes one page, with the sections in the order of man-pages(7).
fn render(mut command: Command, to: &mut dyn Write) -> io::Result<()> {
    // clap_mangen's own synopsis lists every option, those without a long name as `[-b ]`.
    let usage = command.render_usage().to_string();
    let command = command.override_usage(usage.trim_start_matches("Usage:").trim().to_owned());
    let shown = examples::of(command.get_name());
    let has_subcommands = command.get_subcommands().any(|command| !command.is_hide_set());
    let man = Man::new(command);
    man.render_title(to)?;
    man.render_name_section(to)?;
    man.render_synopsis_section(to)?;
    man.render_description_section(to)?;
    man.render_options_section(to)?;
    if has_subcommands {
        man.render_subcommands_section(to)?;
    }
    let mut rest = Roff::new();
    rest.control("SH", ["EXIT STATUS"]).text([roman(EXIT_CODES)]);
    if !shown.is_empty() {
        rest.control("SH", ["EXAMPLES"]);
    }
    for (what, line) in shown {
        rest.control("PP", []).text([roman(format!("{what}:"))]);
        rest.control("RS", ["4"]).control("nf", []).text([roman(*line)]);
        rest.control("fi", []).control("RE", []);
    }
    rest.to_writer(to)?;
    man.render_version_section(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_a_short_synopsis_and_examples() {
        let mut root = Cli::definition();
        root.build();
        let page = |name: &str| {
            let mut out = Vec::new();
            render(root.find_subcommand(name).unwrap().clone(), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let mkfs = page("mkfs");
        assert!(mkfs.contains("\\fBerolith mkfs\\fR [OPTIONS] <OUTPUT> <SOURCE>"), "{mkfs}");
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES"] {
            assert!(mkfs.contains(&format!(".SH {section}\n")), "{section}: {mkfs}");
        }
        assert!(mkfs.contains(".SH \"EXIT STATUS\"\n"), "{mkfs}");
        let commit = page("commit");
        assert!(commit.contains("erolith commit\\fR [OPTIONS] CONTAINER IMAGE\n.br\n"), "{commit}");
        // An apostrophe is typed as one, not as the closing quote that troff makes of it.
        assert!(
            commit.contains("\\*(Aqwith curl\\*(Aq") || commit.contains("\\(aqwith curl\\(aq"),
            "{commit}"
        );
    }
}
