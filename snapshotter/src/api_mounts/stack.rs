//! What mounts are made of: layers, and what is written to.

use std::path::{Path, PathBuf};

use erolith_overlay::Marks;

use super::{Mount, OverlayDir, Paths};
use crate::layerdir::IMAGE;

/// Reads mounts, those of the snapshotter whose paths it has by what they stand for. Without paths all mounts are of others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountParser(Option<Paths>);

/// A layer that is only read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LowerRef {
    /// An EROFS image.
    Image(PathBuf),
    /// A directory of another snapshotter.
    Dir(PathBuf),
}

/// Where a container writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WritableTop {
    /// The upper directory in, or of, this layer directory of ours.
    Ours(PathBuf),
    /// This upper directory of another snapshotter.
    Dir {
        /// The upper directory.
        upper: PathBuf,
        /// The overlay's work directory.
        work: Option<PathBuf>,
    },
}

/// The directories and images that some mounts are made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stack {
    /// What is written to, or is the tree itself.
    pub top: Option<WritableTop>,
    /// The layers below, the nearest first.
    pub lowers: Vec<LowerRef>,
    /// What overlayfs' marks are called in them.
    pub marks: Marks,
}

impl Stack {
    /// The layers below, if all of them are images.
    #[must_use]
    pub fn images(self) -> Option<Vec<PathBuf>> {
        let image = |lower| match lower {
            LowerRef::Image(path) => Some(path),
            LowerRef::Dir(_) => None,
        };
        self.lowers.into_iter().map(image).collect()
    }
}

impl MountParser {
    /// Reads those of the service with this root and this state directory.
    #[must_use]
    pub fn new(root: &Path, state: &Path) -> Self {
        Self(Some(Paths::new(root, state)))
    }

    /// Whether `dir` is the directory of a snapshot of ours. What is in one of another snapshotter may get flags that keep it
    /// there (immutable, fs-verity), or be written again.
    #[must_use]
    pub fn is_ours(&self, dir: &Path) -> bool {
        self.0.as_ref().is_some_and(|paths| paths.is_dir(dir))
    }

    /// What `mounts` are made of; nothing when a part of it is not known here. Other snapshotters are known by what they
    /// mount: directories (overlayfs, native) and images (EROFS).
    #[must_use]
    pub fn stack(&self, mounts: &[Mount]) -> Option<Stack> {
        let (last, first) = mounts.split_last()?;
        // In the managed profile the layers are mounts by themselves, which the overlay refers to by number; and so is the
        // filesystem that the upper directory is in, before them.
        let (filesystem, images) = match first.split_first() {
            Some((mount, rest)) if mount.is_made() => (Some(mount), rest),
            _ => (None, first),
        };
        let lowers: Option<Vec<_>> = images.iter().map(image_of_mount).collect();
        let mut lowers = lowers?;
        let marks = if last.has_flag("userxattr") { Marks::User } else { Marks::Trusted };
        let (top, more) = match last.base_type() {
            "bind" => self.of_bind(&last.source, filesystem)?,
            "erofs" => (None, vec![image_of_mount(last)?]),
            "overlay" => {
                let below = last.overlay_dir(OverlayDir::Lower)?;
                let more = match lowers.is_empty() {
                    true => below.split(':').map(|dir| self.lower(dir)).collect::<Option<_>>()?,
                    false => Vec::new(),
                };
                let work = last.overlay_dir(OverlayDir::Work).and_then(foreign);
                let upper = last.overlay_dir(OverlayDir::Upper);
                let top = upper.map(|upper| self.top(upper, work, filesystem));
                (top.map_or(Some(None), |top| top.map(Some))?, more)
            }
            _ => return None,
        };
        lowers.extend(more);
        Some(Stack { top, lowers, marks })
    }

    fn of_bind(
        &self,
        source: &str,
        filesystem: Option<&Mount>,
    ) -> Option<(Option<WritableTop>, Vec<LowerRef>)> {
        match self.top(source, None, filesystem)? {
            WritableTop::Dir { .. } => Some((None, vec![self.lower(source)?])),
            ours => Some((Some(ours), Vec::new())),
        }
    }

