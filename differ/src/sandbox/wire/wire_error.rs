//! Errors on their way from the worker. Those on which a caller decides arrive as what they were; of the others, which
//! all say that the layer is bad, the code and the text do.

use std::borrow::Cow;
use std::io::{self, ErrorKind};

use erolith_errors::error_chain;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;
use crate::error::{BudgetError, LayerError, MismatchError, ProcessError};

/// Most bytes of a text.
const MAX_TEXT: usize = 4 << 10;
/// Most bytes of a code.
const MAX_CODE: usize = 64;
/// Of an error whose code says nothing.
const UNKNOWN: &str = "layer-invalid";

/// An [`Error`].
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) enum WireError {
    Budget(BudgetError),
    Mismatch(MismatchError),
    BadImage { code: Cow<'static, str>, reason: String, path: String },
    Input { what: String, source: WireIo },
    Output(WireIo),
    Io { action: String, source: WireIo },
    Ended(String),
    Cancelled,
    Other { code: Cow<'static, str>, text: String },
}

/// An [`io::Error`], sent as its number, its kind and its text.
#[derive(Debug)]
pub(in crate::sandbox) struct WireIo(io::Error);

/// Kinds of errors that do not come from the system. Those that are not here arrive as the last one.
const KINDS: [ErrorKind; 5] = [
    ErrorKind::UnexpectedEof,
    ErrorKind::WriteZero,
    ErrorKind::InvalidData,
    ErrorKind::InvalidInput,
    ErrorKind::Other,
];

impl Serialize for WireIo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(error) = self;
        let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(KINDS.len() - 1);
        (error.raw_os_error(), kind, cut(error_chain(error))).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WireIo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (errno, kind, text) = <(Option<i32>, usize, String)>::deserialize(deserializer)?;
        if let Some(errno) = errno {
            return Ok(Self(io::Error::from_raw_os_error(errno)));
        }
        let kind = KINDS.get(kind).copied().unwrap_or(ErrorKind::Other);
        let plain = io::Error::from(kind);
        // Without a text of its own an error says its kind.
        let is_plain = plain.to_string() == text;
        Ok(Self(if is_plain { plain } else { io::Error::new(kind, clean(text)) }))
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        use erolith_mkfs::Error as Build;
        match error {
            Error::Budget(error) => Self::Budget(error),
            Error::Mismatch(error) => Self::Mismatch(error),
            Error::Layer(LayerError::BadImage { code, reason, path }) => {
                Self::BadImage { code, reason: cut(reason), path: cut(path) }
            }
            Error::Build(Build::Input { what, source }) => {
                Self::Input { what: cut(what), source: WireIo(source) }
            }
            Error::Build(Build::Output(source)) => Self::Output(WireIo(source)),
            Error::Io { action, source } => {
                Self::Io { action: cut(action), source: WireIo(source) }
            }
            Error::Process(ProcessError::ThreadDied { stage }) => {
                Self::Ended(format!("lost its {stage} thread"))
            }
            Error::Cancelled => Self::Cancelled,
            other => {
                let code = other.code().to_owned().into();
                Self::Other { code, text: cut(error_chain(&other)) }
            }
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        use erolith_mkfs::Error as Build;
        match error {
            WireError::Budget(error) => error.into(),
            WireError::Mismatch(error) => error.into(),
            WireError::BadImage { code, reason, path } => {
                let (code, reason, path) = (valid(code), clean(reason), cut(path));
                LayerError::BadImage { code, reason, path }.into()
            }
            WireError::Input { what, source } => {
                Self::Build(Build::Input { what: clean(what), source: source.0 })
            }
            WireError::Output(source) => Self::Build(Build::Output(source.0)),
            WireError::Io { action, source } => {
                Self::Io { action: clean(action), source: source.0 }
            }
            WireError::Ended(ended) => ProcessError::WorkerDied { ended: clean(ended) }.into(),
            WireError::Cancelled => Self::Cancelled,
            WireError::Other { code, text } => {
                ProcessError::Reported { code: valid(code), text: clean(text) }.into()
            }
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
    use crate::Digest;
    use crate::decode::{CompressedFormat, Defect};
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
        let (digest, other) = (Digest::of(b""), Digest::of(b"other"));
        let full = || io::Error::from_raw_os_error(28);
        let eof = || io::Error::from(ErrorKind::UnexpectedEof);
        let bad = || io::Error::new(ErrorKind::InvalidData, "torn");
        let errors: Vec<fn() -> Error> = vec![
            || Error::Budget(BudgetError::Output { limit: 7 }),
            || Error::Budget(BudgetError::Ratio { compressed: 1, expanded: u64::MAX, ratio: 200 }),
            || Error::Budget(BudgetError::Time { seconds: 3 }),
            || Error::Cancelled,
            || Error::Layer(LayerError::NotALayer { declared: "tar" }),
            || Error::Layer(LayerError::UnsupportedCompression { found: "xz" }),
            || {
                let (format, defect) = (CompressedFormat::Gzip, Defect::BadChecksum);
                LayerError::Corrupt { format, offset: 9, defect }.into()
            },
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
        let of = || MismatchError::BlobSize { digest: digest.clone(), expected: 1, actual: 2 };
        pairs.push((of().into(), of().into()));
        let (expected, actual) = (&digest, &other);
        let of = || MismatchError::DiffId { expected: expected.clone(), actual: actual.clone() };
        pairs.push((of().into(), of().into()));
        let (reason, path) = (|| "r".to_owned(), || "p\n".to_owned());
        let of = || LayerError::BadImage { code: "c".into(), reason: reason(), path: path() };
        pairs.push((of().into(), of().into()));
        for (sent, kept) in pairs {
            let got = arrived(sent);
            assert_eq!((got.code(), error_chain(&got)), (kept.code(), error_chain(&kept)));
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
        let got = arrived(Error::Process(ProcessError::Reported { code: "A B\n".into(), text }));
        assert_eq!(got.code(), UNKNOWN);
        let text = got.to_string();
        assert!(text.len() <= MAX_TEXT && !text.contains('\u{1}'));
    }
}
