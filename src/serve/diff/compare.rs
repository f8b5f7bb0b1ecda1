//! A layer goes out: what a snapshot holds above its layers becomes a blob in containerd's content store.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use erolith_differ::compare::{Compare, Compared, Kind};
use erolith_differ::decode::Cancel;
use erolith_differ::{Compression, OCI_LAYER};
use erolith_snapshotter::layerdir::{IMAGE, MARKER, RWLAYER, UPPER};
use erolith_snapshotter::service::Mount;
use tracing::info;

use super::Differ;
use super::stack::Stack;
use crate::serve::containerd::Scope;
use crate::serve::containerd::labels::Labels;
use crate::serve::containerd::upload::Written;
use crate::serve::error::{Error, Result};
use crate::serve::proto::diff::DiffRequest;
use crate::serve::proto::types::Descriptor;
use crate::serve::snapshots::from_mounts;

/// The media type and the compression of what is asked for. None named means gzip, as in containerd.
fn media_type(asked: &str) -> Result<(String, Compression)> {
    let compression = match asked.strip_prefix(OCI_LAYER) {
        _ if asked.is_empty() => return Ok((format!("{OCI_LAYER}+gzip"), Compression::Gzip)),
        Some("") => Compression::None,
        Some("+gzip") => Compression::Gzip,
        Some("+zstd") => Compression::Zstd,
        _ => return Err(Error::MediaType(asked.to_owned())),
    };
    Ok((asked.to_owned(), compression))
}

/// Does `right` stand on exactly what `left` shows? Only then is its upper directory the difference. `is_empty` tells
/// whether there is nothing in the upper directory of a layer directory.
fn stands_on(right: &Stack, left: &Stack, is_empty: impl Fn(&Path) -> bool) -> bool {
    right.lowers == left.lowers && left.top.as_deref().is_none_or(is_empty)
}

fn has_empty_upper(dir: &Path) -> bool {
    let is_empty = std::fs::read_dir(dir.join(UPPER)).is_ok_and(|mut names| names.next().is_none());
    is_empty && !dir.join(RWLAYER).exists()
}

const FOREIGN: Error = Error::NotOurs("the mounts are not those of an active EROFS snapshot");

impl Differ {
    /// Makes a blob of what `right` has and `left` has not.
    pub(super) fn compare(
        &self,
        request: DiffRequest,
        scope: &Scope,
        start: Instant,
        cancel: &Cancel,
    ) -> Result<Descriptor> {
        let (media_type, compression) = media_type(&request.media_type)?;
        let (left, right) = (from_mounts(request.left), from_mounts(request.right));
        let (dir, kind) = self.changed(&left, &right)?;
        let directory = self.snapshotter.open_upper_of(&dir)?.ok_or(FOREIGN)?;
        let mut upload = self.containerd.upload(scope, &request.r#ref)?;
        let compare = Compare {
            source_date_epoch: request.source_date_epoch.map(|time| time.seconds),
            cancel: cancel.clone(),
            ..Compare::new(kind, compression)
        };
        let compared = compare.write(directory.as_fd(), &mut upload)?;
        let Compared { digest, diff_id, size, entries, .. } = compared;
        let written = Written { digest: &digest, diff_id: &diff_id, size };
        // The lease stays until the caller has taken the blob over.
        upload.commit(&written, request.labels, Labels::new())?;
        let took = start.elapsed();
        self.metrics.compared(took, size);
        info!(blob = %digest, %diff_id, bytes = size, entries, ?took, dir = %dir.display(), "compared");
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let digest = digest.to_string();
        Ok(Descriptor { media_type, digest, size, ..Descriptor::default() })
    }

    /// The layer directory whose upper directory is the difference, and whether there are layers below it.
    fn changed(&self, left: &[Mount], right: &[Mount]) -> Result<(PathBuf, Kind)> {
        let right = self.places.stack(right).ok_or(FOREIGN)?;
        let left = self.places.stack(left).ok_or(FOREIGN)?;
        let dir = right.top.clone().filter(|dir| dir.join(MARKER).is_file()).ok_or(FOREIGN)?;
        // With an image, the directory is not what the snapshot shows.
        if !stands_on(&right, &left, has_empty_upper) || dir.join(IMAGE).exists() {
            return Err(FOREIGN);
        }
        Ok((dir, if right.lowers.is_empty() { Kind::Base } else { Kind::Upper }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_containerd_itself_makes_are_made() {
        for (asked, made) in [
            ("", Some("application/vnd.oci.image.layer.v1.tar+gzip")),
            (
                "application/vnd.oci.image.layer.v1.tar",
                Some("application/vnd.oci.image.layer.v1.tar"),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Some("application/vnd.oci.image.layer.v1.tar+zstd"),
            ),
            ("application/vnd.oci.image.layer.v1.tar+xz", None),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", None),
            ("application/vnd.erofs.layer.v1", None),
        ] {
            let got = media_type(asked);
            assert_eq!(got.as_ref().ok().map(|(media_type, _)| media_type.as_str()), made);
            if let Err(error) = got {
                assert_eq!(error.code(), tonic::Code::Unimplemented);
            }
        }
    }

    #[test]
    fn the_left_side_must_be_what_the_right_side_stands_on() {
        let stack = |top: Option<&str>, lowers: &[&str]| Stack {
            top: top.map(PathBuf::from),
            lowers: lowers.iter().map(PathBuf::from).collect(),
        };
        let right = stack(Some("/9"), &["/2", "/1"]);
        let empty = |path: &Path| path == Path::new("/empty");
        assert!(stands_on(&right, &stack(None, &["/2", "/1"]), empty));
        assert!(!stands_on(&right, &stack(None, &["/1", "/2"]), empty));
        assert!(!stands_on(&right, &stack(None, &["/1"]), empty));
        assert!(!stands_on(&right, &stack(Some("/8"), &["/2", "/1"]), empty));
        let base = stack(Some("/9"), &[]);
        assert!(stands_on(&base, &stack(Some("/empty"), &[]), empty));
        assert!(!stands_on(&base, &stack(Some("/full"), &[]), empty));
        assert!(!stands_on(&base, &stack(None, &["/1"]), empty));
    }
}
