//! What callers decide by, of every error: its code, whose fault it is, what a call ends with, what helps.

use std::io::{self, ErrorKind};

use serde::{Deserialize, Serialize};

/// Whose fault an error is; decides the exit code of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorClass {
    /// The caller asked for something that cannot be.
    Usage,
    /// A layer, an image or a document is not what it should be.
    Input,
    /// The environment lacks something, or another process is in the way.
    Environment,
    /// Reading, writing or a part of this program failed.
    Io,
    /// The work was cancelled.
    Interrupted,
    /// That of the source of the error.
    OfSource,
}

/// What a call ends with: the codes of containerd's errdefs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorStatus {
    /// The request can never be fulfilled as it is.
    InvalidArgument,
    /// What the request names is not there.
    NotFound,
    /// The request could be fulfilled in another state.
    FailedPrecondition,
    /// Another differ may know how; containerd asks its next one then.
    Unimplemented,
    /// The same request may succeed in a moment.
    Unavailable,
    /// Space, memory, time or another limited thing is used up.
    ResourceExhausted,
    /// Stored data is damaged.
    DataLoss,
    /// The request was cancelled.
    Cancelled,
    /// Anything else.
    Internal,
    /// That of the source of the error.
    OfSource,
}

impl ErrorStatus {
    /// That of a failure of the storage.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::ResourceExhausted,
            _ => Self::Internal,
        }
    }
}

/// What callers decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorFacts<'a> {
    /// A stable name of the kind of error, for logs, tests and machines.
    pub code: &'a str,
    /// Whose fault it is.
    pub class: ErrorClass,
    /// What a call ends with.
    pub status: ErrorStatus,
    /// What helps, where something is known.
    pub advice: Option<&'static str>,
}

impl<'a> ErrorFacts<'a> {
    /// Those of an error for which no advice is known.
    pub(crate) fn new(code: &'a str, class: ErrorClass, status: ErrorStatus) -> Self {
        Self { code, class, status, advice: None }
    }
}

/// Those of an error of building an image.
impl<'a> From<&'a erolith_mkfs::Error> for ErrorFacts<'a> {
    fn from(error: &'a erolith_mkfs::Error) -> Self {
        use ErrorClass::{Input, Io, Usage};
        use ErrorStatus::InvalidArgument;
        use erolith_mkfs::Error;
        let (class, status) = match error {
            Error::Input { source, .. } | Error::Output(source) => (Io, ErrorStatus::of_io(source)),
            Error::Options(_) => (Usage, InvalidArgument),
            _ => (Input, InvalidArgument),
        };
        Self::new(error.code(), class, status)
    }
}

/// Those of an error of comparing layers.
impl<'a> From<&'a erolith_overlay::Error> for ErrorFacts<'a> {
    fn from(error: &'a erolith_overlay::Error) -> Self {
        use ErrorClass::{Input, Io};
        use ErrorStatus::{FailedPrecondition, InvalidArgument, Unavailable};
        use erolith_overlay::Error;
        let (class, status) = match error {
            Error::Image(error) => return error.into(),
            Error::Input { source, .. } => (Io, ErrorStatus::of_io(source)),
            // The process that writes to the snapshot may have stopped by the next time.
            Error::Changed { .. } => (Io, Unavailable),
            Error::Index { .. } | Error::Marks { .. } => (Input, FailedPrecondition),
            _ => (Input, InvalidArgument),
        };
        Self::new(error.code(), class, status)
    }
}

/// Those of an error of a hash tree.
impl<'a> From<&'a erolith_verity::dmverity::Error> for ErrorFacts<'a> {
    fn from(error: &'a erolith_verity::dmverity::Error) -> Self {
        use erolith_verity::dmverity::Error;
        let class = match error {
            Error::Io { .. } => ErrorClass::Io,
            Error::BadRoot { .. } => ErrorClass::Usage,
            Error::Stopped => ErrorClass::Interrupted,
            _ => ErrorClass::Input,
        };
        Self::new(error.code(), class, ErrorStatus::InvalidArgument)
    }
}

/// Those of an error of reading an image.
impl<'a> From<&'a erolith_mkfs::image::Error> for ErrorFacts<'a> {
    fn from(error: &'a erolith_mkfs::image::Error) -> Self {
        let class = match error {
            erolith_mkfs::image::Error::Io { .. } => ErrorClass::Io,
            _ => ErrorClass::Input,
        };
        Self::new(error.code(), class, ErrorStatus::InvalidArgument)
    }
}

/// One kind of error of a family, as documents list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FamilyRow {
    /// Its codes: those that its row in the table names.
    pub codes: &'static str,
    /// What is wrong, as the docstring of the variant says it.
    pub summary: &'static str,
    /// Whose fault it is.
    pub class: ErrorClass,
    /// What a call ends with.
    pub status: ErrorStatus,
}

/// Declares a family of errors in one table. Each row has the variant with its fields, then its code, class, status, advice
/// and text; fields can be named in all of them.
macro_rules! error_family {
    (
        $(#[$meta:meta])*
        $family:ident {
            $(
                $(#[doc = $doc:literal])+
                $variant:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }
                    = ($code:expr, $class:ident, $status:ident, $advice:expr, $($text:tt)+);
            )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, thiserror::Error)]
        #[non_exhaustive]
        pub enum $family {
            $(
                $(#[doc = $doc])+
                #[error($($text)+)]
                $variant { $($(#[$field_meta])* $field: $type,)* },
            )+
        }

        impl $family {
            /// Every kind of error of this family.
            pub const ROWS: &'static [$crate::error::FamilyRow] = &[
                $($crate::error::FamilyRow {
                    codes: stringify!($code),
                    summary: concat!($($doc),+),
                    class: $crate::error::ErrorClass::$class,
                    status: $crate::error::ErrorStatus::$status,
                },)+
            ];

            /// What callers decide by.
            #[must_use]
            #[allow(unused_variables, reason = "few facts depend on the fields")]
            pub fn facts(&self) -> $crate::error::ErrorFacts<'_> {
                match self {
                    $(
                        Self::$variant { $($field),* } => $crate::error::ErrorFacts {
                            code: $code,
                            class: $crate::error::ErrorClass::$class,
                            status: $crate::error::ErrorStatus::$status,
                            advice: $advice,
                        },
                    )+
                }
            }
        }
    };
}

pub(super) use error_family;
