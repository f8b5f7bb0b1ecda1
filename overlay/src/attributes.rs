//! Which attributes of a file are part of a layer.

use erolith_mkfs::format::FileType;
use erolith_mkfs::marks::Marks;

/// For whom a layer is made, which decides about the attributes and the sockets in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attributes {
    /// For every host. What says something of the host or of another mount stays behind: labels of SELinux, which the
    /// next host gives itself, access lists of NFS, `trusted.*`, which no container sees, and marks of any overlayfs,
    /// with which the layer could reach into others. So do sockets, which an archive has no form for.
    #[default]
    Portable,
    /// For this host: all but the marks of overlayfs, as they are on disk.
    Local,
}

impl Attributes {
    /// Whether the attribute is one of the file, and wanted.
    pub(crate) fn keep(self, name: &[u8]) -> bool {
        if self == Self::Local {
            return Marks::ALL.iter().all(|m| m.of_kernel(name).is_none());
        }
        if name.starts_with(b"trusted.") || Marks::User.has_name(name) {
            return false;
        }
        match name {
            b"security.selinux" => false,
            b"system.posix_acl_access" | b"system.posix_acl_default" => true,
            _ => name.starts_with(b"user.") || name.starts_with(b"security."),
        }
    }

    /// Whether a file of this type is part of the layer.
    pub(crate) fn takes(self, file_type: FileType) -> bool {
        self == Self::Local || file_type != FileType::Socket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_files_are_kept_and_those_of_hosts_and_mounts_are_not() {
        const BOTH: [bool; 2] = [true; 2];
        const LOCAL: [bool; 2] = [false, true];
        const NONE: [bool; 2] = [false; 2];
        for (name, expected) in [
            ("user.key", BOTH),
            ("security.capability", BOTH),
            ("security.ima", BOTH),
            ("system.posix_acl_access", BOTH),
            ("system.posix_acl_default", BOTH),
            ("security.selinux", LOCAL),
            ("system.nfs4_acl", LOCAL),
            ("trusted.key", LOCAL),
            ("btrfs.compression", LOCAL),
            ("trusted.overlay.opaque", NONE),
            ("trusted.overlay.overlay.opaque", LOCAL),
            ("user.overlay.opaque", NONE),
            ("user.overlay.overlay.opaque", LOCAL),
            ("user.overlayfs", BOTH),
            ("user.fuseoverlayfs.opaque", LOCAL),
            ("user.fuseoverlay", BOTH),
        ] {
            let got = [Attributes::Portable, Attributes::Local]
                .map(|attributes| attributes.keep(name.as_bytes()));
            assert_eq!(got, expected, "{name}");
        }
    }
}
