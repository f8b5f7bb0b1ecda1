//! Which containerd this is, for what depends on it and shows in no call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::{Request, Status};
use tracing::debug;

use super::{Containerd, Result};
use crate::proto::version::version_client::VersionClient;

/// How long an answer holds: containerd may be upgraded while this daemon goes on.
const LIFETIME: Duration = Duration::from_secs(60);

/// Major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Version {
    /// Reads `v2.4.0-beta.0`, `2.1.9~ds1` and the like; nothing for what does not begin with two numbers.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix('v').unwrap_or(text).splitn(3, '.');
        let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?);
        let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        Some(Self { major, minor: minor.get(..digits)?.parse().ok()? })
    }
}

/// The first containerd that runs images with EROFS layers as they are: its unpacker knows platforms with the feature `erofs`
/// (`unpack_config` of the transfer service).
const RUNS_EROFS: Version = Version { major: 2, minor: 3 };

/// The warning where no containerd is asked.
pub(crate) const RUNS_EROFS_NOTE: &str =
    "images with EROFS layers run on containerd 2.3 and later; 2.2 and older do not run them";

impl Version {
    /// Whether this containerd runs images with EROFS layers.
    pub(crate) fn runs_erofs(self) -> bool {
        self >= RUNS_EROFS
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The last answer, and when it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Arc<Mutex<Option<(Instant, Version)>>>);

impl Containerd {
    /// The version of containerd; nothing when it does not say.
    pub(crate) fn version(&self) -> Option<Version> {
        let mut known = self.known.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, version)) = *known
            && at.elapsed() < LIFETIME
        {
            return Some(version);
        }
        let version = self.ask_version().inspect_err(|error| debug!(%error, "no version")).ok()?;
        let version = Version::parse(&version)?;
        *known = Some((Instant::now(), version));
        Some(version)
    }

    fn ask_version(&self) -> Result<String> {
        let mut client = VersionClient::new(self.channel.clone());
        let answer = self.wait(async { client.version(Request::new(())).await });
        let failed = |status: Status| super::Error::answer("saying its version")(status);
        Ok(answer.map_err(failed)?.into_inner().version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_2_3_do_not_run_erofs_layers() {
        for (text, runs) in [
            ("v1.7.24", false),
            ("2.1.4~ds1-8", false),
            ("v2.2.0-rc.1", false),
            ("v2.3.0", true),
            ("v2.10.0", true),
            ("v3.0.0", true),
        ] {
            assert_eq!(Version::parse(text).map(Version::runs_erofs), Some(runs), "{text}");
        }
    }

    #[test]
    fn versions_of_distributions_and_of_builds_are_read() {
        for (text, want) in [
            ("v2.4.0-beta.0", Some((2, 4))),
            ("2.3.4", Some((2, 3))),
            ("2.1.9~ds1", Some((2, 1))),
            ("1.7.24~ds1-6+b4", Some((1, 7))),
            ("2.4+unknown", Some((2, 4))),
            ("10.0", Some((10, 0))),
            ("2", None),
            ("2.x", None),
            ("unknown", None),
            ("", None),
        ] {
            let got = Version::parse(text).map(|v| (v.major, v.minor));
            assert_eq!(got, want, "{text}");
        }
    }
}
