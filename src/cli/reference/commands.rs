//! `docs/cli.md`: each command with its usage, its arguments and an example, from the definitions of the parser.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, Command};

use super::super::{Cli, EXIT_CODES, examples};
use super::escaped;

const HEAD: &str = "\
# Commands

This page follows from the definitions of the parser; `erolith help COMMAND` and the manual pages say the same.
`cargo run -- reference cli >docs/cli.md` makes it again.
";

/// The whole document.
pub(super) fn document() -> String {
    let mut root = Cli::definition().disable_help_subcommand(true);
    root.build();
    let mut out = format!("{HEAD}\n{EXIT_CODES}.\n");
    for command in shown(&root) {
        write_command(command.clone(), 2, &mut out);
    }
    out
}

/// The commands below `command` that are not hidden.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// Appends the section of `command` with a heading of this level, and those of the commands below it.
fn write_command(mut command: Command, level: usize, out: &mut String) {
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let name = command.get_display_name().unwrap_or(command.get_name()).replace('-', " ");
    // Writing to a String does not fail.
    let _ = writeln!(out, "\n{} {name}\n", "#".repeat(level));
    let about = command.get_long_about().or(command.get_about());
    let _ = writeln!(out, "{}\n", paragraphs(about));
    for line in usage.lines() {
        let _ = writeln!(out, "    {}", line.trim());
    }
    let arguments = command.get_arguments().filter(|argument| !is_common(argument));
    for (number, argument) in arguments.enumerate() {
        let gap = if number == 0 { "\n" } else { "" };
        let _ = writeln!(out, "{gap}- {}", described(argument));
    }
    if let [(what, line), ..] = examples::of(command.get_name()) {
        let _ = writeln!(out, "\n{}:\n\n    {line}", escaped(what));
    }
    for below in shown(&command) {
        write_command(below.clone(), level + 1, out);
    }
}

/// Whether each command has the argument, or none shows it.
fn is_common(argument: &Arg) -> bool {
    argument.is_hide_set()
        || matches!(
            argument.get_action(),
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        )
}

/// One argument: how it is written, what it means, its values.
fn described(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help());
    let mut text = format!("`{}`: {}", written(argument), paragraphs(help).replace("\n\n", " "));
    if !argument.get_action().takes_values() {
        return text;
    }
    let values = argument.get_possible_values();
    let values: Vec<_> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
    if !values.is_empty() {
        let _ = write!(text, " [values: {}]", values.join(", "));
    }
    let defaults = argument.get_default_values().iter().filter(|value| !value.is_empty());
    let defaults: Vec<_> = defaults.map(|value| format!("`{}`", value.display())).collect();
    if !defaults.is_empty() {
        let _ = write!(text, " [default: {}]", defaults.join(", "));
    }
    text
}

/// An argument as the usage writes it.
fn written(argument: &Arg) -> String {
    let value = argument.to_string();
    match (argument.get_short(), argument.get_long()) {
        (Some(short), Some(_)) => format!("-{short}, {value}"),
        _ => value,
    }
}

/// A text of the parser, a paragraph on each line.
fn paragraphs(text: Option<&StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    let paragraphs = text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>());
    escaped(&paragraphs.map(|words| words.join(" ")).collect::<Vec<_>>().join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_usage_arguments_and_an_example() {
        let text = document();
        let sections: Vec<_> = text.split("\n## ").skip(1).collect();
        let mut root = Cli::definition();
        root.build();
        assert_eq!(sections.len(), shown(&root).filter(|c| c.get_name() != "help").count());
        for section in sections {
            assert!(section.contains("\n    erolith "), "{section}");
        }
        for part in [
            "\n## erolith serve\n",
            "\n### erolith snapshots tree\n",
            "\n    erolith mkfs [OPTIONS] <OUTPUT> <SOURCE>\n",
            "- `--profile <PROFILE>`: ",
            " [values: `plain`, `managed`]\n",
            "\n    erolith man /usr/local/share/man/man1\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(
            !text.contains("reference <DOCUMENT>") && !text.contains("erolith worker"),
            "{text}"
        );
    }
}
