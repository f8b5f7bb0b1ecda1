//! Every error becomes one line, with a hint where one is known, and an exit code.
//!
//! 0 done; 1 a negative answer (`fsck` found errors, `doctor` cannot mount); 2 wrong usage; 3 bad input;
//! 4 the kernel or the environment lacks something; 5 reading or writing failed; 130 interrupted.

use std::io::{self, Write};
use std::process::ExitCode;

use erolith_snapshotter::Class;
use tonic::Code;

use crate::containerd;
use crate::serve::{self, config, log, socket};

/// A negative answer.
pub(crate) const NO: u8 = 1;
/// Wrong usage; clap uses the same.
pub(crate) const USAGE: u8 = 2;
/// Bad input.
pub(crate) const INPUT: u8 = 3;
/// The kernel or the environment lacks something.
pub(crate) const ENVIRONMENT: u8 = 4;
/// Reading or writing failed.
pub(crate) const IO: u8 = 5;
/// Interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// A mistake in how the command was called, which clap cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Input that cannot be taken, found by the command itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadInput(pub(crate) String);

/// Prints the error and returns its exit code. A reader that went away is not an error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    // A failure of this has nowhere to be reported.
    let _ = writeln!(io::stderr().lock(), "erolith: {}", message(error));
    if let Some(excerpt) =
        error.chain().find_map(|cause| cause.downcast_ref::<config::Error>()?.excerpt())
    {
        let _ = writeln!(io::stderr().lock(), "{excerpt}");
    }
    if let Some(advice) = advice(error) {
        let _ = writeln!(io::stderr().lock(), "erolith: hint: {advice}");
    }
    ExitCode::from(code(error))
}

/// Tells about something that does not end the command.
pub(crate) fn complain(what: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "erolith: {what}");
}

/// The chain of causes on one line, without a cause that its effect has already quoted.
pub(crate) fn message(error: &anyhow::Error) -> String {
    causes(error.as_ref())
}

/// As [`message`], of an error of any type: for logs.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in std::iter::successors(Some(error), |error| error.source()) {
        let cause = cause.to_string();
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text.replace('\n', " ")
}

/// What to do about it, when the error knows.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| match cause.downcast_ref::<serve::Error>() {
        Some(serve::Error::Snapshotter(error)) => error.advice(),
        _ => cause.downcast_ref::<erolith_snapshotter::Error>()?.advice(),
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}

fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(IO)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<Usage>() {
        return Some(USAGE);
    }
    if cause.is::<BadInput>() {
        return Some(INPUT);
    }
    if let Some(error) = cause.downcast_ref::<serve::Error>() {
        return of_serve(error);
    }
    if let Some(error) = cause.downcast_ref::<containerd::Error>() {
        return Some(of_containerd(error));
    }
    if cause.is::<config::Error>() || cause.is::<log::Error>() {
        return Some(USAGE);
    }
    if cause.is::<socket::Error>() {
        return Some(ENVIRONMENT);
    }
    if let Some(error) = cause.downcast_ref::<erolith_mkfs::Error>() {
        return Some(of_mkfs(error));
    }
    if let Some(error) = cause.downcast_ref::<erolith_overlay::Error>() {
        return Some(of_overlay(error));
    }
    if let Some(error) = cause.downcast_ref::<erolith_verity::dmverity::Error>() {
        return Some(of_verity(error));
    }
    if let Some(error) = cause.downcast_ref::<erolith_mkfs::image::Error>() {
        return Some(of_image(error));
    }
    if let Some(error) = cause.downcast_ref::<erolith_snapshotter::Error>() {
        return Some(of_snapshotter(error));
    }
    if let Some(error) = cause.downcast_ref::<erolith_differ::Error>() {
        return of_differ(error);
    }
    cause.is::<io::Error>().then_some(IO)
}

fn of_snapshotter(error: &erolith_snapshotter::Error) -> u8 {
    match error.class() {
        Class::Usage => USAGE,
        Class::Input => INPUT,
        Class::Environment => ENVIRONMENT,
        Class::Io => IO,
    }
}

