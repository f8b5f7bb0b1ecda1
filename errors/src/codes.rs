//! Codes of errors in tables: what the `code` of a type says, and what documents list.

/// A code that errors have, and what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    /// A stable name for machines, in kebab case.
    pub code: &'static str,
    /// What is wrong, in a few words.
    pub summary: &'static str,
}

/// Declares `code` and `CODES` of an error type in one table: a pattern, its code and what that stands for. Errors below
/// `wrapped` have the code of the error inside, which is in the table of its type.
#[macro_export]
macro_rules! error_codes {
    ($type:ty { $($row:pat => $code:literal, $summary:literal;)* }
        $(wrapped { $($inner:pat => $of:expr;)* })?) => {
        impl $type {
            /// Every code of this type, without those of errors that it hands on.
            pub const CODES: &[$crate::ErrorCode] =
                &[$($crate::ErrorCode { code: $code, summary: $summary }),*];

            /// A stable name for machines.
            #[must_use]
            pub fn code(&self) -> &'static str {
                match self {
                    $($row => $code,)*
                    $($($inner => $of,)*)?
                }
            }
        }
    };
}
