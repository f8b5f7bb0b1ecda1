//! What containerd's content store knows of a blob: its size and its labels, which are of one namespace.

use std::collections::BTreeMap;

use erolith_differ::Digest;
use prost_types::FieldMask;
use tonic::{Code, Status};

use super::error::{Error, Result};
use super::{Containerd, Scope};
use crate::proto::content::{Info, InfoRequest, ListContentRequest, UpdateRequest};

/// The label of a blob that says what it decompresses to (core/labels of containerd).
pub(crate) const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Labels by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// Those of `wanted` that `there` does not have at all.
fn missing(there: &Labels, wanted: Labels) -> Labels {
    wanted.into_iter().filter(|(name, _)| !there.contains_key(name)).collect()
}

impl Containerd {
    /// What is known of a blob, or `None` where there is no such blob in the caller's namespace.
    ///
    /// # Errors
    /// When containerd does not say.
    pub(crate) fn info(&self, scope: &Scope, digest: &Digest) -> Result<Option<Info>> {
        let info = InfoRequest { digest: digest.to_string() };
        match self.wait(self.content.clone().info(scope.request(info))) {
            Ok(answer) => Ok(Some(answer.into_inner().info.unwrap_or_default())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(Error::answer(format!("examining blob {digest}"))(status)),
        }
    }

    /// The blobs of the caller's namespace that are labelled with what they decompress to, and that: those with this
    /// diffID, or all.
    ///
    /// # Errors
    /// When containerd does not say.
    pub(crate) fn uncompressed(
        &self,
        scope: &Scope,
        diff_id: Option<&Digest>,
    ) -> Result<Vec<(Digest, Digest)>> {
        let filter = match diff_id {
            Some(diff_id) => format!("labels.\"{UNCOMPRESSED}\"=={diff_id}"),
            None => format!("labels.\"{UNCOMPRESSED}\""),
        };
        let failed = || Error::answer("listing blobs");
        let request = scope.request(ListContentRequest { filters: vec![filter] });
        let mut messages =
            self.wait(self.content.clone().list(request)).map_err(failed())?.into_inner();
        let mut found = Vec::new();
        while let Some(message) = self.wait(messages.message()).map_err(failed())? {
            let pair = |info: Info| {
                Some((info.digest.parse().ok()?, info.labels.get(UNCOMPRESSED)?.parse().ok()?))
            };
            found.extend(message.info.into_iter().filter_map(pair));
        }
        Ok(found)
    }

    /// Gives a blob labels, those that it has included.
    ///
    /// # Errors
    /// When the blob is gone, or containerd refuses.
    pub(crate) fn label(&self, scope: &Scope, digest: &Digest, labels: Labels) -> Result<()> {
        let paths = labels.keys().map(|name| format!("labels.{name}")).collect();
        let update = UpdateRequest {
            info: Some(Info { digest: digest.to_string(), labels, ..Info::default() }),
            update_mask: Some(FieldMask { paths }),
        };
        let updated = self.wait(self.content.clone().update(scope.request(update)));
        updated.map(drop).map_err(Error::answer(format!("labelling blob {digest}")))
    }

    /// Gives a blob those of the labels that it does not have, whatever value they have there.
    ///
    /// # Errors
    /// When the blob is gone, or containerd refuses.
    pub(super) fn complete(&self, scope: &Scope, digest: &Digest, labels: Labels) -> Result<()> {
        let gone = || Status::not_found("it is gone");
        let failed = || Error::answer(format!("labelling blob {digest}"));
        let there = self.info(scope, digest)?.ok_or_else(|| failed()(gone()))?.labels;
        let missing = missing(&there, labels);
        if missing.is_empty() { Ok(()) } else { self.label(scope, digest, missing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_is_there_stays() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let there = labels(&[("a", "1"), ("b", "")]);
        let wanted = labels(&[("a", "2"), ("b", "2"), ("c", "2")]);
        assert_eq!(missing(&there, wanted), labels(&[("c", "2")]));
    }
}
