//! What the mounts of a snapshot say about its layers. Nothing here touches a file.

use std::path::{Path, PathBuf};

use erolith_snapshotter::layerdir::IMAGE;
use erolith_snapshotter::service::{Mount, Paths};

/// Where the snapshotter keeps layers and mounts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places(Paths);

/// The directories and images that some mounts are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stack {
    /// The layer directory whose upper directory is written to, or is the tree itself.
    pub(super) top: Option<PathBuf>,
    /// Images of the layers below, the nearest first.
    pub(super) lowers: Vec<PathBuf>,
}

impl Places {
    pub(super) fn new(root: &Path, state: &Path) -> Self {
        Self(Paths::new(root, state))
    }

    /// Is `dir` the directory of a snapshot of ours? What is in one of another snapshotter may get flags that keep it there
    /// (immutable, fs-verity), or be written again.
    pub(super) fn is_ours(&self, dir: &Path) -> bool {
        self.0.is_dir(dir)
    }

    /// What `mounts` are made of; nothing when a part of it is not known here.
    pub(super) fn stack(&self, mounts: &[Mount]) -> Option<Stack> {
        let Self(paths) = self;
        let (last, first) = mounts.split_last()?;
        // In the managed profile the layers are mounts by themselves, which the overlay refers to by number; and so is the
        // filesystem that the upper directory is in, before them.
        let (filesystem, images) = match first.split_first() {
            Some((mount, rest)) if mount.fs_type.starts_with("mkfs/") => (Some(mount), rest),
            _ => (None, first),
        };
        let lowers: Option<Vec<_>> = images.iter().map(image_of_mount).collect();
        let mut lowers = lowers?;
        let top = |upper: &str| match filesystem {
            Some(mount) => Path::new(&mount.source).parent().map(Path::to_owned),
            None => paths.dir_of_upper(Path::new(upper)),
        };
        let image_at = |dir: &str| {
            let id = paths.layer_at(Path::new(dir))?;
            Some(paths.dir(id).join(IMAGE))
        };
        let option = |key: &str| last.options.iter().find_map(|option| option.strip_prefix(key));
        match last.fs_type.rsplit('/').next()? {
            "bind" => match top(&last.source) {
                None => {
                    lowers.push(image_at(&last.source)?);
                    Some(Stack { top: None, lowers })
                }
                top => Some(Stack { top, lowers }),
            },
            "erofs" => {
                lowers.push(image_of_mount(last)?);
                Some(Stack { top: None, lowers })
            }
            "overlay" => {
                let below = option("lowerdir=")?;
                if lowers.is_empty() {
                    lowers = below.split(':').map(image_at).collect::<Option<_>>()?;
                }
                let Some(upper) = option("upperdir=") else {
                    return Some(Stack { top: None, lowers });
                };
                Some(Stack { top: Some(top(upper)?), lowers })
            }
            _ => None,
        }
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

    fn known(top: Option<&str>, lowers: &[&str]) -> Option<Stack> {
        let lowers = lowers.iter().map(PathBuf::from).collect();
        Some(Stack { top: top.map(PathBuf::from), lowers })
    }

    #[test]
    fn mounts_of_the_plain_profile() {
        let layers = ["/r/snapshots/3/layer.erofs", "/r/snapshots/1/layer.erofs"];
        let bare = mount("bind", "/r/snapshots/5/fs", &["rw", "rbind"]);
        assert_eq!(stack(&[bare]), known(Some("/r/snapshots/5"), &[]));
        let active =
            ["workdir=/r/snapshots/5/work", "upperdir=/r/snapshots/5/fs", "lowerdir=/s/l/3:/s/l/1"];
        let overlay = mount("overlay", "overlay", &active);
        assert_eq!(stack(&[overlay]), known(Some("/r/snapshots/5"), &layers));
        let limited = ["upperdir=/s/w/5/upper", "lowerdir=/s/l/3:/s/l/1"];
        let overlay = mount("overlay", "overlay", &limited);
        assert_eq!(stack(&[overlay]), known(Some("/r/snapshots/5"), &layers));
        let bare = mount("bind", "/s/w/5/upper", &["rw", "rbind"]);
        assert_eq!(stack(&[bare]), known(Some("/r/snapshots/5"), &[]));
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
        let list = [top.clone(), base.clone(), overlay];
        assert_eq!(stack(&list), known(Some("/r/snapshots/5"), &layers));
        let filesystem = mount("mkfs/ext4", "/r/snapshots/5/rwlayer.img", &["rw", "loop"]);
        let options = ["upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 2 }}"];
        let overlay = mount("format/mkdir/overlay", "overlay", &options);
        let list = [filesystem.clone(), top, base, overlay];
        assert_eq!(stack(&list), known(Some("/r/snapshots/5"), &layers));
        let bind = mount("format/mkdir/bind", "{{ mount 0 }}/upper", &["rw", "rbind"]);
        assert_eq!(stack(&[filesystem, bind]), known(Some("/r/snapshots/5"), &[]));
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
            vec![mount("overlay", "overlay", &["upperdir=/elsewhere/upper", "lowerdir=/s/l/3"])],
            vec![mount("bind", "/s/w/5/work", &["rw"])],
            vec![mount("ext4", "/dev/sda", &[]), mount("bind", "/s/l/3v", &[])],
        ] {
            assert_eq!(stack(&mounts), None, "{mounts:?}");
        }
    }

    #[test]
    fn directories_of_ours_are_told_from_those_of_others() {
        let places = Places::new(Path::new("/r"), Path::new("/s"));
        for (dir, ours) in [
            ("/r/snapshots/5", true),
            ("/r/snapshots/5/", true),
            ("/r/snapshots/5/fs", false),
            ("/r/snapshots/new-1", false),
            ("/r/snapshots/5/../6", false),
            ("/r/snapshots", false),
            ("/r/5", false),
            ("/other/snapshots/5", false),
            ("snapshots/5", false),
        ] {
            assert_eq!(places.is_ours(Path::new(dir)), ours, "{dir}");
        }
    }
}
