//! How the service is set up.

use std::path::{Path, PathBuf};

use super::limit;
use erolith_durable::Durability;

use crate::api_mounts::OverlayDir;
use crate::mounts::Backing;
use crate::protect::FsVerityPolicy;
use crate::uppers::LimitBy;
use crate::verity::DmVerity;
use crate::{Error, Result, ServiceError};

/// What kind of mounts containerd is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Layers are mounted by us, and every caller of mount(2) can use the rest.
    #[default]
    Plain,
    /// Templates for containerd's mount manager (2.2 and later).
    Managed,
}

/// How the service is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where snapshots are kept.
    pub root: PathBuf,
    /// Where layers are mounted. Short: every byte counts once for each layer of a container.
    pub state: PathBuf,
    /// What kind of mounts containerd is given.
    pub profile: Profile,
    /// How images get under the filesystem.
    pub backing: Backing,
    /// Appended to the options of every overlay.
    pub overlay_options: Vec<String>,
    /// Whether what is acknowledged survives a power cut. Without it, it survives the end of the process.
    pub sync: bool,
    /// The limit, in bytes, of writable layers whose labels name none; 0 for none. Snapshots that layers are unpacked
    /// into have none then.
    pub default_size: u64,
    /// How writable layers are kept to their limits.
    pub limit_by: LimitBy,
    /// Whether the images of layers are sealed with fs-verity. Required, a layer from a cache cannot be used.
    pub verity: FsVerityPolicy,
    /// Whether the images of committed layers become immutable, where that can be and the inode is theirs alone. Then
    /// images are not shared between layers with the same content.
    pub immutable: bool,
    /// Whether layers are mounted with dm-verity.
    pub dm_verity: DmVerity,
    /// Read-only caches of layers, `<algorithm>/<2 hex>/<hex>.erofs` by diffID, as containerd's
    /// `layer_content_caches`. What a snapshot uses must stay there.
    pub caches: Vec<PathBuf>,
}

impl Config {
    /// The defaults for a root.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            state: PathBuf::from("/run/erolith"),
            profile: Profile::default(),
            backing: Backing::default(),
            overlay_options: Vec::new(),
            sync: true,
            default_size: 0,
            limit_by: LimitBy::default(),
            verity: FsVerityPolicy::default(),
            immutable: false,
            dm_verity: DmVerity::default(),
            caches: Vec::new(),
        }
    }

    /// Whether a power cut may take back what is acknowledged.
    pub(super) fn durability(&self) -> Durability {
        Durability::of(self.sync)
    }

    /// Refuses what could only fail later, or mean something else then.
    pub(super) fn validate(&self) -> Result<()> {
        let dirs = [("root", &self.root), ("state", &self.state)];
        for (setting, dir) in dirs.into_iter().chain(self.caches.iter().map(|dir| ("cache", dir))) {
            check_path(dir).map_err(|reason| {
                let value = dir.display().to_string();
                Error::Service(ServiceError::Config { setting, value, reason })
            })?;
        }
        if let (FsVerityPolicy::Required, Some(cache)) = (self.verity, self.caches.first()) {
            let value = cache.display().to_string();
            let reason = "what lies there is not erolith's to seal, and fs-verity is required";
            return Err(Error::Service(ServiceError::Config { setting: "cache", value, reason }));
        }
        for option in &self.overlay_options {
            check_option(option).map_err(|reason| {
                let value = option.clone();
                Error::Service(ServiceError::Config { setting: "overlay option", value, reason })
            })?;
        }
        if self.default_size > 0 {
            limit::check("default size", self.default_size)?;
        }
        Ok(())
    }
}

/// Paths become parts of option strings and templates, which have no escapes that all readers know.
fn check_path(path: &Path) -> Result<(), &'static str> {
    let text = path.to_str().ok_or("not UTF-8")?;
    if !path.is_absolute() {
        return Err("not absolute");
    }
    if text.contains([':', ',', '\\', '"', '\n']) || text.contains("{{") {
        return Err("holds a character that mount options or templates take for their own");
    }
    Ok(())
}

fn check_option(option: &str) -> Result<(), &'static str> {
    let (key, value) = option.split_once('=').unwrap_or((option, ""));
    match (key, value) {
        ("", _) => Err("empty"),
        (key, _) if OverlayDir::NAMES.contains(&key.trim_end_matches('+')) || key == "datadir+" => {
            Err("erolith sets it for every snapshot: leave it out")
        }
        // What they leave in an upper directory means something only in the overlay it was written in, so it is no layer
        // for other differs and tools (fs/overlayfs/params.c: verity goes with metacopy).
        ("redirect_dir", "on") | ("metacopy", "on") | ("verity", "on" | "require") => Err(
            "upper directories then refer to the layers below, and are no layers that a commit can be made of: leave \
                 it out, or say off",
        ),
        // Its index has directories and removed names, too.
        ("nfs_export", "on") => Err(
            "commits do not follow the index of directories that it keeps: leave it out, or say off; index=on is \
                 followed",
        ),
        ("userxattr", _) => {
            Err("layers carry trusted.overlay attributes, which are not read then: leave it out")
        }
        _ if option.contains(',') => Err("one option each"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_could_only_fail_later_are_refused() {
        let config = |root: &str, option: &str| {
            let mut config = Config::new(PathBuf::from(root));
            config.overlay_options = vec![option.to_owned()];
            config.validate().map_err(|e| e.code().to_owned())
        };
        for option in ["volatile", "index=on", "xino=auto", "redirect_dir=off", "nfs_export=off"] {
            assert_eq!(config("/r", option), Ok(()), "{option}");
        }
        let bad = [
            "",
            "lowerdir=/",
            "upperdir=/",
            "workdir=/",
            "redirect_dir=on",
            "metacopy=on",
            "verity=require",
            "nfs_export=on",
            "userxattr",
            "a,b",
        ];
        for option in bad {
            assert_eq!(config("/r", option), Err("config".to_owned()), "{option}");
        }
        for root in ["r", "/a:b", "/a,b", "/a\\b", "/{{x", ""] {
            assert_eq!(config(root, "volatile"), Err("config".to_owned()), "{root}");
        }
        let mut config = Config::new(PathBuf::from("/r"));
        config.caches = vec![PathBuf::from("relative")];
        assert!(config.validate().is_err());
        let mut config = Config::new(PathBuf::from("/r"));
        config.caches = vec![PathBuf::from("/c")];
        config.validate().unwrap();
        config.verity = FsVerityPolicy::Required;
        assert!(config.validate().is_err());
        let mut config = Config::new(PathBuf::from("/r"));
        for (size, is_good) in [(0, true), (1, false), ((16 << 20) - 1, false), (16 << 20, true)] {
            config.default_size = size;
            assert_eq!(config.validate().is_ok(), is_good, "{size}");
        }
    }
}
