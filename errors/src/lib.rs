//! What callers decide by, of every error: a stable code, whose fault it is, what a call ends with, and what helps.
//!
//! Types of errors declare it in tables, so that documents list what the code answers: [`error_table!`] declares an enum with
//! all of it, [`error_codes!`] gives codes to an enum that is declared elsewhere.

mod codes;
mod facts;
mod table;

pub use codes::ErrorCode;
pub use facts::{ErrorClass, ErrorFacts, ErrorStatus};
pub use table::ErrorRow;

/// An error and its causes on one line, the outermost first. No message of ours names its source itself.
#[must_use]
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        // Errors of some crates end with their cause, as those of SQLite.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}
