//! What the store keeps of a snapshot, in the words of containerd's API.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use erolith_verity::dmverity::sidecar::Sidecar;
use serde::{Deserialize, Serialize};

use crate::protect::Pin;

/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;

/// What a snapshot is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// To be read; never to become a layer.
    View,
    /// To be written; may become a layer.
    Active,
    /// A layer: it never changes, and others may have it as parent.
    Committed,
}

impl Kind {
    /// The word that filters and messages use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }

    /// As it is stored: the numbers of `containerd.services.snapshots.v1.Kind`.
    pub(super) const fn number(self) -> i64 {
        match self {
            Self::View => 1,
            Self::Active => 2,
            Self::Committed => 3,
        }
    }

    /// The other way; nothing for a number that no kind has.
    pub(super) const fn from_number(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::View),
            2 => Some(Self::Active),
            3 => Some(Self::Committed),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A moment in UTC, as `google.protobuf.Timestamp` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970, before it negative.
    pub seconds: i64,
    /// Nanoseconds within the second, less than 10^9; they count forward, before 1970 too.
    pub nanos: u32,
}

impl Timestamp {
    /// From nanoseconds since 1970.
    pub(super) fn from_nanoseconds(count: i64) -> Self {
        let nanos = u32::try_from(count.rem_euclid(SECOND)).unwrap_or_default();
        Self { seconds: count.div_euclid(SECOND), nanos }
    }
}

impl Timestamp {
    /// The nanoseconds since 1970. Stands still at the ends of what 64 bits hold.
    pub(crate) fn nanoseconds(self) -> i64 {
        self.seconds.saturating_mul(SECOND).saturating_add(i64::from(self.nanos))
    }
}

/// The clock, in nanoseconds since 1970. Stands still at the ends of what 64 bits hold: 1677 and 2262.
pub(crate) fn now() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}

/// Names and values given by the caller. A label with an empty value is the same as none, as in containerd's store.
pub type Labels = BTreeMap<String, String>;

/// What `Stat` and `List` say of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The key of an active snapshot or a view, the name of a committed one.
    pub name: String,
    /// Name of the parent; empty when there is none.
    pub parent: String,
    /// What it is.
    pub kind: Kind,
    /// When it was made or, for a committed one, committed.
    pub created: Timestamp,
    /// When its labels last changed; never before `created`, whatever the clock did.
    pub updated: Timestamp,
    /// Its labels.
    pub labels: Labels,
}

/// What a snapshot takes on disk, without its parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes in allocated blocks.
    pub size: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Where the image of a layer came from, so that a damaged one can be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Namespace of containerd in which the layer came in.
    pub namespace: String,
    /// Digest of the layer, uncompressed.
    pub diff_id: String,
    /// The blob that was applied; nothing for a layer that came from a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<OriginBlob>,
}

/// The descriptor of a blob that was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginBlob {
    /// Its digest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub size: u64,
    /// Those annotations that decide how its image is protected.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a layer is on disk when it is committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// What it takes.
    pub usage: Usage,
    /// The digest of its image, when it has one.
    pub pin: Option<Pin>,
    /// The hash tree of its image, as the sidecar tells, when it has one.
    pub tree: Option<Sidecar>,
    /// Where its image came from, if that is known.
    pub origin: Option<Origin>,
    /// When it was committed, in nanoseconds since 1970; nothing is now.
    pub time: Option<i64>,
}

impl From<Usage> for Content {
    fn from(usage: Usage) -> Self {
        Self { usage, ..Self::default() }
    }
}

/// A snapshot with its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Names its directory, and never comes again: not after removal, not after a failure, not after a crash.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Ids of its parents, the nearest first.
    pub parents: Vec<u64>,
    /// Its labels.
    pub labels: Labels,
    /// When it was made or, for a committed one, committed.
    pub created: Timestamp,
}

/// A snapshot that was found by one of its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// Names its directory.
    pub id: u64,
    /// The key of an active snapshot or a view, the name of a committed one.
    pub key: String,
    /// What it is.
    pub kind: Kind,
}

/// All that the database knows of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names its directory.
    pub id: u64,
    /// The key of an active snapshot or a view, the name of a committed one.
    pub key: String,
    /// Id of the parent.
    pub parent: Option<u64>,
    /// What it is.
    pub kind: Kind,
    /// As [`Info::created`], in nanoseconds since 1970.
    pub created: i64,
    /// As [`Info::updated`], in nanoseconds since 1970.
    pub updated: i64,
    /// Its labels.
    pub labels: Labels,
    /// What it takes on disk, of a committed one.
    pub usage: Usage,
    /// The digest of its image, of a committed one that has one.
    pub pin: Option<Pin>,
    /// The hash tree of its image, of a committed one that has one.
    pub tree: Option<Sidecar>,
    /// Where its image came from, of a committed one of which that is known.
    pub origin: Option<Origin>,
    /// Why it is quarantined, of a layer that is.
    pub damage: Option<String>,
}

impl Entry {
    /// Of a snapshot that has just been made.
    pub(crate) fn new(key: &str, snapshot: &Snapshot) -> Self {
        let Snapshot { id, kind, parents, labels, created } = snapshot;
        let created = created.nanoseconds();
        Self {
            id: *id,
            key: key.to_owned(),
            parent: parents.first().copied(),
            kind: *kind,
            created,
            updated: created,
            labels: labels.clone(),
            usage: Usage::default(),
            pin: None,
            tree: None,
            origin: None,
            damage: None,
        }
    }
}

/// Which fields of an [`Info`] an update sets (`UpdateSnapshotRequest.update_mask`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateMask {
    /// Everything that can change, which is the labels.
    All,
    /// `labels` or `labels.<name>`; an empty list is the same as [`UpdateMask::All`].
    Paths(Vec<String>),
}
