//! Options of the final mount, as given after `-o`.

use rustix::mount::MountAttrFlags;

use crate::{Error, MountError, Result};

/// EROFS options that are passed on, and whether they take a value.
const EROFS_OPTIONS: [(&str, bool); 7] = [
    ("user_xattr", false),
    ("nouser_xattr", false),
    ("acl", false),
    ("noacl", false),
    ("cache_strategy", true),
    ("dax", false),
    ("dax", true),
];

/// What the mount at the target shall be, besides read-only, which it always is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Attributes of the mount at the target. A container's root needs its devices and setuid programs, so
    /// the default is read-only and nothing else.
    pub attributes: MountAttrFlags,
    /// Options for every EROFS filesystem, with their values.
    pub erofs: Vec<(String, Option<String>)>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { attributes: MountAttrFlags::MOUNT_ATTR_RDONLY, erofs: Vec::new() }
    }
}

impl MountOptions {
    /// Reads a comma-separated list in the words of mount(8); a later word overrides an earlier one.
    ///
    /// # Errors
    /// [`MountError::BadOption`] for what is unknown, would make the mount writable, or is not safe.
    pub fn parse(list: &str) -> Result<Self> {
        let mut options = Self::default();
        for word in list.split(',').filter(|w| !w.is_empty()) {
            options.apply(word)?;
        }
        Ok(options)
    }

    fn apply(&mut self, word: &str) -> Result<()> {
        use MountAttrFlags as A;
        let atime = A::MOUNT_ATTR_NOATIME | A::MOUNT_ATTR_STRICTATIME;
        let (clear, set) = match word {
            "ro" | "defaults" => (A::empty(), A::empty()),
            "nodev" => (A::empty(), A::MOUNT_ATTR_NODEV),
            "dev" => (A::MOUNT_ATTR_NODEV, A::empty()),
            "nosuid" => (A::empty(), A::MOUNT_ATTR_NOSUID),
            "suid" => (A::MOUNT_ATTR_NOSUID, A::empty()),
            "noexec" => (A::empty(), A::MOUNT_ATTR_NOEXEC),
            "exec" => (A::MOUNT_ATTR_NOEXEC, A::empty()),
            "nosymfollow" => (A::empty(), A::MOUNT_ATTR_NOSYMFOLLOW),
            "symfollow" => (A::MOUNT_ATTR_NOSYMFOLLOW, A::empty()),
            "nodiratime" => (A::empty(), A::MOUNT_ATTR_NODIRATIME),
            "noatime" => (atime, A::MOUNT_ATTR_NOATIME),
            "relatime" => (atime, A::empty()),
            "strictatime" => (atime, A::MOUNT_ATTR_STRICTATIME),
            _ => return self.apply_erofs(word),
        };
        self.attributes = self.attributes.difference(clear).union(set);
        Ok(())
    }

    fn apply_erofs(&mut self, word: &str) -> Result<()> {
        let refuse =
            |reason| Err(Error::Mount(MountError::BadOption { option: word.to_owned(), reason }));
        match word {
            "rw" => return refuse("EROFS is read-only"),
            // CVE-2026-23224: use after free in file-backed mounts with direct I/O.
            "directio" => {
                return refuse(
                    "set by erolith where it is safe; elsewhere it is not (CVE-2026-23224)",
                );
            }
            "loop" => return refuse("use --loop"),
            _ => {}
        }
        let (key, value) = word.split_once('=').map_or((word, None), |(k, v)| (k, Some(v)));
        if key == "device" {
            return refuse("use --device");
        }
        if !EROFS_OPTIONS.contains(&(key, value.is_some())) {
            return refuse("not an option that erolith passes on");
        }
        self.erofs.push((key.to_owned(), value.map(str::to_owned)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_mount_become_attributes() {
        use MountAttrFlags as A;
        let ro = A::MOUNT_ATTR_RDONLY;
        let table = [
            ("", ro),
            ("ro,defaults", ro),
            ("nodev,nosuid", ro | A::MOUNT_ATTR_NODEV | A::MOUNT_ATTR_NOSUID),
            ("noexec,exec", ro),
            ("strictatime,noatime", ro | A::MOUNT_ATTR_NOATIME),
            ("noatime,relatime", ro),
        ];
        for (list, want) in table {
            assert_eq!(MountOptions::parse(list).unwrap().attributes, want, "{list}");
        }
    }

    #[test]
    fn erofs_options_pass_and_others_are_refused() {
        let parsed = MountOptions::parse("noacl,cache_strategy=readahead,dax=never").unwrap();
        let want = [("noacl", None), ("cache_strategy", Some("readahead")), ("dax", Some("never"))];
        let got: Vec<_> = parsed.erofs.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        assert_eq!(got, want);
        for bad in ["rw", "directio", "lowerdir=/", "cache_strategy", "acl=1", "device=/x", "loop"]
        {
            assert_eq!(MountOptions::parse(bad).unwrap_err().code(), "mount-option", "{bad}");
        }
    }
}
