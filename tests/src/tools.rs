//! Programs that tests compare with, and what to do where they are missing.

use std::io::Write as _;
use std::path::PathBuf;

/// Where `testdata/*.sh` leaves what it makes: `$EROLITH_CACHE`, or a fixed place.
pub fn cache() -> PathBuf {
    std::env::var_os("EROLITH_CACHE").map_or_else(|| "/var/cache/erolith".into(), PathBuf::from)
}

/// A program in the cache's `bin`.
///
/// # Errors
/// What is missing and what makes it, for [`crate::need!`].
pub fn program(name: &str) -> Result<PathBuf, String> {
    cached(&format!("bin/{name}"), "testdata/sid-root.sh")
}

/// What the script `maker` leaves in the cache under this name.
///
/// # Errors
/// What is missing and what makes it, for [`crate::need!`].
pub fn cached(name: &str, maker: &str) -> Result<PathBuf, String> {
    let path = cache().join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(format!("{} is missing: run {maker}", path.display()))
}

/// Says why a test, or a part of one, does not run here. In CI that is a failure: there, everything must run.
///
/// # Panics
/// When the environment says `CI=true`.
pub fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    relay(&format!("skipped: {name}: {why}"));
    assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI everything must run, but: {why}");
}

/// Says something straight to standard error: what the print macros write is swallowed for tests that pass.
pub fn relay(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Unwraps a `Result<T, String>` that says why something cannot run here, or skips the test.
#[macro_export]
macro_rules! need {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(why) => {
                $crate::tools::skipped(&why);
                return;
            }
        }
    };
}
