//! `erolith reference`: documents in Markdown that follow from the program. Tests hold `docs/` to them.

mod commands;
mod errors;

use std::io::Write;
use std::process::ExitCode;

/// Print a document of `docs/` that follows from this program, in Markdown.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The document.
    #[arg(value_enum)]
    document: ReferencePage,
}

/// A document that follows from the program.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ReferencePage {
    /// The commands with their arguments: docs/cli.md.
    Cli,
    /// The codes of errors: docs/errors.md.
    Errors,
}

impl ReferencePage {
    fn text(self) -> String {
        match self {
            Self::Cli => commands::document(),
            Self::Errors => errors::document(),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    out.write_all(args.document.text().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A text for Markdown: what would be read as HTML or as the border of a cell is escaped.
fn escaped(text: &str) -> String {
    text.replace('<', "\\<").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn documents_are_what_the_program_prints() {
        for (document, name) in [(ReferencePage::Cli, "cli"), (ReferencePage::Errors, "errors")] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{name}.md"));
            let kept = std::fs::read_to_string(&file).unwrap_or_default();
            let made = document.text();
            let differ = kept.lines().zip(made.lines()).find(|(kept, made)| kept != made);
            assert!(
                kept == made,
                "docs/{name}.md is not what the program says; make it again: \
                 cargo run -- reference {name} >docs/{name}.md\nfirst lines that differ: {differ:?}"
            );
        }
    }
}
