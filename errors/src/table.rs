//! Errors in tables: each variant with everything that is known of it, in one row.

use crate::{ErrorClass, ErrorStatus};

/// One row of a table, as documents list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorRow {
    /// The column `code` as the table has it: what [`ErrorRow::codes`] reads.
    #[doc(hidden)]
    pub code: &'static str,
    /// What is wrong, as the docstring of the variant says it.
    pub doc: &'static str,
    /// Whose fault it is, where it does not depend on the fields.
    pub class: Option<ErrorClass>,
    /// What a call ends with, where it does not depend on the fields.
    pub status: Option<ErrorStatus>,
    /// What helps, where it does not depend on the fields.
    pub advice: Option<&'static str>,
}

impl ErrorRow {
    /// The codes that the row names: several where the fields decide, none where the code is that of another error.
    pub fn codes(&self) -> impl Iterator<Item = &'static str> {
        self.code.split('"').skip(1).step_by(2)
    }

    /// What is wrong, in the first sentence of the docstring.
    #[must_use]
    pub fn summary(&self) -> &'static str {
        let doc = self.doc.trim();
        doc.split_once(". ").map_or(doc, |(first, _)| &doc[..=first.len()])
    }
}

/// Declares an enum of errors. A row is a variant with
///
/// - `code`: a stable name for machines,
/// - `class`: whose fault it is, an [`ErrorClass`],
/// - `status`: what a call ends with, an [`ErrorStatus`],
/// - `text`: the message without the cause, as the arguments of `write!`,
///
/// and, where there is one,
///
/// - `cause`: the error behind it, which no message repeats,
/// - `advice`: what to do about it.
///
/// A column is a constant, or an expression in braces that may use the fields of the variant; `advice` is an `Option` there.
/// Behind the rows there may be families: variants that hold another such enum, which answers for them.
#[macro_export]
macro_rules! error_table {
    (
        $(#[$meta:meta])*
        pub enum $enum:ident {
            $(
                $(#[doc = $doc:literal])+
                $variant:ident $({ $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })? => {
                    code: $code:tt,
                    class: $class:tt,
                    status: $status:tt,
                    text: ($($text:tt)*),
                    $(cause: $cause:expr,)?
                    $(advice: $advice:tt,)?
                }
            )*
        }
        $(families {
            $($(#[$family_doc:meta])* $family:ident($inner:ty),)*
        })?
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        #[non_exhaustive]
        pub enum $enum {
            $($(#[doc = $doc])+ $variant $({ $($(#[$field_doc])* $field: $type,)* })?,)*
            $($($(#[$family_doc])* $family($inner),)*)?
        }

        #[allow(unused_variables, reason = "a column uses the fields that it needs")]
        impl $enum {
            /// Its rows, without those of its families.
            pub const ROWS: &'static [$crate::ErrorRow] = &[$($crate::ErrorRow {
                code: stringify!($code),
                doc: concat!($($doc),+),
                class: $crate::error_table!(@constant ErrorClass $class),
                status: $crate::error_table!(@constant ErrorStatus $status),
                advice: $crate::error_table!(@constant advice $($advice)?),
            },)*];

            /// The names of its own variants.
            #[cfg(test)]
            pub(crate) const VARIANTS: &'static [&'static str] = &[$(stringify!($variant)),*];

            /// What callers decide by.
            #[must_use]
            pub fn facts(&self) -> $crate::ErrorFacts<'_> {
                match self {
                    $(Self::$variant $({ $($field,)* })? => $crate::ErrorFacts {
                        code: $code,
                        class: $crate::error_table!(@value ErrorClass $class),
                        status: $crate::error_table!(@value ErrorStatus $status),
                        advice: $crate::error_table!(@value advice $($advice)?),
                    },)*
                    $($(Self::$family(error) => error.facts(),)*)?
                }
            }

            /// A stable name for machines.
            #[must_use]
            pub fn code(&self) -> &str {
                self.facts().code
            }

            /// Whose fault it is.
            #[must_use]
            pub fn class(&self) -> $crate::ErrorClass {
                self.facts().class
            }

            /// What a call ends with.
            #[must_use]
            pub fn status(&self) -> $crate::ErrorStatus {
                self.facts().status
            }

            /// What to do about it, when something can be done.
            #[must_use]
            pub fn advice(&self) -> Option<&'static str> {
                self.facts().advice
            }
        }

        #[allow(unused_variables, reason = "a message shows the fields that it needs")]
        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant $({ $($field,)* })? => write!(f, $($text)*),)*
                    $($(Self::$family(error) => error.fmt(f),)*)?
                }
            }
        }

        #[allow(unused_variables, reason = "few variants have a cause")]
        impl std::error::Error for $enum {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                match self {
                    $(Self::$variant $({ $($field,)* })? => {
                        let cause: Option<&(dyn std::error::Error + 'static)> = None;
                        $(let cause: Option<&(dyn std::error::Error + 'static)> = Some($cause);)?
                        cause
                    })*
                    $($(Self::$family(error) => error.source(),)*)?
                }
            }
        }

        $($(
            impl From<$inner> for $enum {
                fn from(error: $inner) -> Self {
                    Self::$family(error)
                }
            }
        )*)?
    };

    // What documents can say of a column.
    (@constant advice $text:literal) => { Some($text) };
    (@constant $type:ident { $($expr:tt)* }) => { None };
    (@constant $type:ident $name:ident) => { Some($crate::$type::$name) };
    (@constant advice) => { None };

    // What a column says of one error.
    (@value advice $text:literal) => { Some($text) };
    (@value $type:ident { $($expr:tt)* }) => { { $($expr)* } };
    (@value $type:ident $name:ident) => { $crate::$type::$name };
    (@value advice) => { None };
}