/// `None` where the cause of the error decides.
fn of_serve(error: &serve::Error) -> Option<u8> {
    match error {
        serve::Error::Snapshotter(error) => Some(of_snapshotter(error)),
        serve::Error::Differ(error) => of_differ(error),
        serve::Error::Containerd(error) => Some(of_containerd(error)),
        _ => None,
    }
}

fn of_containerd(error: &containerd::Error) -> u8 {
    match (error, error.code()) {
        (containerd::Error::Unusable { .. }, _) => USAGE,
        (_, Code::Unavailable | Code::DeadlineExceeded | Code::Unimplemented) => ENVIRONMENT,
        (_, Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition) => INPUT,
        _ => IO,
    }
}

/// Whether the input caused the error, and nothing else.
pub(crate) fn is_input(error: &erolith_differ::Error) -> bool {
    of_differ(error) == Some(INPUT)
}

/// `None` where the cause of the error decides.
fn of_differ(error: &erolith_differ::Error) -> Option<u8> {
    use erolith_differ::Error;
    match error {
        Error::Layer { source, .. } => of_differ(source),
        Error::Build(error) => Some(of_mkfs(error)),
        Error::Overlay(error) => Some(of_overlay(error)),
        Error::Verity(error) => Some(of_verity(error)),
        Error::Seal { .. } => None,
        Error::Io { .. } | Error::WorkerDied { .. } | Error::Worker { .. } => Some(IO),
        Error::Busy { .. } => Some(ENVIRONMENT),
        Error::Cancelled => Some(INTERRUPTED),
        Error::BadLocation { .. }
        | Error::BadPlatform { .. }
        | Error::BadChange { .. }
        | Error::WhichImage { .. } => Some(USAGE),
        _ => Some(INPUT),
    }
}

fn of_mkfs(error: &erolith_mkfs::Error) -> u8 {
    use erolith_mkfs::Error;
    match error {
        Error::Input { .. } | Error::Output(_) => IO,
        Error::Options(_) => USAGE,
        _ => INPUT,
    }
}

fn of_overlay(error: &erolith_overlay::Error) -> u8 {
    use erolith_overlay::Error;
    match error {
        Error::Image(error) => of_mkfs(error),
        Error::Input { .. } | Error::Changed { .. } => IO,
        _ => INPUT,
    }
}

fn of_verity(error: &erolith_verity::dmverity::Error) -> u8 {
    use erolith_verity::dmverity::Error;
    match error {
        Error::Io { .. } => IO,
        Error::BadRoot { .. } => USAGE,
        Error::Stopped => INTERRUPTED,
        _ => INPUT,
    }
}

fn of_image(error: &erolith_mkfs::image::Error) -> u8 {
    match error {
        erolith_mkfs::image::Error::Io { .. } => IO,
        _ => INPUT,
    }
}

#[cfg(test)]
#[path = "exit/tests.rs"]
mod table;

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn codes_follow_the_cause_and_messages_do_not_repeat_it() {
        use erolith_differ::{Digest, Error};
        let layer =
            |error| Error::Layer { index: 0, name: Digest::of(b"layer"), source: Box::new(error) };
        let table = [
            (anyhow::Error::new(Usage("no".into())), USAGE),
            (anyhow::Error::new(erolith_mkfs::Error::Options("x")), USAGE),
            (anyhow::Error::new(serve::Error::from(erolith_snapshotter::Error::NoLayers)), USAGE),
            (anyhow::Error::new(erolith_mkfs::Error::TooLarge { limit: 1 }), INPUT),
            (anyhow::Error::new(io::Error::from(io::ErrorKind::NotFound)), IO),
            (anyhow::Error::new(layer(Error::WorkerDied { stage: "x" })), IO),
            (
                anyhow::Error::new(layer(Error::BadAnnotation { key: "x".into(), reason: "y" })),
                INPUT,
            ),
        ];
        for (error, want) in table {
            let error = Err::<(), _>(error).context("doing it").unwrap_err();
            assert_eq!(code(&error), want, "{error:#}");
        }
        let inner = io::Error::other("disk gone");
        let error = anyhow::Error::new(erolith_mkfs::Error::Output(inner));
        assert_eq!(message(&error), "writing the image: disk gone");
    }
}
