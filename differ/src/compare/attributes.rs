//! Which extended attributes of a file belong into a layer.

use super::Marks;

/// Is the attribute one of the file, or one that says something of the layer (`marks`)? What says something of the host
/// or of another mount stays behind: labels of SELinux, which the next host gives itself, access lists of NFS, `trusted.*`,
/// which no container sees, and marks of overlayfs that this layer does not go by, with which it could reach into others.
pub(super) fn belongs_to_layer(name: &[u8], marks: Marks) -> bool {
    let is_mark = |prefix: &[u8]| {
        name.strip_prefix(prefix).is_some_and(|rest| !rest.starts_with(b"overlay."))
    };
    if name.starts_with(b"user.overlay.") {
        return marks == Marks::User && is_mark(b"user.overlay.");
    }
    if name.starts_with(b"trusted.") {
        return marks == Marks::Trusted && is_mark(b"trusted.overlay.");
    }
    match name {
        b"security.selinux" => false,
        b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") || name.starts_with(b"security."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_files_are_kept_and_those_of_hosts_and_mounts_are_not() {
        const BOTH: [bool; 2] = [true; 2];
        const NONE: [bool; 2] = [false; 2];
        for (name, expected) in [
            ("user.key", BOTH),
            ("security.capability", BOTH),
            ("security.ima", BOTH),
            ("system.posix_acl_access", BOTH),
            ("system.posix_acl_default", BOTH),
            ("security.selinux", NONE),
            ("system.nfs4_acl", NONE),
            ("trusted.key", NONE),
            ("btrfs.compression", NONE),
            ("trusted.overlay.opaque", [true, false]),
            ("trusted.overlay.overlay.opaque", NONE),
            ("user.overlay.opaque", [false, true]),
            ("user.overlay.overlay.opaque", NONE),
            ("user.overlayfs", BOTH),
        ] {
            let got =
                [Marks::Trusted, Marks::User].map(|marks| belongs_to_layer(name.as_bytes(), marks));
            assert_eq!(got, expected, "{name}");
        }
    }
}
