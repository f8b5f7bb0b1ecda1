//! `Diff`: what one side shows and the other does not becomes a blob in containerd's content store.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use erolith_differ::Compression;
use erolith_differ::compare::{self, Compare, Compared, LayerFormat};
use erolith_differ::decode::Cancel;
use erolith_overlay::{OverlayLayer, Owners, Stack as Layers};
use erolith_snapshotter::ServiceError;
use erolith_snapshotter::layerdir::{IMAGE, MARKER, RWLAYER, UPPER};
use tracing::info;

use super::differ::Differ;
use crate::containerd::Scope;
use crate::containerd::labels::Labels;
use crate::containerd::upload::UploadInfo;
use crate::proto::diff::DiffRequest;
use crate::proto::types::Descriptor;
use crate::serve::calls::from_mounts;
use crate::serve::error::{Error, Result};
use crate::term::image_time;
use erolith_snapshotter::api_mounts::{LowerRef, Stack, WritableTop};

/// What is asked for. No media type means gzip, as in containerd.
fn format_of(asked: &str) -> Result<LayerFormat> {
    let is_it = |format: &LayerFormat| format.media_type() == asked;
    match asked {
        "" => Ok(LayerFormat::Tar(Compression::Gzip)),
        _ => LayerFormat::ALL
            .into_iter()
            .find(is_it)
            .ok_or_else(|| Error::MediaType(asked.to_owned())),
    }
}

const FOREIGN: Error = Error::NotOurs("the mounts are of a kind that is not read here");

/// Layers that are open, each once: what both sides have is then known to be the same.
#[derive(Default)]
pub(crate) struct Opened(BTreeMap<LowerRef, Arc<OverlayLayer>>);

impl Opened {
    fn lower(&mut self, lower: &LowerRef) -> Result<Arc<OverlayLayer>> {
        if let Some(layer) = self.0.get(lower) {
            return Ok(Arc::clone(layer));
        }
        let layer = match lower {
            LowerRef::Image(path) => open_image(path)?,
            LowerRef::Dir(path) => compare::directory(path)?,
        };
        self.0.insert(lower.clone(), Arc::clone(&layer));
        Ok(layer)
    }

    /// What `stack` has below.
    pub(crate) fn lowers(&mut self, stack: &Stack) -> Result<Layers> {
        let layers = stack.lowers.iter().map(|lower| self.lower(lower)).collect::<Result<_>>()?;
        Ok(Layers::new(layers, stack.marks))
    }
}

fn open_image(path: &Path) -> Result<Arc<OverlayLayer>> {
    let failed = |source| Error::Storage { action: "opening", path: path.to_owned(), source };
    let layer = OverlayLayer::image(Arc::new(File::open(path).map_err(failed)?));
    Ok(layer.map_err(erolith_differ::Error::from)?)
}

/// Whether nothing was written into the directory of a snapshot.
fn is_empty(dir: &Path) -> bool {
    let is_empty = std::fs::read_dir(dir.join(UPPER)).is_ok_and(|mut names| names.next().is_none());
    is_empty && !dir.join(RWLAYER).exists()
}

impl Differ {
    /// Makes a blob of what `right` has and `left` has not.
    pub(super) fn compare(
        &self,
        request: DiffRequest,
        scope: &Scope,
        start: Instant,
        cancel: &Cancel,
    ) -> Result<Descriptor> {
        let format = format_of(&request.media_type)?;
        let stack = |mounts| self.mounts.stack(&from_mounts(mounts)).ok_or(FOREIGN);
        let latest = request.source_date_epoch.map(|time| image_time(time.seconds)).transpose();
        let latest =
            latest.map_err(|error| Error::Request(format!("source_date_epoch: {error}")))?;
        let (mut left, right) = (stack(request.left)?, stack(request.right)?);
        left.top = left.top.filter(|top| !matches!(top, WritableTop::Ours(dir) if is_empty(dir)));
        let mut opened = Opened::default();
        let (old, _) = self.layers(&left, &mut opened)?;
        let (new, owners) = self.layers(&right, &mut opened)?;
        let mut upload = self.containerd.upload(scope, &request.r#ref)?;
        let compare = Compare {
            source_date_epoch: latest,
            owners,
            scratch: self.scratch.clone(),
            cancel: cancel.clone(),
            ..Compare::new(format)
        };
        let compared = compare.write(&old, &new, &mut upload)?;
        let Compared { digest, diff_id, size, entries, .. } = compared;
        let written = UploadInfo { digest: &digest, diff_id: &diff_id, size };
        let leased = upload.commit(&written, request.labels, Labels::new())?;
        self.containerd.hand_over(&leased, &digest.to_string(), &request.r#ref)?;
        let took = start.elapsed();
        self.metrics.compared(took, size);
        info!(blob = %digest, %diff_id, bytes = size, entries, ?took, "compared");
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let (media_type, digest) = (format.media_type(), digest.to_string());
        Ok(Descriptor { media_type, digest, size, ..Descriptor::default() })
    }

    /// The layers that one side is made of, and whose numbers the owners in the topmost are.
    fn layers(&self, stack: &Stack, opened: &mut Opened) -> Result<(Layers, Owners)> {
        let lowers = opened.lowers(stack)?;
        let (upper, owners) = match &stack.top {
            None => return Ok((lowers, Owners::default())),
            Some(WritableTop::Dir { upper, work }) => {
                (compare::upper(upper, work.as_deref())?, Owners::default())
            }
            Some(WritableTop::Ours(dir)) => match self.snapshotter.written_in(dir) {
                // A view of nothing is a directory of its own.
                Err(erolith_snapshotter::Error::Service(ServiceError::Finished { .. }))
                    if is_empty(dir) =>
                {
                    return Ok((lowers, Owners::default()));
                }
                // With an image, the directory is not what the snapshot shows.
                _ if !dir.join(MARKER).is_file() || dir.join(IMAGE).exists() => {
                    return Err(FOREIGN);
                }
                written => {
                    let written = written?.ok_or(FOREIGN)?;
                    (compare::opened_upper(written.upper, written.index), written.owners)
                }
            },
        };
        Ok((lowers.with_upper(upper), owners))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_containerd_knows_are_made() {
        const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
        const EROFS: &str = "application/vnd.erofs.layer.v1";
        for (asked, made) in [
            ("", Some(format!("{TAR}+gzip"))),
            (TAR, Some(TAR.to_owned())),
            (&format!("{TAR}+zstd"), Some(format!("{TAR}+zstd"))),
            (&format!("{TAR}+xz"), None),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", None),
            (EROFS, Some(EROFS.to_owned())),
            (&format!("{EROFS}+zstd"), Some(format!("{EROFS}+zstd"))),
            (&format!("{EROFS}+gzip"), None),
        ] {
            let got = format_of(asked);
            assert_eq!(got.as_ref().ok().map(|format| format.media_type()), made);
            if let Err(error) = got {
                assert_eq!(error.code(), tonic::Code::Unimplemented);
            }
        }
    }
}
