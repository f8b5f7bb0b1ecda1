//! How much room the options of an overlay have.

use std::collections::BTreeSet;

use super::{Config, Profile};
use crate::api_mounts::write::{Places, SnapshotShape, plain};
use crate::lowers::PLAIN_SPACE;
use crate::store::Kind;
use crate::uppers::Upper;

/// A number of a snapshot that a node does not reach soon.
const LARGE: u64 = 9_999_999;
/// More layers than any image has.
const ENOUGH: usize = 1000;

impl Config {
    /// How many layers a container can have, with numbers of snapshots of seven digits: their paths become options of
    /// one overlay. Nothing when every number of layers that others allow can be had, as with templates.
    #[must_use]
    pub fn max_layers(&self) -> Option<usize> {
        if self.profile == Profile::Managed {
            return None;
        }
        let snapshots = self.root.join(crate::layerdir::SNAPSHOTS);
        let lowers = self.state.join(PLAIN_SPACE);
        let places = Places {
            snapshots: snapshots.to_str()?,
            lowers: lowers.to_str()?,
            uppers: "",
            nothing: "",
            overlay_options: &self.overlay_options,
            verity: &BTreeSet::new(),
        };
        let parents = vec![LARGE; ENOUGH];
        let fits = |count: &usize| {
            let parents = parents.get(..*count).unwrap_or_default();
            let kind = Kind::Active;
            let upper = Upper::Directory;
            let shape = SnapshotShape {
                kind,
                id: LARGE,
                applied: false,
                beside: false,
                upper,
                parents,
                maps: None,
            };
            plain(&shape, &places).is_ok()
        };
        (0..ENOUGH).take_while(fits).last()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn short_names_make_room() {
        let root = PathBuf::from("/var/lib/containerd/io.containerd.snapshotter.v1.erolith");
        let config = Config::new(root);
        let usual = config.max_layers().unwrap();
        assert!(usual >= 128, "{usual}");
        let long = Config { state: "/run/somewhere/far/below".into(), ..config.clone() };
        assert!(long.max_layers().unwrap() < usual);
        assert_eq!(Config { profile: Profile::Managed, ..config }.max_layers(), None);
    }
}
