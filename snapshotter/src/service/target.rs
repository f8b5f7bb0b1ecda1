//! Where a differ shall write the layer of some mounts.

use std::path::{Path, PathBuf};

use super::cleanup::number;
use super::{Mount, Snapshotter};
use crate::layerdir::{self, MARKER};
use crate::lowers::Lower;
use crate::store::Kind;
use crate::{Error, Result};

impl Snapshotter {
    /// The layer directory that `mounts` are of, by the rule of [`layerdir::of_mounts`]; nothing when they are of a
    /// snapshotter without such directories. A snapshot whose layer is there already is shown by a mount of that
    /// layer; it is found by that, so that a layer can be applied again when the first answer got lost. That mount is
    /// undone: it would go on to show the old layer.
    ///
    /// # Errors
    /// [`Error::Finished`] for one of our directories whose snapshot is not active: containers may be running on its
    /// layer. What the database gives.
    pub fn layer_dir(&self, mounts: &[Mount]) -> Result<Option<PathBuf>> {
        let Some(dir) = layerdir::of_mounts(mounts).or_else(|| self.shown(mounts)) else {
            return Ok(None);
        };
        if dir.parent() != Some(&self.snapshots) {
            return Ok(Some(dir));
        }
        let id = dir.file_name().and_then(|name| number(name.to_str()?));
        let kind = id.map(|id| self.store.kind_of(id)).transpose()?.flatten();
        match (id, kind) {
            (Some(id), Some(Kind::Active)) => self.lowers.forget(id)?,
            _ => return Err(Error::Finished { dir }),
        }
        Ok(Some(dir))
    }

    /// The directory of the layer on top of what we mounted.
    fn shown(&self, mounts: &[Mount]) -> Option<PathBuf> {
        let id = layer_on_top(mounts, &self.config.state)?;
        let dir = self.dir(id);
        dir.join(MARKER).is_file().then_some(dir)
    }
}

/// The layer that a mount of the profile `plain` has on top of all others, if it has no upper directory.
fn layer_on_top(mounts: &[Mount], state: &Path) -> Option<u64> {
    let [mount] = mounts else { return None };
    let option = |key: &str| mount.options.iter().find_map(|option| option.strip_prefix(key));
    let top = match mount.fs_type.as_str() {
        "bind" => mount.source.as_str(),
        "overlay" if option("upperdir=").is_none() => option("lowerdir=")?.split(':').next()?,
        _ => return None,
    };
    let mut names = Path::new(top).strip_prefix(state).ok()?.iter();
    let (_space, name, None) = (names.next()?, names.next()?, names.next()) else { return None };
    Lower::from_name(name.to_str()?).map(|lower| lower.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_on_top_is_read_from_paths_of_ours_only() {
        let mount = |fs_type: &str, source: &str, options: &[&str]| Mount {
            fs_type: fs_type.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(|&o| o.to_owned()).collect(),
        };
        let table = [
            (mount("bind", "/s/l/7v", &["ro", "rbind"]), Some(7)),
            (mount("bind", "/s/mabc/7v", &["ro", "rbind"]), Some(7)),
            (mount("overlay", "overlay", &["lowerdir=/s/l/8:/s/l/7"]), Some(8)),
            (mount("overlay", "overlay", &["upperdir=/r/9/fs", "lowerdir=/s/l/8"]), None),
            (mount("bind", "/s/l/../7", &[]), None),
            (mount("bind", "/s/l/7v/etc", &[]), None),
            (mount("bind", "/s/l", &[]), None),
            (mount("bind", "/other/l/7v", &[]), None),
            (mount("erofs", "/s/l/7v", &[]), None),
        ];
        for (mount, want) in table {
            let got = layer_on_top(std::slice::from_ref(&mount), Path::new("/s"));
            assert_eq!(got, want, "{mount:?}");
        }
    }
}
