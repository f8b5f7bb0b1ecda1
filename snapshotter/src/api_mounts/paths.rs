//! What the paths in the mounts of a service stand for. The one place that reads the paths that [`super::write`] writes.

use std::path::{Path, PathBuf};

use super::{Mount, OverlayDir};
use crate::layerdir::{SNAPSHOTS, UPPER, snapshot_id};
use crate::lowers::LowerId;
use crate::uppers::{IMAGE_UPPER, PLACE};

/// Where a service keeps the directories of snapshots, and where it mounts what is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    snapshots: PathBuf,
    state: PathBuf,
}

impl Paths {
    /// Those of the service with this root and this state directory.
    #[must_use]
    pub fn new(root: &Path, state: &Path) -> Self {
        Self { snapshots: root.join(SNAPSHOTS), state: state.to_owned() }
    }

    /// The directory of a snapshot.
    #[must_use]
    pub fn dir(&self, id: u64) -> PathBuf {
        self.snapshots.join(id.to_string())
    }

    /// Whether this is the directory of a snapshot.
    #[must_use]
    pub fn is_dir(&self, dir: &Path) -> bool {
        let name = dir.strip_prefix(&self.snapshots).ok().and_then(Path::to_str);
        name.and_then(snapshot_id).is_some()
    }

    /// The snapshot whose layer is mounted at `path`: `<state>/<space>/<id>`, with a `v` behind it where containers see
    /// it bare.
    #[must_use]
    pub fn layer_at(&self, path: &Path) -> Option<u64> {
        let mut names = path.strip_prefix(&self.state).ok()?.iter();
        let (space, name, None) = (names.next()?, names.next()?, names.next()) else { return None };
        if space == PLACE {
            return None;
        }
        LowerId::from_name(name.to_str()?).map(|lower| lower.id)
    }

    /// The directory of the layer that a mount of the profile `plain` has on top of all others, or of the upper directory
    /// that is above them.
    pub(crate) fn dir_on_top(&self, mounts: &[Mount]) -> Option<PathBuf> {
        let [mount] = mounts else { return None };
        let top = match (mount.fs_type.as_str(), mount.overlay_dir(OverlayDir::Upper)) {
            ("bind", _) => mount.source.as_str(),
            ("overlay", Some(upper)) => upper,
            ("overlay", None) => mount.overlay_dir(OverlayDir::Lower)?.split(':').next()?,
            _ => return None,
        };
        let top = Path::new(top);
        self.layer_at(top).map(|id| self.dir(id)).or_else(|| self.dir_of_upper(top))
    }

    /// The layer directory that `path` is the upper directory of: `fs` in it or, for a writable layer that is a
    /// filesystem of its own, `<state>/w/<id>/upper`. The first may be that of another snapshotter.
    #[must_use]
    pub fn dir_of_upper(&self, path: &Path) -> Option<PathBuf> {
        if path.file_name()? == UPPER {
            return path.is_absolute().then(|| path.parent().map(Path::to_owned)).flatten();
        }
        let mut names = path.strip_prefix(self.state.join(PLACE)).ok()?.iter();
        let (id, upper, None) = (names.next()?, names.next()?, names.next()) else { return None };
        let id = snapshot_id(id.to_str()?)?;
        (upper == IMAGE_UPPER).then(|| self.dir(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written_and_no_others() {
        let paths = Paths::new(Path::new("/r"), Path::new("/s"));
        let table: [(&str, Option<u64>, Option<&str>); 14] = [
            ("/s/l/7", Some(7), None),
            ("/s/l/7v", Some(7), None),
            ("/s/mabc/12", Some(12), None),
            ("/s/l/../7", None, None),
            ("/s/l/7v/etc", None, None),
            ("/s/l", None, None),
            ("/other/l/7v", None, None),
            ("/s/w/7", None, None),
            ("/s/w/7/upper", None, Some("/r/snapshots/7")),
            ("/s/w/7/work", None, None),
            ("/s/w/x/upper", None, None),
            ("/r/snapshots/7/fs", None, Some("/r/snapshots/7")),
            ("/elsewhere/7/fs", None, Some("/elsewhere/7")),
            ("relative/fs", None, None),
        ];
        for (path, layer, dir) in table {
            assert_eq!(paths.layer_at(Path::new(path)), layer, "{path}");
            assert_eq!(
                paths.dir_of_upper(Path::new(path)).as_deref(),
                dir.map(Path::new),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_on_top_is_read_from_paths_of_ours_only() {
        let mount = |fs_type: &str, source: &str, options: &[&str]| Mount {
            fs_type: fs_type.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(|&o| o.to_owned()).collect(),
        };
        let over = |upper| mount("overlay", "overlay", &[upper, "lowerdir=/s/l/8"]);
        let table = [
            (mount("bind", "/s/l/7v", &["ro", "rbind"]), Some("/r/snapshots/7")),
            (mount("overlay", "overlay", &["lowerdir=/s/l/8:/s/l/7"]), Some("/r/snapshots/8")),
            (mount("bind", "/s/w/9/upper", &["rw", "rbind"]), Some("/r/snapshots/9")),
            (over("upperdir=/s/w/9/upper"), Some("/r/snapshots/9")),
            (over("upperdir=/s/w/9/work"), None),
            (mount("bind", "/s/w/9", &["rw"]), None),
            (mount("bind", "/other/l/7v", &[]), None),
            (mount("erofs", "/s/l/7v", &[]), None),
        ];
        let paths = Paths::new(Path::new("/r"), Path::new("/s"));
        for (mount, want) in table {
            let got = paths.dir_on_top(std::slice::from_ref(&mount));
            assert_eq!(got.as_deref(), want.map(Path::new), "{mount:?}");
        }
    }
}
