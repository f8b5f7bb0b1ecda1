//! What the mounts of a snapshot say about its layers. Nothing here touches a file.

use std::path::{Path, PathBuf};

use erolith_snapshotter::layerdir::{IMAGE, UPPER};
use erolith_snapshotter::service::Mount;

/// Where the snapshotter keeps layers and mounts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    snapshots: PathBuf,
    state: PathBuf,
}

/// The directories and images that some mounts are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stack {
    /// The directory that is written to, or is the tree itself.
    pub(super) upper: Option<PathBuf>,
    /// Images of the layers below, the nearest first.
    pub(super) lowers: Vec<PathBuf>,
}

impl Places {
    pub(super) fn new(root: &Path, state: &Path) -> Self {
        Self { snapshots: root.join("snapshots"), state: state.to_owned() }
    }

    /// What `mounts` are made of; nothing when a part of it is not known here.
    pub(super) fn stack(&self, mounts: &[Mount]) -> Option<Stack> {
        let (last, first) = mounts.split_last()?;
        // In the managed profile the layers are mounts by themselves, which the overlay refers to by number.
        let images: Option<Vec<_>> = first.iter().map(image_of_mount).collect();
        let mut lowers = images?;
        let option = |key: &str| last.options.iter().find_map(|option| option.strip_prefix(key));
        match last.fs_type.rsplit('/').next()? {
            "bind" if last.source.ends_with(&format!("/{UPPER}")) => {
                Some(Stack { upper: Some(last.source.clone().into()), lowers })
            }
            "bind" => {
                lowers.push(self.image_of(Path::new(&last.source))?);
                Some(Stack { upper: None, lowers })
            }
            "erofs" => {
                lowers.push(image_of_mount(last)?);
                Some(Stack { upper: None, lowers })
            }
            "overlay" => {
                let below = option("lowerdir=")?;
                if lowers.is_empty() {
                    let images = below.split(':').map(|dir| self.image_of(Path::new(dir)));
                    lowers = images.collect::<Option<_>>()?;
                }
                Some(Stack { upper: option("upperdir=").map(PathBuf::from), lowers })
            }
            _ => None,
        }
    }

    /// The image that is mounted at `dir`: `<state>/<space>/<id>`, with a `v` behind it where containers see it bare.
    fn image_of(&self, dir: &Path) -> Option<PathBuf> {
        let below = dir.strip_prefix(&self.state).ok()?;
        let mut names = below.iter();
        let (_space, name, None) = (names.next()?, names.next()?.to_str()?, names.next()) else {
            return None;
        };
        let id = name.strip_suffix('v').unwrap_or(name);
        let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        is_id.then(|| self.snapshots.join(id).join(IMAGE))
    }
}

/// The image that is mounted by itself.
fn image_of_mount(mount: &Mount) -> Option<PathBuf> {
    (mount.fs_type == "erofs").then(|| PathBuf::from(&mount.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs_type: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            fs_type: fs_type.into(),
            source: source.into(),
            target: String::new(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }
    }

    fn stack(mounts: &[Mount]) -> Option<Stack> {
        Places::new(Path::new("/r"), Path::new("/s")).stack(mounts)
    }

    fn known(upper: Option<&str>, lowers: &[&str]) -> Option<Stack> {
        let lowers = lowers.iter().map(PathBuf::from).collect();
        Some(Stack { upper: upper.map(PathBuf::from), lowers })
    }

    #[test]
    fn mounts_of_the_plain_profile() {
        let layers = ["/r/snapshots/3/layer.erofs", "/r/snapshots/1/layer.erofs"];
        let bare = mount("bind", "/r/snapshots/5/fs", &["rw", "rbind"]);
        assert_eq!(stack(&[bare]), known(Some("/r/snapshots/5/fs"), &[]));
        let active =
            ["workdir=/r/snapshots/5/work", "upperdir=/r/snapshots/5/fs", "lowerdir=/s/l/3:/s/l/1"];
        let overlay = mount("overlay", "overlay", &active);
        assert_eq!(stack(&[overlay]), known(Some("/r/snapshots/5/fs"), &layers));
        let view = mount("overlay", "overlay", &["lowerdir=/s/mabc/3:/s/mabc/1"]);
        assert_eq!(stack(&[view]), known(None, &layers));
        let one = mount("bind", "/s/l/3v", &["ro", "rbind"]);
        assert_eq!(stack(&[one]), known(None, &layers[..1]));
    }

    #[test]
    fn mounts_of_the_managed_profile() {
        let layers = ["/r/snapshots/3/layer.erofs", "/r/snapshots/1/layer.erofs"];
        let [top, base] = layers.map(|layer| mount("erofs", layer, &["ro", "loop"]));
        assert_eq!(stack(std::slice::from_ref(&top)), known(None, &layers[..1]));
        let options = ["upperdir=/r/snapshots/5/fs", "lowerdir={{ overlay 0 1 }}"];
        let overlay = mount("format/mkdir/overlay", "overlay", &options);
        assert_eq!(stack(&[top, base, overlay]), known(Some("/r/snapshots/5/fs"), &layers));
    }

    #[test]
    fn mounts_of_others_are_not_guessed_at() {
        for mounts in [
            vec![],
            vec![mount("tmpfs", "tmpfs", &[])],
            vec![mount("bind", "/other/l/3v", &["ro"])],
            vec![mount("bind", "/s/l/../3", &["ro"])],
            vec![mount("bind", "/s/l/3/etc", &["ro"])],
            vec![mount("overlay", "overlay", &["lowerdir=/s/l/3:/elsewhere/1"])],
            vec![mount("overlay", "overlay", &["upperdir=/r/snapshots/5/fs"])],
            vec![mount("ext4", "/dev/sda", &[]), mount("bind", "/s/l/3v", &[])],
        ] {
            assert_eq!(stack(&mounts), None, "{mounts:?}");
        }
    }
}
