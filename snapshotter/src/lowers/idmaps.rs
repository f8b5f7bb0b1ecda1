//! Maps of owners, as containerd's labels carry them.

use std::fmt::Write as _;

use erolith_overlay::{BadMap, Owners, Range};

use crate::store::Labels;
use crate::{Error, Result, ServiceError};

/// `container:host:length[,...]`, for users.
const UID_LABEL: &str = "containerd.io/snapshot/uidmapping";
/// The same for groups.
const GID_LABEL: &str = "containerd.io/snapshot/gidmapping";

/// How the owners that a container sees are found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdMaps {
    uid: IdMap,
    gid: IdMap,
}

/// The ranges of one kind of id, in the order in which they were given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct IdMap(Vec<Range>);

impl IdMaps {
    /// The labels that carry them.
    pub(crate) const LABELS: [&str; 2] = [UID_LABEL, GID_LABEL];

    /// The maps that `labels` ask for, if they do.
    ///
    /// # Errors
    /// [`ServiceError::IdMap`]: one label without the other, another form, ranges that overlap or are too many, or
    /// no mapping of root.
    pub(crate) fn from_labels(labels: &Labels) -> Result<Option<Self>> {
        let missing = |label| {
            Error::Service(ServiceError::IdMap {
                label,
                value: String::new(),
                reason: "missing, while its counterpart is there",
            })
        };
        match (labels.get(UID_LABEL), labels.get(GID_LABEL)) {
            (None, None) => Ok(None),
            (Some(uid), Some(gid)) => Ok(Some(Self {
                uid: IdMap::parse(UID_LABEL, uid)?,
                gid: IdMap::parse(GID_LABEL, gid)?,
            })),
            (None, Some(_)) => Err(missing(UID_LABEL)),
            (Some(_), None) => Err(missing(GID_LABEL)),
        }
    }

    /// The labels without those of maps.
    pub(crate) fn without_labels(labels: &Labels) -> Labels {
        let mut labels = labels.clone();
        labels.retain(|label, _| label != UID_LABEL && label != GID_LABEL);
        labels
    }

    /// That maps which make sense cannot be used here.
    pub(crate) fn refused(labels: &Labels, reason: &'static str) -> Error {
        let value = labels.get(UID_LABEL).cloned().unwrap_or_default();
        Error::Service(ServiceError::IdMap { label: UID_LABEL, value, reason })
    }

    /// User and group that the container sees as root. Both are mapped, or there would be no maps.
    pub(crate) fn root(&self) -> (u32, u32) {
        (self.uid.root().unwrap_or_default(), self.gid.root().unwrap_or_default())
    }

    /// For who reads what the container wrote.
    pub(crate) fn owners(&self) -> Owners {
        Owners { users: self.uid.0.clone(), groups: self.gid.0.clone() }
    }

    /// The options of an overlay that containerd maps itself.
    pub(crate) fn mount_options(&self) -> [String; 2] {
        [format!("uidmap={}", self.uid.label()), format!("gidmap={}", self.gid.label())]
    }

    /// What `/proc/<pid>/uid_map` and `gid_map` take.
    pub(crate) fn kernel_text(&self) -> [String; 2] {
        [self.uid.kernel_text(), self.gid.kernel_text()]
    }

    /// Both maps in one text, equal for equal maps.
    pub(crate) fn text(&self) -> String {
        format!("uid={}\ngid={}\n", self.uid.label(), self.gid.label())
    }
}

impl IdMap {
    fn parse(label: &'static str, value: &str) -> Result<Self> {
        let refuse = |BadMap(reason)| {
            Error::Service(ServiceError::IdMap { label, value: value.to_owned(), reason })
        };
        let ranges =
            value.split(',').map(str::parse).collect::<std::result::Result<Vec<Range>, _>>();
        let ranges = ranges.map_err(refuse)?;
        Range::check_map(&ranges).map_err(refuse)?;
        let map = Self(ranges);
        map.root().ok_or_else(|| refuse(BadMap("nobody is mapped to root")))?;
        Ok(map)
    }

    fn root(&self) -> Option<u32> {
        self.0.iter().find(|range| range.container == 0).map(|range| range.host)
    }

    fn label(&self) -> String {
        self.joined(':', ',')
    }

    fn kernel_text(&self) -> String {
        self.joined(' ', '\n')
    }

    fn joined(&self, inner: char, outer: char) -> String {
        let mut text = String::new();
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                text.push(outer);
            }
            let Range { container, host, len } = range;
            // Writing to a string cannot fail.
            let _ = write!(text, "{container}{inner}{host}{inner}{len}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(uid: &str, gid: &str) -> Result<Option<IdMaps>> {
        let labels = [(UID_LABEL, uid), (GID_LABEL, gid)];
        IdMaps::from_labels(&labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
    }

    #[test]
    fn good_maps_are_read_whole() {
        let maps = maps("0:100000:65536", "0:5:1,10:4294967290:5").unwrap().unwrap();
        assert_eq!(maps.root(), (100_000, 5));
        assert_eq!(maps.kernel_text(), ["0 100000 65536", "0 5 1\n10 4294967290 5"]);
        assert_eq!(maps.mount_options(), ["uidmap=0:100000:65536", "gidmap=0:5:1,10:4294967290:5"]);
        assert_eq!(maps.text(), "uid=0:100000:65536\ngid=0:5:1,10:4294967290:5\n");
    }

    #[test]
    fn everything_else_is_refused() {
        let many = (0..341).map(|i| format!("{i}:{i}:1")).collect::<Vec<_>>().join(",");
        let bad = [
            "",
            "0",
            "0:1",
            "0:1:2:3",
            "0:1:0",
            "+0:1:1",
            "0: 1:1",
            "-1:0:1",
            "0:1:1,",
            "a:b:c",
            "0:4294967295:1",
            "4294967295:0:1",
            "0:0:4294967296",
            "1:100:10",
            "0:0:10,5:100:1",
            "0:0:10,20:9:1",
            "0:0:1 ",
        ];
        for value in bad.into_iter().chain([many.as_str()]) {
            assert_eq!(maps(value, "0:0:1").unwrap_err().code(), "id-map", "{value}");
            assert_eq!(maps("0:0:1", value).unwrap_err().code(), "id-map", "{value}");
        }
    }

    #[test]
    fn no_label_is_no_map_and_one_label_is_an_error() {
        assert_eq!(IdMaps::from_labels(&Labels::new()).unwrap(), None);
        for label in [UID_LABEL, GID_LABEL] {
            let labels = Labels::from([(label.to_owned(), "0:0:1".to_owned())]);
            assert_eq!(IdMaps::from_labels(&labels).unwrap_err().code(), "id-map");
        }
    }
}
