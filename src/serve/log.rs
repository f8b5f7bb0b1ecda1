//! The log: lines on standard error, for people or for machines.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use super::config::{Log, LogFormat};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A level that is none.
    #[error("log.level {level:?}: {source}")]
    Level {
        /// As it was given.
        level: String,
        /// Why not.
        source: ParseError,
    },
    /// There is a log already.
    #[error("starting the log: {0}")]
    Twice(Box<dyn std::error::Error + Send + Sync>),
}

/// Sends what is logged from now on to standard error.
///
/// # Errors
/// When the level cannot be understood.
pub(crate) fn start(log: &Log) -> Result<(), Error> {
    let filter = EnvFilter::builder()
        .parse(&log.level)
        .map_err(|source| Error::Level { level: log.level.clone(), source })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(Error::Twice)
}
