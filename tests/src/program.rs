//! The program under test, run as its users run it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A program by its path. Only the tests of a program know that path, by `env!("CARGO_BIN_EXE_...")`.
#[derive(Debug, Clone, Copy)]
pub struct Program(pub &'static str);

impl Program {
    /// A run that is yet to be described and started.
    pub fn command(self) -> Command {
        Command::new(self.0)
    }

    /// Runs it to its end, with nothing to read.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(self, args: &[&str]) -> Output {
        let out = self.command().args(args).stdin(Stdio::null()).output();
        out.unwrap_or_else(|error| panic!("{}: {error}", self.0))
    }

    /// What it prints.
    ///
    /// # Panics
    /// When it does not succeed.
    pub fn printed(self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }
}

/// Output for people to read: what is no UTF-8 in it is replaced.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs tests of a program that `go test -c` has made, those that `pattern` names, with these variables. Returns what it says
/// of each.
///
/// # Panics
/// When one fails, with what it says.
pub fn go_tests(program: &Path, pattern: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(program);
    command.args(["-test.v", "-test.run", pattern]).env("TMPDIR", "/var/tmp");
    command.envs(variables.iter().copied());
    let out = command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let said = text(&out.stdout);
    assert!(out.status.success(), "{pattern}, {variables:?}: {said}{}", text(&out.stderr));
    said
}
