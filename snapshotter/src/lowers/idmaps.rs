//! Maps of owners, as containerd's labels carry them.

use std::fmt::Write as _;

use erolith_mkfs::overlay::{Owners, Range};

use crate::store::Labels;
use crate::{Error, Result};

/// `container:host:length[,...]`, for users.
const UID_LABEL: &str = "containerd.io/snapshot/uidmapping";
/// The same for groups.
const GID_LABEL: &str = "containerd.io/snapshot/gidmapping";
/// Ranges that the kernel takes (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_RANGES: usize = 340;

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
    /// The maps that `labels` ask for, if they do.
    ///
    /// # Errors
    /// [`Error::IdMap`]: one label without the other, another form, ranges that overlap or are too many, or nobody
    /// who is root.
    pub(crate) fn from_labels(labels: &Labels) -> Result<Option<Self>> {
        let missing = |label| Error::IdMap {
            label,
            value: String::new(),
            reason: "missing, while its counterpart is there",
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
        let refuse = |reason| Error::IdMap { label, value: value.to_owned(), reason };
        let mut ranges = Vec::new();
        for part in value.split(',') {
            let range = range(part)
                .ok_or_else(|| refuse("not of the form container:host:length in 32 bits"))?;
            ranges.push(range);
        }
        if ranges.len() > MAX_RANGES {
            return Err(refuse("more than 340 ranges"));
        }
        if overlap(ranges.iter().map(|r| (r.container, r.len)))
            || overlap(ranges.iter().map(|r| (r.host, r.len)))
        {
            return Err(refuse("ranges overlap"));
        }
        let map = Self(ranges);
        map.root().ok_or_else(|| refuse("nobody is mapped to root"))?;
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

fn range(text: &str) -> Option<Range> {
    let mut fields = text.split(':').map(number);
    let (container, host, len) = (fields.next()??, fields.next()??, fields.next()??);
    // The last id, 2^32 - 1, means "none".
    let fits = |first: u32| first.checked_add(len).is_some();
    let is_whole = fields.next().is_none() && len > 0;
    (is_whole && fits(container) && fits(host)).then_some(Range { container, host, len })
}

/// Decimal digits and nothing else: `str::parse` would take a sign.
fn number(text: &str) -> Option<u32> {
    let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

fn overlap(ranges: impl Iterator<Item = (u32, u32)>) -> bool {
    let mut sorted: Vec<_> = ranges.collect();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| matches!(pair, [(a, len), (b, _)] if b - a < *len))
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
