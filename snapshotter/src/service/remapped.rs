//! Copies of layers whose owners containerd changed, because it does not know that this snapshotter maps them.
//!
//! Without the capability `remap-ids` containerd prepares a snapshot on the image, changes the owner of every file in it,
//! commits that under a name of its own, and prepares the container on this copy, with the labels of the maps all the same
//! (`resolveSnapshotOptions` in `client/snapshotter_opts_unix.go`). Mapped once more, the container would see owners that
//! it does not know.

use std::borrow::Cow;
use std::fmt::Write as _;

use erolith_overlay::Range;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Snapshotter;
use crate::lowers::IdMaps;
use crate::store::Labels;
use crate::store::SnapshotError;
use crate::{Error, Result};

/// What a parent is to a container that has maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parent {
    /// Its owners are those of the image.
    Image,
    /// Its owners are those of the host already, by the same maps.
    Copy,
    /// Its owners are those of the host, by other maps.
    OtherCopy,
}

impl Snapshotter {
    /// The maps that a new snapshot on `parent` is mounted with, and the labels that say so. On a copy that containerd
    /// made for these maps there are none.
    ///
    /// # Errors
    /// [`crate::ServiceError::IdMap`] for labels that are no maps, and on a copy that containerd made for others. What
    /// the database gives.
    pub(super) fn maps_on<'l>(
        &self,
        parent: &str,
        labels: &'l Labels,
    ) -> Result<(Option<IdMaps>, Cow<'l, Labels>)> {
        let Some(maps) = IdMaps::from_labels(labels)? else {
            return Ok((None, Cow::Borrowed(labels)));
        };
        match self.kind_of_parent(parent, &maps)? {
            Parent::Image => Ok((Some(maps), Cow::Borrowed(labels))),
            Parent::OtherCopy => Err(IdMaps::refused(
                labels,
                "the parent is a copy of an image whose owners containerd mapped otherwise",
            )),
            Parent::Copy => {
                tracing::info!(parent, "owners are mapped in this copy of an image already");
                Ok((None, Cow::Owned(IdMaps::without_labels(labels))))
            }
        }
    }

    fn kind_of_parent(&self, parent: &str, maps: &IdMaps) -> Result<Parent> {
        if parent.is_empty() {
            return Ok(Parent::Image);
        }
        // The call that makes the snapshot answers that there is none.
        match self.store.info(parent) {
            Ok(info) => Ok(kind(own_name(parent), own_name(&info.parent), maps)),
            Err(Error::Store(crate::store::Error::Snapshot(SnapshotError::NotFound {
                ..
            }))) => Ok(Parent::Image),
            Err(error) => Err(error),
        }
    }
}

/// The name that a client of containerd gave a snapshot. Its metadata store puts `namespace/number/` before it.
fn own_name(key: &str) -> &str {
    key.splitn(3, '/').nth(2).unwrap_or(key)
}

/// What the snapshot called `name`, which stands on `below`, is to a container with `maps`.
fn kind(name: &str, below: &str, maps: &IdMaps) -> Parent {
    if below.is_empty() {
        return Parent::Image;
    }
    if name == digest_name(below, maps) {
        return Parent::Copy;
    }
    // containerd 1.7: the name below, and the owner that root is mapped to.
    let owner = name.strip_prefix(below).and_then(|rest| rest.strip_prefix('-'));
    let owner = owner.and_then(|rest| rest.split_once('-'));
    let owner = owner.and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    match owner {
        None => Parent::Image,
        Some(owner) if owner == maps.root() => Parent::Copy,
        Some(_) => Parent::OtherCopy,
    }
}

/// The name of a copy since containerd 2.0: the digest of a JSON document, to the byte as Go writes it
/// (`remappedSnapshot.ID`).
fn digest_name(below: &str, maps: &IdMaps) -> String {
    let ranges = |ranges: &[Range]| {
        let mut ranges = ranges.to_vec();
        ranges.sort_by_key(|range| range.container);
        let texts = ranges.iter().map(|range| {
            let Range { container, host, len } = range;
            format!(r#"{{"containerID":{container},"hostID":{host},"size":{len}}}"#)
        });
        texts.collect::<Vec<_>>().join(",")
    };
    let owners = maps.owners();
    let document = format!(
        r#"{{"Parent":{},"IDMap":{{"UidMap":[{}],"GidMap":[{}]}}}}"#,
        json!(below),
        ranges(&owners.users),
        ranges(&owners.groups),
    );
    let mut name = "sha256:".to_owned();
    for byte in Sha256::digest(document.as_bytes()) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(uid: &str, gid: &str) -> IdMaps {
        let labels = [("uidmapping", uid), ("gidmapping", gid)];
        let labels =
            labels.map(|(key, map)| (format!("containerd.io/snapshot/{key}"), map.to_owned()));
        IdMaps::from_labels(&labels.into()).unwrap().unwrap()
    }

    #[test]
    fn copies_are_known_by_the_names_that_containerd_gives_them() {
        const CHAIN: &str = "sha256:7c1aa2";
        let one = maps("0:100000:65536", "0:100000:65536");
        let two = maps("0:100000:65536", "0:200000:65536");
        let many = maps("10:5:1,0:100000:2", "0:200000:65536");
        // Of a program in Go that marshals containerd's type.
        let named = |digest: &str| format!("sha256:{digest}");
        let name_of_one = named("b940bb607bc6825dfbe3107334b2d681f97b50313e5dfaaebebbeba3fc21f88f");
        let name_of_many =
            named("adccc931c7aee07f250c903ef170748fecc9c63d31490188b3a323a1ba3cad28");
        for (name, below, maps, want) in [
            ("sha256:7c1aa2-100000-100000", CHAIN, &one, Parent::Copy),
            ("sha256:7c1aa2-100000-200000", CHAIN, &two, Parent::Copy),
            ("sha256:7c1aa2-100000-200000", CHAIN, &one, Parent::OtherCopy),
            ("sha256:7c1aa2-300000-300000", CHAIN, &one, Parent::OtherCopy),
            ("sha256:7c1aa2-100000-100000-remap", CHAIN, &one, Parent::Image),
            ("sha256:7c1aa2-a-b", CHAIN, &one, Parent::Image),
            ("sha256:7c1aa2-100000-100000", "", &one, Parent::Image),
            ("sha256:7c1aa2-100000-100000", "sha256:other", &one, Parent::Image),
            ("sha256:5555", CHAIN, &one, Parent::Image),
            (&name_of_one, CHAIN, &one, Parent::Copy),
            (&name_of_one, CHAIN, &two, Parent::Image),
            (&name_of_one, "sha256:other", &one, Parent::Image),
            (&name_of_many, CHAIN, &many, Parent::Copy),
        ] {
            assert_eq!(kind(name, below, maps), want, "{name} on {below}");
        }
    }

    #[test]
    fn namespaces_and_numbers_are_not_part_of_a_name() {
        assert_eq!(own_name("k8s.io/12/sha256:1-2-3"), "sha256:1-2-3");
        assert_eq!(own_name("k8s.io/12/a/b"), "a/b");
        assert_eq!(own_name("plain"), "plain");
    }
}
