//! The log: lines on standard error, for people or for machines.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// The levels, the most important first.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// Least important level that is logged, or directives as `tracing` has them: `info,erolith=debug`.
    pub(crate) level: String,
    /// Form of a line.
    pub(crate) format: LogFormat,
}

/// Form of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// Why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The level cannot be used.
    #[error("log.level {level:?}: {reason}")]
    Level {
        /// As it was given.
        level: String,
        /// Why not.
        reason: String,
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
    let level = |reason| Error::Level { level: log.level.clone(), reason };
    let directives = directives(&log.level).map_err(level)?;
    let filter = EnvFilter::builder().parse(directives).map_err(|e| level(e.to_string()))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(Error::Twice)
}

/// The directives of a level as it is configured: `LEVEL`, or `MODULE=LEVEL` for single modules, with commas.
///
/// A level without a module is about erolith: what its dependencies log below a warning stays out.
///
/// # Errors
/// Which part is no level. [`EnvFilter`] alone takes an unknown word for the name of a module, and logs nothing else.
pub(crate) fn directives(level: &str) -> Result<String, String> {
    let parts = level.split(',').map(str::trim).filter(|part| !part.is_empty());
    let parts = parts.map(|part| match part.rsplit_once('=') {
        Some((module, level)) => Ok(format!("{module}={}", known(level)?)),
        None => known(part).map(str::to_owned),
    });
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    match parts.join(",") {
        none if none.is_empty() => Err(no_level(level)),
        one if ["info", "debug", "trace"].contains(&one.as_str()) => {
            Ok(format!("warn,erolith={one}"))
        }
        several => Ok(several),
    }
}

/// A level by its name in any case; `warning` is what containerd's log calls `warn`.
fn known(level: &str) -> Result<&'static str, String> {
    let lower = level.to_ascii_lowercase();
    let name = if lower == "warning" { "warn" } else { &lower };
    let found = LEVELS.iter().find(|known| **known == name);
    found.copied().ok_or_else(|| no_level(level))
}

fn no_level(text: &str) -> String {
    format!("{text:?} is no level; use one of {}", LEVELS.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_is_about_us() {
        for (level, want) in [
            ("info", "warn,erolith=info"),
            ("TRACE", "warn,erolith=trace"),
            ("warn", "warn"),
            ("Warning", "warn"),
            ("off", "off"),
            ("h2=debug, info", "h2=debug,info"),
            ("info,erolith_snapshotter=debug", "info,erolith_snapshotter=debug"),
        ] {
            let directives = directives(level).unwrap();
            assert_eq!(directives, want);
            assert!(EnvFilter::builder().parse(directives).is_ok(), "{level}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for (level, named) in [
            ("verbose", "verbose"),
            ("", ""),
            ("info,loud", "loud"),
            ("erolith=loud", "loud"),
            ("erolith", "erolith"),
        ] {
            let log = Log { level: level.into(), ..Log::default() };
            let error = start(&log).unwrap_err().to_string();
            assert!(error.contains(&format!("{named:?} is no level; use one of off, ")), "{error}");
        }
    }
}
