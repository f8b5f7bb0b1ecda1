//! Telling how far reading came.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

/// A callback for bytes as they are read, from any thread: their number since the last call.
#[derive(Clone, Default)]
pub struct OnBytes(Option<Arc<dyn Fn(u64) + Send + Sync>>);

impl OnBytes {
    /// Calls `tell`.
    pub fn new(tell: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Tells of `bytes` more.
    pub fn tell(&self, bytes: u64) {
        if let Some(tell) = &self.0 {
            tell(bytes);
        }
    }
}

impl fmt::Debug for OnBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnBytes").field(&self.0.is_some()).finish()
    }
}

/// A source that tells of what is read.
pub(crate) struct WatchedReader<R> {
    pub(crate) inner: R,
    pub(crate) told: OnBytes,
}

impl<R: Read> Read for WatchedReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.told.tell(n as u64);
        Ok(n)
    }
}
