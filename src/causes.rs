//! Errors as one line: the outermost first, then what caused each. No message of ours names its source itself.

use std::error::Error;

/// The chain of causes on one line.
pub(crate) fn message(error: &anyhow::Error) -> String {
    causes(error.as_ref())
}

/// As [`message`], of an error of any type: for logs.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    erolith_errors::error_chain(error).replace('\n', " ")
}
