//! What can be wrong with an archive, and where.

use std::fmt;
use std::io;

/// A problem at a place of an archive.
#[derive(Debug)]
pub struct Error {
    /// Offset in the archive: of the header at fault, or where the stream failed.
    pub offset: u64,
    /// Name of the member, as far as it was known.
    pub path: Option<Box<[u8]>>,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The stream under the archive failed.
    #[error("the archive cannot be read or written")]
    Io(#[source] io::Error),
    /// The stream ends inside a header block.
    #[error("the archive ends inside a header")]
    TruncatedHeader,
    /// The stream ends before the data that a header announced.
    #[error("the archive ends {missing} bytes before the end of a member's data")]
    TruncatedData {
        /// Bytes that were announced and are not there.
        missing: u64,
    },
    /// One block of zeros, then something else.
    #[error("a single block of zeros in the middle of the archive")]
    LoneZeroBlock,
    /// A block that should be a header is none.
    #[error("header checksum mismatch")]
    BadChecksum,
    /// A number that is not written as one, or that no 64-bit field holds.
    #[error("field {field} is not a number")]
    BadNumber {
        /// The header field or pax key.
        field: &'static str,
    },
    /// A number that has no meaning where it stands.
    #[error("field {field} is out of range: {value}")]
    OutOfRange {
        /// The header field or pax key.
        field: &'static str,
        /// What it says.
        value: i64,
    },
    /// A member type that is no part of a tree.
    #[error("member type '{}' is not supported", .0.escape_ascii())]
    UnknownType(u8),
    /// Extension headers without a member behind them.
    #[error("extension header without a member behind it")]
    DanglingExtension,
    /// More extension headers before one member than [`Limits`](super::Limits) allow.
    #[error("more than {limit} extension headers before one member")]
    TooManyExtensions {
        /// The limit.
        limit: u32,
    },
    /// An extension header, or a sparse map, larger than [`Limits`](super::Limits) allow.
    #[error("extension header of {size} bytes, the limit is {limit}")]
    ExtensionTooLarge {
        /// What it takes.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Two extension headers of one type before one member.
    #[error("two extension headers of type '{}' before one member", .0.escape_ascii())]
    DuplicateExtension(u8),
    /// A pax record and a GNU header that both name the member or its target.
    #[error("both a pax record and a GNU header set the {field}")]
    ConflictingExtensions {
        /// The pax key.
        field: &'static str,
    },
    /// A pax record whose length, separator or newline is not where it must be.
    #[error("malformed pax record")]
    BadPaxRecord,
    /// A NUL byte in a name.
    #[error("NUL byte in {field}")]
    NulByte {
        /// The pax key.
        field: &'static str,
    },
    /// A member without a name.
    #[error("empty name")]
    EmptyName,
    /// A file larger than [`Limits`](super::Limits) allow.
    #[error("file of {size} bytes, the limit is {limit}")]
    FileTooLarge {
        /// What it takes.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A sparse map that does not describe the data.
    #[error("bad sparse map: {0}")]
    BadSparseMap(&'static str),
    /// A sparse map with more runs than [`Limits`](super::Limits) allow.
    #[error("more than {limit} runs in a sparse map")]
    TooManySparseRuns {
        /// The limit.
        limit: usize,
    },
    /// An extended attribute that no file can have.
    #[error("bad extended attribute: {0}")]
    BadXattr(&'static str),
    /// A member was to be written before the content of the one before it was complete.
    #[error("{missing} bytes of a member's content were not written")]
    UnfinishedData {
        /// Bytes that the member still lacks.
        missing: u64,
    },
    /// More content was written than the member has.
    #[error("more content than the size of the member")]
    SurplusData,
    /// A file whose name would be taken as a mark when the layer is read.
    #[error("this name has a meaning in a layer")]
    ReservedName,
    /// An attribute of overlayfs that says that something of the file is elsewhere.
    #[error("\"{}\" has no form in a layer", .name.escape_ascii())]
    NoForm {
        /// The attribute.
        name: Vec<u8>,
    },
    /// The archive was used after an error.
    #[error("used after an error")]
    Poisoned,
}

impl Error {
    /// `problem` at byte `offset` of the archive, in no member yet.
    #[must_use]
    pub fn new(offset: u64, problem: Problem) -> Self {
        Self { offset, path: None, problem }
    }

    /// Names the member, unless the error does already.
    #[must_use]
    pub fn in_member(mut self, path: &[u8]) -> Self {
        if self.path.is_none() && !path.is_empty() {
            self.path = Some(path.into());
        }
        self
    }

    /// A short name of the problem that stays the same across versions.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.problem.code()
    }
}

erolith_errors::error_codes! {
    Problem {
        Self::Io(_) => "tar-io", "the stream under the archive failed";
        Self::TruncatedHeader => "tar-truncated-header", "the archive ends inside a header";
        Self::TruncatedData { .. } => "tar-truncated-data", "the archive ends inside the data of a member";
        Self::LoneZeroBlock => "tar-lone-zero-block", "a single block of zeros in the middle of the archive";
        Self::BadChecksum => "tar-bad-checksum", "the checksum of a header is wrong";
        Self::BadNumber { .. } => "tar-bad-number", "a header field or pax record is not a number";
        Self::OutOfRange { .. } => "tar-out-of-range", "a header field or pax record is a number without a meaning there";
        Self::UnknownType(_) => "tar-unknown-type", "a member type that is no part of a tree";
        Self::DanglingExtension => "tar-dangling-extension", "extension headers without a member behind them";
        Self::TooManyExtensions { .. } => "tar-too-many-extensions", "too many extension headers before one member";
        Self::ExtensionTooLarge { .. } => "tar-extension-too-large", "an extension header or a sparse map above its limit";
        Self::DuplicateExtension(_) => "tar-duplicate-extension", "two extension headers of one type before one member";
        Self::ConflictingExtensions { .. } => "tar-conflicting-extensions", "a pax record and a GNU header name the same member or target";
        Self::BadPaxRecord => "tar-bad-pax-record", "a pax record with a wrong length, separator or end";
        Self::NulByte { .. } => "tar-nul-byte", "a NUL byte in a name";
        Self::EmptyName => "tar-empty-name", "a member without a name";
        Self::FileTooLarge { .. } => "tar-file-too-large", "a file above the limit";
        Self::BadSparseMap(_) => "tar-bad-sparse-map", "a sparse map that does not describe the data";
        Self::TooManySparseRuns { .. } => "tar-too-many-sparse-runs", "a sparse map with too many runs";
        Self::BadXattr(_) => "tar-bad-xattr", "an extended attribute that no file can have";
        Self::UnfinishedData { .. } => "tar-unfinished-data", "a member is written before the content of the last one is complete";
        Self::SurplusData => "tar-surplus-data", "more content than the size of the member";
        Self::ReservedName => "tar-reserved-name", "a file whose name is a mark in a layer, such as `.wh.x`";
        Self::NoForm { .. } => "tar-no-form", "an attribute of overlayfs that has no form in an archive";
        Self::Poisoned => "tar-poisoned", "the archive is used after an error";
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tar offset {}", self.offset)?;
        if let Some(path) = &self.path {
            write!(f, ", member \"{}\"", path.escape_ascii())?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.problem)
    }
}
