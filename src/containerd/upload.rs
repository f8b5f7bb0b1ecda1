//! A blob on its way into containerd's content store.

use std::io::{self, Write};

use erolith_differ::Digest;
use prost::bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::error::{Error, Result};
use super::labels::{Labels, UNCOMPRESSED};
use super::lease::Leased;
use super::{Containerd, Scope};
use crate::proto::content::{AbortRequest, WriteAction, WriteContentRequest};

/// Bytes in one message.
const CHUNK: usize = 1 << 20;
/// What the names of our own ingests begin with, and those that our own commands give.
pub(crate) const OWN_REFERENCE: &str = "erolith-diff-";
/// Messages on their way.
const MESSAGES: usize = 4;

/// What was written turned out to be this.
#[derive(Debug)]
pub(crate) struct UploadInfo<'a> {
    /// Its digest.
    pub(crate) digest: &'a Digest,
    /// What it decompresses to.
    pub(crate) diff_id: &'a Digest,
    /// Its bytes.
    pub(crate) size: u64,
}

/// A blob whose digest becomes known while it is written. Dropped before [`Upload::commit`] it leaves nothing.
#[derive(Debug)]
pub(crate) struct Upload {
    containerd: Containerd,
    leased: Leased,
    reference: String,
    /// Whether the name of the ingest was made here, so that this upload aborts it.
    own_reference: bool,
    messages: Option<Sender<WriteContentRequest>>,
    answers: Option<JoinHandle<Result<(), Status>>>,
    buffer: BytesMut,
    /// Bytes sent.
    sent: u64,
    committed: bool,
}

impl Containerd {
    /// Begins a blob. `reference` names the ingest; empty: a name of its own. An ingest of ours is aborted when nothing
    /// comes of it.
    ///
    /// # Errors
    /// When containerd gives no lease.
    pub(crate) fn upload(&self, scope: &Scope, reference: &str) -> Result<Upload> {
        let reference = match reference {
            "" => format!("{OWN_REFERENCE}{}", uuid::Uuid::new_v4()),
            given => given.to_owned(),
        };
        let own_reference = reference.starts_with(OWN_REFERENCE);
        let leased = self.leased(scope)?;
        let (messages, outgoing) = channel(MESSAGES);
        let request = leased.scope.request(ReceiverStream::new(outgoing));
        let mut content = self.content.clone();
        let answers = self.runtime.spawn(async move {
            let mut answers = content.write(request).await?.into_inner();
            // Each message is answered; unread answers would hold containerd up.
            while answers.message().await?.is_some() {}
            Ok(())
        });
        Ok(Upload {
            containerd: self.clone(),
            leased,
            reference,
            own_reference,
            messages: Some(messages),
            answers: Some(answers),
            buffer: BytesMut::with_capacity(CHUNK),
            sent: 0,
            committed: false,
        })
    }
}

impl Upload {
    fn message(&self, action: WriteAction, data: Bytes) -> WriteContentRequest {
        WriteContentRequest {
            action: action.into(),
            r#ref: self.reference.clone(),
            offset: i64::try_from(self.sent).unwrap_or(i64::MAX),
            data,
            ..WriteContentRequest::default()
        }
    }

    fn send(&mut self, message: WriteContentRequest) -> io::Result<()> {
        let len = message.data.len() as u64;
        let sender = self.messages.as_ref();
        let sent = sender.is_some_and(|sender| sender.blocking_send(message).is_ok());
        if !sent {
            return Err(io::Error::other(self.why_it_broke_off()));
        }
        self.sent += len;
        Ok(())
    }

    fn flush_buffer(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK)).freeze();
        self.send(self.message(WriteAction::Write, data))
    }

    fn why_it_broke_off(&mut self) -> String {
        match self.answer() {
            Err(status) => format!("containerd: {}", status.message()),
            Ok(()) => "containerd ended the upload early".to_owned(),
        }
    }

    /// Waits for the last answer.
    fn answer(&mut self) -> Result<(), Status> {
        self.messages = None;
        let Some(answers) = self.answers.take() else { return Ok(()) };
        let died = |_| Err(Status::internal("the upload died"));
        self.containerd.wait(async { answers.await.unwrap_or_else(died) })
    }

    /// Commits what was written, with `labels` and the one that says what it decompresses to. A blob that was there
    /// already gets that one and those of `always` that it does not have. Returns what keeps the blob from being
    /// collected: a lease of ours, which ends by itself, or is given up when something else keeps the blob.
    ///
    /// # Errors
    /// When containerd does not take it.
    pub(crate) fn commit(
        mut self,
        written: &UploadInfo<'_>,
        mut labels: Labels,
        mut always: Labels,
    ) -> Result<Leased> {
        let UploadInfo { digest, diff_id, size } = *written;
        let failed = || Error::answer(format!("writing blob {digest}"));
        let broken = |e: io::Error| failed()(Status::unavailable(e.to_string()));
        always.insert(UNCOMPRESSED.to_owned(), diff_id.to_string());
        labels.extend(always.clone());
        self.flush_buffer().map_err(broken)?;
        let commit = WriteContentRequest {
            total: i64::try_from(size).unwrap_or(i64::MAX),
            expected: digest.to_string(),
            labels,
            ..self.message(WriteAction::Commit, Bytes::new())
        };
        self.send(commit).map_err(broken)?;
        let already = match self.answer() {
            Ok(()) => false,
            Err(status) if status.code() == Code::AlreadyExists => true,
            Err(status) => return Err(failed()(status)),
        };
        self.committed = true;
        if already {
            self.containerd.protect(&self.leased, &digest.to_string())?;
        }
        self.containerd.complete(&self.leased.scope, digest, always)?;
        Ok(self.leased.clone())
    }
}

impl Write for Upload {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(CHUNK.saturating_sub(self.buffer.len()));
        self.buffer.extend_from_slice(buf.get(..n).unwrap_or_default());
        if self.buffer.len() >= CHUNK {
            self.flush_buffer()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        self.messages = None;
        if let Some(answers) = self.answers.take() {
            answers.abort();
        }
        if self.own_reference {
            let abort = AbortRequest { r#ref: self.reference.clone() };
            let mut content = self.containerd.content.clone();
            let aborted = self.containerd.wait(content.abort(self.leased.scope.request(abort)));
            if let Err(status) = aborted {
                tracing::debug!(%status, "an upload could not be aborted");
            }
        }
        self.containerd.give_up(&self.leased);
    }
}
