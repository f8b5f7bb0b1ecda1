//! Which containerd it is, and what it can do.

use tonic::transport::Channel;

use super::{Containerd, Error, Result, Scope};
use crate::proto::version::version_client::VersionClient;

/// Major and minor number of the first containerd that runs images with EROFS layers as they are: its unpacker knows
/// platforms with the feature `erofs` (`unpack_config` of the transfer service).
const RUNS_EROFS: (u64, u64) = (2, 3);

/// What is said where no containerd is asked.
pub(crate) const RUNS_EROFS_NOTE: &str =
    "images with EROFS layers run on containerd 2.3 and later; 2.2 and older do not run them";

/// Whether a containerd runs images with EROFS layers. One that says no number is taken for a new one.
pub(crate) fn runs_erofs(version: &str) -> bool {
    numbers(version).is_none_or(|numbers| numbers >= RUNS_EROFS)
}

/// Major and minor number, as in `v2.1.9`, `2.1.4~ds1` and `2.4.0-beta.0`.
fn numbers(version: &str) -> Option<(u64, u64)> {
    let text = version.strip_prefix('v').unwrap_or(version);
    let (major, rest) = text.split_once('.')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest.get(..end)?.parse().ok()?))
}

impl Containerd {
    /// The version that containerd says it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn version(&self, scope: &Scope) -> Result<String> {
        let mut client: VersionClient<Channel> = VersionClient::new(self.channel.clone());
        let answer = self.wait(client.version(scope.request(())));
        Ok(answer.map_err(Error::answer("asking for its version"))?.into_inner().version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_2_3_do_not_run_erofs_layers() {
        for (version, runs) in [
            ("v1.7.24", false),
            ("1.7.24~ds1", false),
            ("v2.1.9", false),
            ("2.1.4~ds1-8", false),
            ("v2.2.0-rc.1", false),
            ("v2.3.0", true),
            ("2.3", true),
            ("v2.4.0-beta.0-12-g301026e58", true),
            ("v2.10.0", true),
            ("v3.0.0", true),
            ("", true),
            ("main", true),
            ("2", true),
            ("2.x", true),
        ] {
            assert_eq!(runs_erofs(version), runs, "{version}");
        }
    }
}
