//! Fault points, with the errors of this crate.

use crate::{Error, Result};

/// Passes the point `name` of [`erolith_durable::fault::SNAPSHOT_POINTS`].
///
/// # Errors
/// The armed error, as [`Error::Storage`]. Without the feature `faults` of that crate: never.
#[inline(always)]
pub(crate) fn point(name: &'static str) -> Result<()> {
    erolith_durable::fault::point(name)
        .map_err(|source| Error::Storage { action: name.to_owned(), source })
}
