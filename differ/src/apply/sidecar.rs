//! The file beside the image of a layer that says how to open its dm-verity device.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use erolith_verity::dmverity::sidecar::{SUFFIX, Sidecar};
use erolith_verity::dmverity::{DmVerityTree, Signature};

use crate::content::Staging as _;
use crate::publish::{Durability, OutputFile, READABLE};
use crate::{Error, Result};

/// The sidecar of the image called `image`.
#[must_use]
pub fn path_of(image: &Path) -> PathBuf {
    let mut name = OsString::from(image);
    name.push(SUFFIX);
    name.into()
}

/// Writes the sidecar of the image that is about to be called `image`, or takes away the one of an image before it. It
/// goes first: an image is never without what protects it.
///
/// # Errors
/// What the storage reports.
pub fn publish(
    image: &Path,
    verity: Option<&DmVerityTree>,
    signature: Option<&Signature>,
    durability: Durability,
) -> Result<()> {
    let path = path_of(image);
    let Some(verity) = verity else {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", path.display()))(e))
            }
            _ => Ok(()),
        };
    };
    let pending = OutputFile::create(&path, READABLE)?;
    let written = pending.file().write_all(&Sidecar::from(verity).to_bytes(signature));
    written.map_err(Error::io(format!("writing {}", path.display())))?;
    pending.publish(durability)
}
