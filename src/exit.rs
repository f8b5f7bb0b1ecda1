//! Every error becomes one line, with a hint where one is known, and an exit code.
//!
//! 0 done; 1 a negative answer (`fsck` found errors, `doctor` cannot mount); 2 wrong usage; 3 bad input;
//! 4 the kernel or the environment lacks something; 5 reading or writing failed; 130 interrupted.

use std::error::Error as StdError;
use std::io::{self, Write as _};
use std::process::ExitCode;

use erolith_errors::{ErrorClass, ErrorFacts};
use tonic::Code;

use crate::causes::message;
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

/// What to do about it, when the error knows.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().filter_map(lookup).find_map(|verdict| verdict.advice)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}

fn code(error: &anyhow::Error) -> u8 {
    error.chain().filter_map(lookup).find_map(|verdict| verdict.code).unwrap_or(IO)
}

/// What an error says of itself.
#[derive(Debug, Clone, Copy, Default)]
struct Verdict {
    /// The exit code; without one the source of the error decides.
    code: Option<u8>,
    /// What helps.
    advice: Option<&'static str>,
}

impl Verdict {
    fn of(code: u8) -> Self {
        Self { code: Some(code), advice: None }
    }
}

/// An error that knows its exit code.
trait Classified: StdError + 'static {
    fn verdict(&self) -> Verdict;
}

type Lookup = fn(&(dyn StdError + 'static)) -> Option<Verdict>;

/// Every type of error that a command may end with.
const LOOKUPS: [Lookup; 14] = [
    verdict_of::<Usage>,
    verdict_of::<BadInput>,
    verdict_of::<serve::Error>,
    verdict_of::<containerd::Error>,
    verdict_of::<config::Error>,
    verdict_of::<log::Error>,
    verdict_of::<socket::Error>,
    verdict_of::<erolith_mkfs::Error>,
    verdict_of::<erolith_overlay::Error>,
    verdict_of::<erolith_verity::dmverity::Error>,
    verdict_of::<erolith_mkfs::image::Error>,
    verdict_of::<erolith_snapshotter::Error>,
    verdict_of::<erolith_differ::Error>,
    verdict_of::<io::Error>,
];

fn lookup(cause: &(dyn StdError + 'static)) -> Option<Verdict> {
    LOOKUPS.iter().find_map(|lookup| lookup(cause))
}

fn verdict_of<E: Classified>(cause: &(dyn StdError + 'static)) -> Option<Verdict> {
    Some(cause.downcast_ref::<E>()?.verdict())
}

impl Classified for Usage {
    fn verdict(&self) -> Verdict {
        Verdict::of(USAGE)
    }
}

impl Classified for BadInput {
    fn verdict(&self) -> Verdict {
        Verdict::of(INPUT)
    }
}

impl Classified for config::Error {
    fn verdict(&self) -> Verdict {
        Verdict::of(USAGE)
    }
}

impl Classified for log::Error {
    fn verdict(&self) -> Verdict {
        Verdict::of(USAGE)
    }
}

impl Classified for socket::Error {
    fn verdict(&self) -> Verdict {
        Verdict::of(ENVIRONMENT)
    }
}

impl Classified for io::Error {
    fn verdict(&self) -> Verdict {
        Verdict::of(IO)
    }
}

impl Classified for serve::Error {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Snapshotter(error) => error.verdict(),
            Self::Differ(error) => error.verdict(),
            Self::Containerd(error) => error.verdict(),
            _ => Verdict::default(),
        }
    }
}

impl Classified for containerd::Error {
    fn verdict(&self) -> Verdict {
        Verdict::of(match (self, self.code()) {
            (Self::Unusable { .. }, _) => USAGE,
            (_, Code::Unavailable | Code::DeadlineExceeded | Code::Unimplemented) => ENVIRONMENT,
            (_, Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition) => INPUT,
            _ => IO,
        })
    }
}

/// Errors of the libraries, which know all of it.
macro_rules! classified_by_facts {
    ($($error:ty,)*) => {$(
        impl Classified for $error {
            fn verdict(&self) -> Verdict {
                self.facts().into()
            }
        }
    )*};
}

classified_by_facts! {
    erolith_mkfs::Error,
    erolith_mkfs::image::Error,
    erolith_overlay::Error,
    erolith_verity::dmverity::Error,
    erolith_snapshotter::Error,
    erolith_differ::Error,
}

impl From<ErrorFacts<'_>> for Verdict {
    fn from(facts: ErrorFacts<'_>) -> Self {
        Self { code: of_class(facts.class), advice: facts.advice }
    }
}

/// The exit code of a class; without one the source of the error decides.
pub(crate) fn of_class(class: ErrorClass) -> Option<u8> {
    match class {
        ErrorClass::Usage => Some(USAGE),
        ErrorClass::Input => Some(INPUT),
        ErrorClass::Environment => Some(ENVIRONMENT),
        ErrorClass::Io => Some(IO),
        ErrorClass::Interrupted => Some(INTERRUPTED),
        ErrorClass::OfSource => None,
    }
}

#[cfg(test)]
#[path = "exit/tests.rs"]
mod table;

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use erolith_snapshotter::MountError;

    use super::*;

    #[test]
    fn codes_follow_the_cause_and_messages_do_not_repeat_it() {
        use erolith_differ::error::{LayerError, ProcessError};
        use erolith_differ::{Digest, Error};
        let layer = |error| Error::InLayer {
            index: 0,
            name: Digest::of(b"layer"),
            source: Box::new(error),
        };
        let table = [
            (anyhow::Error::new(Usage("no".into())), USAGE),
            (anyhow::Error::new(erolith_mkfs::Error::Options("x")), USAGE),
            (
                anyhow::Error::new(serve::Error::from(erolith_snapshotter::Error::from(
                    MountError::NoLayers,
                ))),
                USAGE,
            ),
            (anyhow::Error::new(erolith_mkfs::Error::TooLarge { limit: 1 }), INPUT),
            (anyhow::Error::new(io::Error::from(io::ErrorKind::NotFound)), IO),
            (anyhow::Error::new(layer(ProcessError::ThreadDied { stage: "x" }.into())), IO),
            (
                anyhow::Error::new(layer(
                    LayerError::BadAnnotation { key: "x".into(), reason: "y" }.into(),
                )),
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
