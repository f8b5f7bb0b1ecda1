//! How errors are declared: each variant with everything that is known of it, in one row of a table.

/// Declares an enum of errors. A row is a variant with
///
/// - `code`: a stable name for machines,
/// - `class`: into what commands divide it, a [`crate::Class`],
/// - `status`: what a caller of the service is answered, a [`crate::Status`],
/// - `text`: the message without the cause, as the arguments of `write!`,
///
/// and, where there is one,
///
/// - `cause`: the error behind it, which no message repeats,
/// - `advice`: what to do about it,
/// - `is_damage`: whether it tells that an image is not what it was.
///
/// All of them may use the fields of the variant. Behind the rows there may be families: variants that hold another such
/// enum, which answers for them.
macro_rules! error_table {
    (
        $(#[$doc:meta])*
        pub enum $enum:ident {
            $(
                $(#[$variant_doc:meta])*
                $variant:ident $({ $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })? => {
                    code: $code:expr,
                    class: $class:expr,
                    status: $status:expr,
                    text: ($($text:tt)*),
                    $(cause: $cause:expr,)?
                    $(advice: $advice:expr,)?
                    $(is_damage: $is_damage:expr,)?
                }
            )*
        }
        $(families {
            $($(#[$family_doc:meta])* $family:ident($inner:ty),)*
        })?
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[non_exhaustive]
        pub enum $enum {
            $($(#[$variant_doc])* $variant $({ $($(#[$field_doc])* $field: $type,)* })?,)*
            $($($(#[$family_doc])* $family($inner),)*)?
        }

        #[allow(unused_variables, reason = "a column uses the fields that it needs")]
        impl $enum {
            /// The names of its own variants.
            #[cfg(test)]
            pub(crate) const VARIANTS: &[&str] = &[$(stringify!($variant)),*];

            /// A stable name for machines.
            #[must_use]
            pub fn code(&self) -> &'static str {
                match self {
                    $(Self::$variant $({ $($field,)* })? => $code,)*
                    $($(Self::$family(error) => error.code(),)*)?
                }
            }

            /// Whose fault it is.
            #[must_use]
            pub fn class(&self) -> $crate::Class {
                match self {
                    $(Self::$variant $({ $($field,)* })? => $class,)*
                    $($(Self::$family(error) => error.class(),)*)?
                }
            }

            /// The status to answer with.
            #[must_use]
            pub fn status(&self) -> $crate::Status {
                match self {
                    $(Self::$variant $({ $($field,)* })? => $status,)*
                    $($(Self::$family(error) => error.status(),)*)?
                }
            }

            /// What to do about it, when something can be done.
            #[must_use]
            pub fn advice(&self) -> Option<&'static str> {
                match self {
                    $(Self::$variant $({ $($field,)* })? => {
                        let advice: Option<&'static str> = None;
                        $(let advice: Option<&'static str> = ($advice).into();)?
                        advice
                    })*
                    $($(Self::$family(error) => error.advice(),)*)?
                }
            }

            /// The message with its causes, on one line: for logs, and for what is kept as text.
            #[must_use]
            pub fn line(&self) -> String {
                erolith_mkfs::error_chain(self)
            }

            /// Whether it tells that the image of a layer is not what it was: gone, cut off, written over or replaced. Then
            /// only another image helps.
            #[must_use]
            pub fn is_damage(&self) -> bool {
                match self {
                    $(Self::$variant $({ $($field,)* })? => false $(|| $is_damage)?,)*
                    $($(Self::$family(error) => error.is_damage(),)*)?
                }
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
}

pub(crate) use error_table;
