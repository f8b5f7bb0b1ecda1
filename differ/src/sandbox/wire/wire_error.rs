//! Errors on their way from the worker. Those on which a caller decides arrive as what they were; of the others, which
//! all say that the layer is bad, the code and the text do.

use std::borrow::Cow;
use std::io::{self, ErrorKind};

use serde::{Deserialize, Serialize};

use crate::{Digest, Error};

/// Most bytes of a text.
const MAX_TEXT: usize = 4 << 10;
/// Most bytes of a code.
const MAX_CODE: usize = 64;
/// Of an error whose code says nothing.
const UNKNOWN: &str = "layer-invalid";

/// An [`Error`].
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) enum WireError {
    OutputBudget { limit: u64 },
    RatioBudget { compressed: u64, expanded: u64, ratio: u64 },
    TimeBudget { seconds: u64 },
    BlobSize { digest: Digest, expected: u64, actual: u64 },
    BlobDigest { expected: Digest, actual: Digest },
    DiffId { expected: Digest, actual: Digest },
    BadImage { code: Cow<'static, str>, reason: String, path: String },
    Input { what: String, source: Cause },
    Output(Cause),
    Io { action: String, source: Cause },
    Ended(String),
    Cancelled,
    Other { code: Cow<'static, str>, text: String },
}

/// An [`io::Error`].
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) struct Cause {
    errno: Option<i32>,
    kind: Kind,
    text: String,
}

/// Kinds of errors that do not come from the system.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Kind {
    UnexpectedEof,
    WriteZero,
    InvalidData,
    InvalidInput,
    Other,
}

const KINDS: [(Kind, ErrorKind); 5] = [
    (Kind::UnexpectedEof, ErrorKind::UnexpectedEof),
    (Kind::WriteZero, ErrorKind::WriteZero),
    (Kind::InvalidData, ErrorKind::InvalidData),
    (Kind::InvalidInput, ErrorKind::InvalidInput),
    (Kind::Other, ErrorKind::Other),
];

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        let (errno, text) = (error.raw_os_error(), cut(error.to_string()));
        let known = KINDS.iter().find(|(_, kind)| *kind == error.kind());
        Self { errno, kind: known.map_or(Kind::Other, |(kind, _)| *kind), text }
    }
}

impl From<Cause> for io::Error {
    fn from(cause: Cause) -> Self {
        let Cause { errno, kind, text } = cause;
        if let Some(errno) = errno {
            return Self::from_raw_os_error(errno);
        }
        let kind = match kind {
            Kind::UnexpectedEof => ErrorKind::UnexpectedEof,
            Kind::WriteZero => ErrorKind::WriteZero,
            Kind::InvalidData => ErrorKind::InvalidData,
            Kind::InvalidInput => ErrorKind::InvalidInput,
            Kind::Other => ErrorKind::Other,
        };
        let plain = Self::from(kind);
        // Without a text of its own an error says its kind.
        if plain.to_string() == text { plain } else { Self::new(kind, clean(text)) }
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        use erolith_mkfs::Error as Build;
        match error {
            Error::OutputBudget { limit } => Self::OutputBudget { limit },
            Error::RatioBudget { compressed, expanded, ratio } => {
                Self::RatioBudget { compressed, expanded, ratio }
            }
            Error::TimeBudget { seconds } => Self::TimeBudget { seconds },
            Error::BlobSize { digest, expected, actual } => {
                Self::BlobSize { digest, expected, actual }
            }
            Error::BlobDigest { expected, actual } => Self::BlobDigest { expected, actual },
            Error::DiffId { expected, actual } => Self::DiffId { expected, actual },
            Error::BadImage { code, reason, path } => {
                let (reason, path) = (cut(reason), cut(path));
                Self::BadImage { code, reason, path }
            }
            Error::Build(Build::Input { what, source }) => {
                Self::Input { what: cut(what), source: source.into() }
            }
            Error::Build(Build::Output(source)) => Self::Output(source.into()),
            Error::Io { action, source } => Self::Io { action: cut(action), source: source.into() },
            Error::WorkerDied { stage } => Self::Ended(format!("lost its {stage} thread")),
            Error::Cancelled => Self::Cancelled,
            other => {
                Self::Other { code: other.code().to_owned().into(), text: cut(other.to_string()) }
            }
        }
    }
}

