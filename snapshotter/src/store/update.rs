//! Labels as an update leaves them: what the mask says, decided without the database.

use super::error::{Error, Result, SnapshotError};
use super::types::{Labels, UpdateMask};

/// The labels that count. containerd's store keeps no empty values, so a label with one is no label.
pub(crate) fn without_empty(labels: &Labels) -> Labels {
    labels.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The labels after an update: `current` as stored, `given` in the request.
///
/// Paths work in their order. In `labels.<name>` the name is all that follows, dots included.
///
/// # Errors
/// [`SnapshotError::BadFieldPath`] for everything that is not a label.
pub(super) fn updated(current: Labels, given: &Labels, mask: &UpdateMask) -> Result<Labels> {
    let paths = match mask {
        UpdateMask::Paths(paths) if !paths.is_empty() => paths,
        _ => return Ok(without_empty(given)),
    };
    let mut labels = current;
    for path in paths {
        if path == "labels" {
            labels = given.clone();
            continue;
        }
        let name = path.strip_prefix("labels.").filter(|name| !name.is_empty());
        let Some(name) = name else {
            return Err(Error::Snapshot(SnapshotError::BadFieldPath { path: path.clone() }));
        };
        match given.get(name) {
            Some(value) => labels.insert(name.to_owned(), value.clone()),
            None => labels.remove(name),
        };
    }
    Ok(without_empty(&labels))
}
