//! Blobs to read: straight from the store's directory where that is possible, else as a stream of messages.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use erolith_differ::Digest;
use erolith_differ::apply::layer::LayerInput;
use erolith_differ::content::Blob;
use prost::bytes::{Buf, Bytes};
use rustix::fs::OFlags;
use tokio::runtime::Handle;
use tonic::{Code, Status, Streaming};

use super::error::{Error, Result};
use super::{Containerd, Scope, wait};
use crate::proto::content::{ReadContentRequest, ReadContentResponse};

/// Where containerd's local store keeps a blob (plugins/content/local).
fn path_below(root: &Path, digest: &Digest) -> PathBuf {
    root.join("io.containerd.content.v1.content/blobs")
        .join(digest.algorithm().name())
        .join(digest.hex())
}

/// The file of a blob, if it is there with that size.
fn open_file(root: &Path, digest: &Digest, size: u64) -> Option<Blob> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).ok()?;
    let path = path_below(root, digest);
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    (metadata.is_file() && metadata.len() == size).then(|| Blob::new(Arc::new(file), 0, size))
}

impl Containerd {
    /// Opens a blob of `size` bytes, which are not verified by that: in the store below `root`, unless that is empty,
    /// else through the service.
    ///
    /// # Errors
    /// When containerd does not have it, or does not answer.
    pub(crate) fn open(
        &self,
        scope: &Scope,
        root: &Path,
        digest: &Digest,
        size: u64,
    ) -> Result<LayerInput> {
        let direct = Some(root).filter(|root| !root.as_os_str().is_empty());
        if let Some(blob) = direct.and_then(|root| open_file(root, digest, size)) {
            return Ok(LayerInput::Stored(blob));
        }
        let failed = || Error::answer(format!("reading blob {digest}"));
        let whole = ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let mut content = self.content.clone();
        let mut messages =
            self.wait(content.read(scope.request(whole))).map_err(failed())?.into_inner();
        // containerd says only with the first message whether there is such a blob.
        let first = self.wait(messages.message()).map_err(failed())?;
        let current = first.map(|message| message.data).unwrap_or_default();
        let runtime = self.runtime.clone();
        Ok(LayerInput::Stream(Box::new(Stream { runtime, messages, current })))
    }

    /// The first bytes of a blob, not verified, and at most `limit`.
    ///
    /// # Errors
    /// When containerd does not have it, or does not answer.
    pub(crate) fn head(&self, scope: &Scope, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let failed = || Error::answer(format!("reading blob {digest}"));
        let size = i64::try_from(limit).unwrap_or(i64::MAX);
        let part = ReadContentRequest { digest: digest.to_string(), offset: 0, size };
        let mut content = self.content.clone();
        let messages = self.wait(content.read(scope.request(part))).map_err(failed())?.into_inner();
        let stream = Stream { runtime: self.runtime.clone(), messages, current: Bytes::new() };
        let mut bytes = Vec::new();
        let read = stream.take(limit).read_to_end(&mut bytes);
        read.map_err(|e| failed()(Status::unavailable(e.to_string())))?;
        Ok(bytes)
    }

    /// The bytes of a blob, not verified; `None` where there is no such blob in the caller's namespace.
    ///
    /// # Errors
    /// When there are more than `limit`, or containerd does not answer.
    pub(crate) fn bytes(
        &self,
        scope: &Scope,
        digest: &Digest,
        limit: u64,
    ) -> Result<Option<Vec<u8>>> {
        let source = match self.open(scope, Path::new(""), digest, 0) {
            Err(error) if error.code() == Code::NotFound => return Ok(None),
            source => source?,
        };
        let failed = || Error::answer(format!("reading blob {digest}"));
        let LayerInput::Stream(stream) = source else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = stream.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|e| failed()(Status::unavailable(e.to_string())))?;
        if bytes.len() as u64 > limit {
            return Err(failed()(Status::out_of_range(format!("more than {limit} bytes"))));
        }
        Ok(Some(bytes))
    }
}

/// The bytes of a blob as containerd sends them.
#[derive(Debug)]
struct Stream {
    runtime: Handle,
    messages: Streaming<ReadContentResponse>,
    current: Bytes,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match wait(&self.runtime, self.messages.message()).map_err(io_error)? {
                Some(message) => self.current = message.data,
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(buf.len());
        if let Some(buf) = buf.get_mut(..n) {
            self.current.copy_to_slice(buf);
        }
        Ok(n)
    }
}

/// What a stream broke off with.
fn io_error(status: Status) -> io::Error {
    let kind = match status.code() {
        Code::NotFound => io::ErrorKind::NotFound,
        Code::DeadlineExceeded => io::ErrorKind::TimedOut,
        Code::Unavailable => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("containerd: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_plain_files_are_taken() {
        let root = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"abc");
        let path = path_below(root.path(), &digest);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        assert!(open_file(root.path(), &digest, 3).is_none(), "not there");
        std::fs::copy(file_with(root.path(), b"abc"), &path).unwrap();
        let blob = open_file(root.path(), &digest, 3).unwrap();
        assert_eq!(blob.len(), 3);
        assert!(open_file(root.path(), &digest, 4).is_none(), "another size");
        let target = path.with_extension("target");
        std::fs::rename(&path, &target).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(open_file(root.path(), &digest, 3).is_none(), "a link");
    }

    fn file_with(dir: &Path, bytes: &[u8]) -> PathBuf {
        let path = dir.join("file");
        io::Write::write_all(&mut File::create(&path).unwrap(), bytes).unwrap();
        path
    }
}
