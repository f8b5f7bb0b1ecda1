//! Blobs against the digests that name them.

use std::io;

use erolith_mkfs::io::ReadAt;

use crate::content::{Blob, require_digest};
use crate::decode::Cancel;
use crate::error::MismatchError;
use crate::{Algorithm, Digest, Error, Hasher, Result};

/// Digests all of `from`, and shows every part of it to `each`.
pub(super) fn hash_all(
    from: &dyn ReadAt,
    algorithm: Algorithm,
    cancel: &Cancel,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buf = vec![0; 256 * 1024];
    let mut offset = 0;
    loop {
        cancel.check()?;
        let n = match from.read_at(&mut buf, offset) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io("reading a blob")(e)),
        };
        let part = buf.get(..n).unwrap_or_default();
        hasher.update(part);
        each(part)?;
        offset += n as u64;
    }
}

/// Verifies that a blob is what its descriptor says. All of it is read.
///
/// # Errors
/// [`crate::error::MismatchError::BlobSize`], [`crate::error::MismatchError::BlobDigest`], [`Error::Cancelled`], and what the storage reports.
pub fn verify_blob(blob: &Blob, digest: &Digest, size: u64, cancel: &Cancel) -> Result<()> {
    blob.require_size(digest, size)?;
    require_digest(digest, hash_all(blob, digest.algorithm(), cancel, &mut |_| Ok(()))?)
}

/// Why work on `blob` failed, which ended with `error`: that its bytes do not have the digest that names them, or else
/// `error`. All of the blob is read.
pub fn explain(blob: &Blob, digest: &Digest, error: Error, cancel: &Cancel) -> Error {
    match verify_blob(blob, digest, blob.len(), cancel) {
        Err(found @ (Error::Mismatch(MismatchError::BlobDigest { .. }) | Error::Cancelled)) => {
            found
        }
        _ => error,
    }
}
