//! A layer goes out: what a snapshot holds above its layers becomes a blob in containerd's content store.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use erolith_differ::compare::{Compare, Compared, Kind};
use erolith_differ::decode::Cancel;
use erolith_differ::{Compression, OCI_LAYER};
use erolith_snapshotter::layerdir::{self, IMAGE, UPPER};
use erolith_snapshotter::service::Mount;
use tracing::info;

use super::Differ;
use super::stack::Stack;
use crate::serve::containerd::Scope;
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

/// Does `right` stand on exactly what `left` shows? Only then is its upper directory the difference.
fn stands_on(right: &Stack, left: &Stack, is_empty: impl Fn(&Path) -> bool) -> bool {
    right.lowers == left.lowers && left.upper.as_deref().is_none_or(is_empty)
}

fn is_empty_dir(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut names| names.next().is_none())
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
        let (media_type, compression) = media_type(&request.media_type)?;
        let (left, right) = (from_mounts(request.left), from_mounts(request.right));
        let (upper, kind) = self.upper(&left, &right)?;
        let directory = File::open(&upper).map_err(|source| Error::Storage {
            action: "opening",
            path: upper.clone(),
            source,
        })?;
        let mut upload = self.containerd.upload(scope, &request.r#ref)?;
        let compare = Compare {
            source_date_epoch: request.source_date_epoch.map(|time| time.seconds),
            cancel: cancel.clone(),
            ..Compare::new(kind, compression)
        };
        let compared = compare.write(directory.as_fd(), &mut upload)?;
        upload.commit(&compared, request.labels)?;
        let Compared { digest, diff_id, size, entries, .. } = compared;
        let took = start.elapsed();
        self.metrics.compared(took, size);
        info!(blob = %digest, %diff_id, bytes = size, entries, ?took, dir = %upper.display(), "compared");
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let digest = digest.to_string();
        Ok(Descriptor { media_type, digest, size, ..Descriptor::default() })
    }

    /// The directory that holds the difference, and whether there are layers below it.
    fn upper(&self, left: &[Mount], right: &[Mount]) -> Result<(PathBuf, Kind)> {
        let foreign = || Error::NotOurs("the mounts are not those of an active EROFS snapshot");
        let dir = layerdir::of_mounts(right).ok_or_else(foreign)?;
        let upper = dir.join(UPPER);
        let stack = self.places.stack(right).filter(|stack| stack.upper.as_ref() == Some(&upper));
        let stack = stack.ok_or_else(foreign)?;
        let below = self.places.stack(left).ok_or_else(foreign)?;
        // With an image, the directory is not what the snapshot shows.
        if !stands_on(&stack, &below, is_empty_dir) || dir.join(IMAGE).exists() {
            return Err(foreign());
        }
        Ok((upper, if stack.lowers.is_empty() { Kind::Base } else { Kind::Upper }))
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
        let stack = |upper: Option<&str>, lowers: &[&str]| Stack {
            upper: upper.map(PathBuf::from),
            lowers: lowers.iter().map(PathBuf::from).collect(),
        };
        let right = stack(Some("/9/fs"), &["/2", "/1"]);
        let empty = |path: &Path| path == Path::new("/empty");
        assert!(stands_on(&right, &stack(None, &["/2", "/1"]), empty));
        assert!(!stands_on(&right, &stack(None, &["/1", "/2"]), empty));
        assert!(!stands_on(&right, &stack(None, &["/1"]), empty));
        assert!(!stands_on(&right, &stack(Some("/8/fs"), &["/2", "/1"]), empty));
        let base = stack(Some("/9/fs"), &[]);
        assert!(stands_on(&base, &stack(Some("/empty"), &[]), empty));
        assert!(!stands_on(&base, &stack(Some("/full"), &[]), empty));
        assert!(!stands_on(&base, &stack(None, &["/1"]), empty));
    }
}