impl From<WireError> for Error {
    fn from(fault: WireError) -> Self {
        use erolith_mkfs::Error as Build;
        match fault {
            WireError::OutputBudget { limit } => Self::OutputBudget { limit },
            WireError::RatioBudget { compressed, expanded, ratio } => {
                Self::RatioBudget { compressed, expanded, ratio }
            }
            WireError::TimeBudget { seconds } => Self::TimeBudget { seconds },
            WireError::BlobSize { digest, expected, actual } => {
                Self::BlobSize { digest, expected, actual }
            }
            WireError::BlobDigest { expected, actual } => Self::BlobDigest { expected, actual },
            WireError::DiffId { expected, actual } => Self::DiffId { expected, actual },
            WireError::BadImage { code, reason, path } => {
                Self::BadImage { code: valid(code), reason: clean(reason), path: cut(path) }
            }
            WireError::Input { what, source } => {
                Self::Build(Build::Input { what: clean(what), source: source.into() })
            }
            WireError::Output(source) => Self::Build(Build::Output(source.into())),
            WireError::Io { action, source } => {
                Self::Io { action: clean(action), source: source.into() }
            }
            WireError::Ended(ended) => Self::Worker { ended: clean(ended) },
            WireError::Cancelled => Self::Cancelled,
            WireError::Other { code, text } => Self::Told { code: valid(code), text: clean(text) },
        }
    }
}

/// Of a text no more than fits into a message.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

/// A text of the worker as it may be shown.
fn clean(text: String) -> String {
    cut(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A code as codes are; for any other text [`UNKNOWN`].
fn valid(code: Cow<'static, str>) -> Cow<'static, str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_code = !code.is_empty() && code.len() <= MAX_CODE && code.chars().all(is_part);
    if is_code { code } else { UNKNOWN.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Defect, Format};
    use crate::sandbox::socket::MAX_BYTES;
    use crate::sandbox::wire::{WorkerMessage, from_bytes, to_bytes};

    fn arrived(error: Error) -> Error {
        let bytes = to_bytes(&WorkerMessage::Failed(error.into())).unwrap();
        assert!(bytes.len() <= MAX_BYTES);
        match from_bytes(&bytes).unwrap() {
            WorkerMessage::Failed(fault) => fault.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_arrives_with_its_code_and_its_words() {
        let digest = Digest::of(b"");
        let (expected, actual) = (digest.clone(), Digest::of(b"other"));
        let full = || io::Error::from_raw_os_error(28);
        let eof = || io::Error::from(ErrorKind::UnexpectedEof);
        let bad = || io::Error::new(ErrorKind::InvalidData, "torn");
        let errors: Vec<fn() -> Error> = vec![
            || Error::OutputBudget { limit: 7 },
            || Error::RatioBudget { compressed: 1, expanded: u64::MAX, ratio: 200 },
            || Error::TimeBudget { seconds: 3 },
            || Error::Cancelled,
            || Error::NotALayer { declared: "tar" },
            || Error::UnsupportedCompression { found: "xz" },
            || Error::Corrupt { format: Format::Gzip, offset: 9, defect: Defect::BadChecksum },
            || Error::Build(erolith_mkfs::Error::TooLarge { limit: 1 }),
        ];
        let mut pairs: Vec<(Error, Error)> = errors.iter().map(|make| (make(), make())).collect();
        for make in [full, eof, bad] as [fn() -> io::Error; 3] {
            let of = |source| Error::Io { action: "reading".into(), source };
            pairs.push((of(make()), of(make())));
            let of = |source| Error::Build(erolith_mkfs::Error::Output(source));
            pairs.push((of(make()), of(make())));
            let what = || String::from("it");
            let of = |source| Error::Build(erolith_mkfs::Error::Input { what: what(), source });
            pairs.push((of(make()), of(make())));
        }
        let of = || Error::BlobSize { digest: digest.clone(), expected: 1, actual: 2 };
        pairs.push((of(), of()));
        let of = || Error::DiffId { expected: expected.clone(), actual: actual.clone() };
        pairs.push((of(), of()));
        let of = || Error::BadImage { code: "c".into(), reason: "r".into(), path: "p\n".into() };
        pairs.push((of(), of()));
        for (sent, kept) in pairs {
            let got = arrived(sent);
            assert_eq!((got.code(), got.to_string()), (kept.code(), kept.to_string()));
            let kind = |error: &Error| match error {
                Error::Io { source, .. }
                | Error::Build(
                    erolith_mkfs::Error::Output(source) | erolith_mkfs::Error::Input { source, .. },
                ) => Some(source.kind()),
                _ => None,
            };
            assert_eq!(kind(&got), kind(&kept));
        }
    }

    #[test]
    fn texts_and_codes_of_a_worker_are_bounded() {
        let text = "\u{1}\u{e9}".repeat(MAX_BYTES);
        let got = arrived(Error::Told { code: "A B\n".into(), text });
        assert_eq!(got.code(), UNKNOWN);
        let text = got.to_string();
        assert!(text.len() <= MAX_TEXT && !text.contains('\u{1}'));
    }
}