    /// Whose upper directory this is.
    fn top(
        &self,
        upper: &str,
        work: Option<PathBuf>,
        filesystem: Option<&Mount>,
    ) -> Option<WritableTop> {
        let dir = match filesystem {
            Some(mount) => Path::new(&mount.source).parent().map(Path::to_owned),
            None => self.0.as_ref().and_then(|paths| {
                paths.dir_of_upper(Path::new(upper)).filter(|dir| paths.is_dir(dir))
            }),
        };
        match dir {
            Some(dir) => Some(WritableTop::Ours(dir)),
            None => foreign(upper).map(|upper| WritableTop::Dir { upper, work }),
        }
    }

    /// Whose layer this is.
    fn lower(&self, dir: &str) -> Option<LowerRef> {
        let image = |paths: &Paths| Some(paths.dir(paths.layer_at(Path::new(dir))?).join(IMAGE));
        match self.0.as_ref().and_then(image) {
            Some(image) => Some(LowerRef::Image(image)),
            None => foreign(dir).map(LowerRef::Dir),
        }
    }
}

/// A path that means the same in every process, without what an overlay's options escape and what templates fill in.
fn foreign(path: &str) -> Option<PathBuf> {
    let is_plain = path.starts_with('/') && !path.contains(['\\', '{', '}']);
    is_plain.then(|| PathBuf::from(path))
}

/// The image that is mounted by itself.
fn image_of_mount(mount: &Mount) -> Option<LowerRef> {
    (mount.fs_type == "erofs").then(|| LowerRef::Image(PathBuf::from(&mount.source)))
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
        MountParser::new(Path::new("/r"), Path::new("/s")).stack(mounts)
    }

    fn known(top: Option<&str>, lowers: &[&str]) -> Option<Stack> {
        let lowers = lowers.iter().map(|lower| LowerRef::Image(PathBuf::from(lower))).collect();
        let top = top.map(|top| WritableTop::Ours(PathBuf::from(top)));
        Some(Stack { top, lowers, marks: Marks::Trusted })
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
    fn mounts_of_others_are_what_they_say() {
        let dir = |path: &str| LowerRef::Dir(PathBuf::from(path));
        let ours = LowerRef::Image(PathBuf::from("/r/snapshots/3/layer.erofs"));
        let other = |lowers: Vec<LowerRef>| Stack { lowers, ..Stack::default() };
        let over = |upper: &str, lowers| Stack {
            top: Some(WritableTop::Dir { upper: upper.into(), work: Some("/o/2/work".into()) }),
            lowers,
            marks: Marks::User,
        };
        for (mount, known) in [
            (mount("bind", "/other/l/3v", &["ro"]), other(vec![dir("/other/l/3v")])),
            (mount("bind", "/s/w/5/work", &["rw"]), other(vec![dir("/s/w/5/work")])),
            (
                mount("erofs", "/o/3/layer.erofs", &["ro", "loop"]),
                other(vec![LowerRef::Image(PathBuf::from("/o/3/layer.erofs"))]),
            ),
            (
                mount("overlay", "overlay", &["lowerdir=/s/l/3:/o/1/fs"]),
                other(vec![ours, dir("/o/1/fs")]),
            ),
            (
                mount(
                    "overlay",
                    "overlay",
                    &["userxattr", "workdir=/o/2/work", "upperdir=/o/2/fs", "lowerdir=/o/1/fs"],
                ),
                over("/o/2/fs", vec![dir("/o/1/fs")]),
            ),
        ] {
            assert_eq!(stack(std::slice::from_ref(&mount)), Some(known), "{mount:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_not_guessed_at() {
        for mounts in [
            vec![],
            vec![mount("tmpfs", "tmpfs", &[])],
            vec![mount("bind", "relative", &["ro"])],
            vec![mount("overlay", "overlay", &["lowerdir=/s/l/3:/else\\:where/1"])],
            vec![mount("overlay", "overlay", &["lowerdir={{ mount 0 }}"])],
            vec![mount("overlay", "overlay", &["upperdir=/r/snapshots/5/fs"])],
            vec![mount("ext4", "/dev/sda", &[]), mount("bind", "/s/l/3v", &[])],
        ] {
            assert_eq!(stack(&mounts), None, "{mounts:?}");
        }
    }

    #[test]
    fn directories_of_ours_are_told_from_those_of_others() {
        let places = MountParser::new(Path::new("/r"), Path::new("/s"));
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
