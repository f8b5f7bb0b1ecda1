//! The program under test, run as its users run it.

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
