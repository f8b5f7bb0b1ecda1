//! The log: lines on standard error, for people or for machines.

use std::borrow::Cow;

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
        .parse(directives(&log.level))
        .map_err(|source| Error::Level { level: log.level.clone(), source })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(Error::Twice)
}

/// A level alone is about us: what others log below a warning is noise, and the same for everybody.
fn directives(level: &str) -> Cow<'_, str> {
    match level.to_ascii_lowercase().as_str() {
        "info" | "debug" | "trace" => Cow::Owned(format!("warn,erolith={level}")),
        _ => Cow::Borrowed(level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_is_about_us() {
        for (level, want) in [
            ("info", "warn,erolith=info"),
            ("TRACE", "warn,erolith=TRACE"),
            ("warn", "warn"),
            ("off", "off"),
            ("h2=debug,info", "h2=debug,info"),
        ] {
            assert_eq!(directives(level), want);
            assert!(EnvFilter::builder().parse(directives(level)).is_ok(), "{level}");
        }
        let log = Log { level: "erolith=loud".into(), ..Log::default() };
        assert!(matches!(start(&log), Err(Error::Level { .. })));
    }
}
