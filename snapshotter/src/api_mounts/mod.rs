//! Mounts as containerd's API has them: the one grammar that is written to callers and read back from them.
//!
//! `write` makes the mounts of a snapshot, [`Paths`] says which snapshot a path in them belongs to, and [`Stack`] what any
//! mounts are made of, those of other snapshotters included. Nothing here touches a file.

mod paths;
mod stack;
pub(crate) mod write;

pub use paths::Paths;
pub use stack::{LowerRef, MountParser, Stack, WritableTop};

use std::path::{Path, PathBuf};

/// A mount as containerd's API has it (`containerd.types.Mount`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `bind`, `overlay`, `erofs`, or one of them behind words for the mount manager.
    pub fs_type: String,
    /// What is mounted.
    pub source: String,
    /// Where below the container's root; always empty here, which means at it.
    pub target: String,
    /// Options as mount(8) has them.
    pub options: Vec<String>,
}

/// An option of an overlay that names directories (Documentation/filesystems/overlayfs.rst of Linux).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OverlayDir {
    /// The layers below, the nearest first, separated by colons.
    Lower,
    /// What is written to.
    Upper,
    /// The work directory beside it.
    Work,
}

impl OverlayDir {
    /// All there are, with their names.
    pub(crate) const NAMES: [&'static str; 3] =
        [Self::Lower.name(), Self::Upper.name(), Self::Work.name()];

    /// What the option is called.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lower => "lowerdir",
            Self::Upper => "upperdir",
            Self::Work => "workdir",
        }
    }

    /// The option with this value.
    pub(crate) fn option(self, value: impl std::fmt::Display) -> String {
        format!("{}={value}", self.name())
    }
}

impl Mount {
    /// The type without the words for the mount manager before it.
    fn base_type(&self) -> &str {
        self.fs_type.rsplit('/').next().unwrap_or_default()
    }

    /// Whether the mount manager makes the filesystem that is mounted. It is in the directory of its snapshot.
    fn is_made(&self) -> bool {
        self.fs_type.starts_with("mkfs/")
    }

    /// The value of an option of an overlay.
    fn overlay_dir(&self, dir: OverlayDir) -> Option<&str> {
        let value = |option| str::strip_prefix(option, dir.name())?.strip_prefix('=');
        self.options.iter().find_map(|option| value(option))
    }

    /// Whether a flag is among the options.
    fn has_flag(&self, flag: &str) -> bool {
        self.options.iter().any(|option| option == flag)
    }
}

/// The directory that the layer of these mounts belongs in, by the rule of containerd's EROFS differ (`MountsToLayer` in
/// internal/erofsutils): a first mount of type `mkfs/...` lies in the directory, else the last mount's source or upper
/// directory does. Whether it is one of an EROFS snapshotter, a marker in it tells.
pub(crate) fn layer_dir(mounts: &[Mount]) -> Option<PathBuf> {
    let (first, last) = (mounts.first()?, mounts.last()?);
    if first.is_made() {
        return parent_of(&first.source);
    }
    match last.base_type() {
        "bind" | "erofs" => parent_of(&last.source),
        "overlay" => match last.overlay_dir(OverlayDir::Upper) {
            Some(upper) => parent_of(upper),
            None => last.overlay_dir(OverlayDir::Lower).and_then(|_| parent_of(&first.source)),
        },
        _ => None,
    }
}

fn parent_of(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    path.is_absolute().then(|| path.parent().map(Path::to_path_buf)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs_type: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            fs_type: fs_type.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(|&o| o.to_owned()).collect(),
        }
    }

    #[test]
    fn directories_are_found_by_the_rule_of_containerd() {
        let erofs = || mount("erofs", "/r/1/layer.erofs", &["ro", "loop"]);
        let upper = ["workdir=/r/2/work", "upperdir=/r/2/fs", "lowerdir={{ mount 0 }}"];
        let table: [(Vec<Mount>, Option<&str>); 11] = [
            (vec![], None),
            (vec![mount("bind", "/r/1/fs", &["rw", "rbind"])], Some("/r/1")),
            (vec![erofs()], Some("/r/1")),
            (vec![mount("overlay", "overlay", &upper)], Some("/r/2")),
            (vec![erofs(), mount("format/mkdir/overlay", "overlay", &upper)], Some("/r/2")),
            (vec![erofs(), mount("format/overlay", "overlay", &["lowerdir=x"])], Some("/r/1")),
            (vec![mount("overlay", "overlay", &["lowerdir=/a:/b"])], None),
            (vec![mount("overlay", "overlay", &[])], None),
            (
                vec![
                    mount("mkfs/ext4", "/r/3/rwlayer.img", &["rw"]),
                    mount("format/mkdir/bind", "{{ mount 0 }}/upper", &["rw"]),
                ],
                Some("/r/3"),
            ),
            (vec![mount("tmpfs", "/r/1/fs", &[])], None),
            (vec![mount("bind", "relative/fs", &[])], None),
        ];
        for (mounts, want) in table {
            assert_eq!(layer_dir(&mounts).as_deref(), want.map(Path::new), "{mounts:?}");
        }
    }
}
