//! The thread that gives a blob to the first processor and verifies it on the way.

use std::io::{self, Read as _, Write as _};
use std::process::ChildStdin;

use super::ProcessorInput;
use crate::error::MismatchError;
use crate::{Error, Hasher, Result};

/// Bytes given at a time.
const PIECE: usize = 256 << 10;

/// Writes the blob to `stdin`. A processor need not read all of it; the rest is verified nevertheless.
///
/// # Errors
/// [`crate::error::MismatchError::BlobSize`], [`crate::error::MismatchError::BlobDigest`], [`Error::Cancelled`], and what reading reports.
pub(super) fn feed(input: ProcessorInput, stdin: ChildStdin) -> Result<()> {
    let ProcessorInput { mut source, digest, size, cancel } = input;
    let mut hasher = Hasher::new(digest.algorithm());
    let (mut stdin, mut total) = (Some(stdin), 0u64);
    let mut buf = vec![0; PIECE];
    let wrong_size = |actual| {
        Error::Mismatch(MismatchError::BlobSize { digest: digest.clone(), expected: size, actual })
    };
    loop {
        cancel.check()?;
        let n = match source.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::reading("reading the blob", e)),
        };
        let part = buf.get(..n).unwrap_or_default();
        total = total.saturating_add(n as u64);
        if total > size {
            return Err(wrong_size(total));
        }
        hasher.update(part);
        match stdin.as_mut().map(|stdin| stdin.write_all(part)) {
            Some(Err(e)) if e.kind() == io::ErrorKind::BrokenPipe => stdin = None,
            Some(Err(e)) => return Err(Error::io("writing to a processor")(e)),
            Some(Ok(())) | None => {}
        }
    }
    if total != size {
        return Err(wrong_size(total));
    }
    let actual = hasher.finish();
    if actual != digest {
        return Err(Error::Mismatch(MismatchError::BlobDigest { expected: digest, actual }));
    }
    Ok(())
}
