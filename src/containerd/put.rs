//! Documents into containerd's content store.

use erolith_differ::Digest;
use prost::bytes::Bytes;
use tonic::{Code, Status};

use super::labels::Labels;
use super::lease::Leased;
use super::{Containerd, Error, Result};
use crate::proto::content::{WriteAction, WriteContentRequest};

impl Containerd {
    /// Stores a document, which fits into one message. It has these labels then, whether it was there before or not, and
    /// is under the lease.
    ///
    /// # Errors
    /// When containerd does not take it.
    pub(crate) fn put(&self, leased: &Leased, bytes: Vec<u8>, labels: &Labels) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        let failed = || Error::answer(format!("writing document {digest}"));
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: format!("erolith-document-{}", uuid::Uuid::new_v4()),
            total: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            expected: digest.to_string(),
            offset: 0,
            data: Bytes::from(bytes),
            labels: labels.clone(),
        };
        let request = leased.scope().request(tokio_stream::iter([message]));
        let mut content = self.content.clone();
        let written = self.wait(async move {
            let mut answers = content.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<_, Status>(())
        });
        match written {
            Ok(()) => {}
            Err(status) if status.code() == Code::AlreadyExists => {
                self.protect(leased, &digest.to_string())?;
                self.label(leased.scope(), &digest, labels.clone())?;
            }
            Err(status) => return Err(failed()(status)),
        }
        Ok(digest)
    }
}
