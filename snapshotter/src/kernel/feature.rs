//! The features that are looked for, and what to say about each.

/// Something a kernel, or the filesystem of a directory, may or may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// The filesystem EROFS.
    Erofs,
    /// EROFS mounted from a file of the directory, without a loop device (6.12).
    FileBacked,
    /// EROFS blocks of two to this power of bytes, from 9 to 16.
    Block(u8),
    /// EROFS with LZ4 data.
    Lz4,
    /// EROFS with MicroLZMA data (5.16).
    Lzma,
    /// EROFS with DEFLATE data (6.6).
    Deflate,
    /// EROFS with Zstandard data (6.10).
    Zstd,
    /// EROFS with extra devices that follow in the same file (6.4).
    Flattened,
    /// EROFS with 48-bit block addresses (6.15).
    Layout48,
    /// The filesystem overlayfs.
    Overlay,
    /// Overlay layers added one by one (6.8).
    LowerdirPlus,
    /// Overlay layers given by open directories (6.13).
    LayerFds,
    /// Overlay layers that are mounted nowhere (6.15).
    DetachedLayers,
    /// Overlay xattrs of a nested overlay, escaped (6.7).
    XattrEscape,
    /// Overlay whiteouts that are files with an xattr (6.7).
    XattrWhiteout,
    /// An overlay that writes to the directory.
    OverlayUpper,
    /// A free loop device.
    Loop,
    /// A loop device with direct I/O on a file of the directory.
    LoopDirectIo,
    /// EROFS with mapped owners.
    IdMapped,
    /// User namespaces.
    UserNamespace,
    /// `/dev/fuse`.
    Fuse,
    /// fs-verity on a file of the directory.
    Verity,
    /// Devices of dm-verity.
    DmVerity,
    /// The immutable flag on a file of the directory.
    Immutable,
    /// Types of files in listings of the directory.
    DirTypes,
    /// Attributes of files in the directory that only root sees.
    TrustedXattrs,
    /// Files without a name in the directory.
    TmpFile,
    /// Files of the directory that share blocks.
    Reflink,
    /// Copies inside the kernel between files of the directory.
    CopyFileRange,
    /// Files of the directory kept to a limit by a project quota.
    ProjectQuota,
    /// A filesystem of limited size in a file of the directory.
    SizedImage,
}

/// Every feature, in the order of a report.
pub const ALL: [Feature; 38] = {
    use Feature as F;
    [
        F::Erofs,
        F::FileBacked,
        F::Block(9),
        F::Block(10),
        F::Block(11),
        F::Block(12),
        F::Block(13),
        F::Block(14),
        F::Block(15),
        F::Block(16),
        F::Lz4,
        F::Lzma,
        F::Deflate,
        F::Zstd,
        F::Flattened,
        F::Layout48,
        F::Overlay,
        F::LowerdirPlus,
        F::LayerFds,
        F::DetachedLayers,
        F::XattrEscape,
        F::XattrWhiteout,
        F::OverlayUpper,
        F::Loop,
        F::LoopDirectIo,
        F::IdMapped,
        F::UserNamespace,
        F::Fuse,
        F::Verity,
        F::DmVerity,
        F::Immutable,
        F::DirTypes,
        F::TrustedXattrs,
        F::TmpFile,
        F::Reflink,
        F::CopyFileRange,
        F::ProjectQuota,
        F::SizedImage,
    ]
};

impl Feature {
    /// A short name, stable for machines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::FileBacked => "erofs-file-backed",
            Self::Block(9) => "erofs-block-512",
            Self::Block(10) => "erofs-block-1k",
            Self::Block(11) => "erofs-block-2k",
            Self::Block(12) => "erofs-block-4k",
            Self::Block(13) => "erofs-block-8k",
            Self::Block(14) => "erofs-block-16k",
            Self::Block(15) => "erofs-block-32k",
            Self::Block(_) => "erofs-block-64k",
            Self::Lz4 => "erofs-lz4",
            Self::Lzma => "erofs-lzma",
            Self::Deflate => "erofs-deflate",
            Self::Zstd => "erofs-zstd",
            Self::Flattened => "erofs-joined-devices",
            Self::Layout48 => "erofs-48bit",
            Self::Overlay => "overlay",
            Self::LowerdirPlus => "overlay-lowerdir-plus",
            Self::LayerFds => "overlay-layer-fds",
            Self::DetachedLayers => "overlay-detached-layers",
            Self::XattrEscape => "overlay-xattr-escape",
            Self::XattrWhiteout => "overlay-xattr-whiteout",
            Self::OverlayUpper => "overlay-upper",
            Self::Loop => "loop",
            Self::LoopDirectIo => "loop-direct-io",
            Self::IdMapped => "erofs-id-mapped",
            Self::UserNamespace => "user-namespaces",
            Self::Fuse => "fuse",
            Self::Verity => "fs-verity",
            Self::DmVerity => "dm-verity",
            Self::Immutable => "immutable-flag",
            Self::DirTypes => "dir-types",
            Self::TrustedXattrs => "trusted-xattrs",
            Self::TmpFile => "tmpfile",
            Self::Reflink => "reflink",
            Self::CopyFileRange => "copy-file-range",
            Self::ProjectQuota => "project-quota",
            Self::SizedImage => "sized-image",
        }
    }

    /// Whether images cannot be mounted at all without it. The others have a fallback, or serve single features.
    #[must_use]
    pub fn is_required(self) -> bool {
        matches!(self, Self::Erofs | Self::Overlay | Self::Block(12))
    }

    /// Whether the images that erolith makes of layers have a use for it. Others are for images of strangers, or for
    /// indexes of archives.
    #[must_use]
    pub fn is_of_use(self) -> bool {
        !matches!(self, Self::Block(bits) if bits != 12)
    }

    /// What is lost without it, and what to do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Erofs => "load it (modprobe erofs) or use a kernel with CONFIG_EROFS_FS (5.4)",
            Self::FileBacked => {
                "loop devices are used; for none of them, kernel 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE \
                 and images on a disk filesystem (not tmpfs or overlayfs)"
            }
            Self::Block(9..=11) => "only tar index images have such blocks; for these, kernel 6.4",
            Self::Block(12) => "kernel 5.4 on 4 KiB pages mounts it; larger pages need kernel 6.4",
            Self::Block(_) => {
                "larger than this machine's pages; images have 4 KiB blocks by default"
            }
            Self::Lz4 => "use a kernel with CONFIG_EROFS_FS_ZIP, or uncompressed images",
            Self::Lzma => "use a kernel with CONFIG_EROFS_FS_ZIP_LZMA (5.16), or another codec",
            Self::Deflate => {
                "use a kernel with CONFIG_EROFS_FS_ZIP_DEFLATE (6.6), or another codec"
            }
            Self::Zstd => "use a kernel with CONFIG_EROFS_FS_ZIP_ZSTD (6.10), or another codec",
            Self::Flattened => "joined tar indexes need kernel 6.4; keep the tar beside its index",
            Self::Layout48 => "only images above 16 TiB need it: kernel 6.15",
            Self::Overlay => {
                "images with one layer still mount; load it (modprobe overlay) or use a kernel with CONFIG_OVERLAY_FS"
            }
            Self::LowerdirPlus | Self::LayerFds | Self::DetachedLayers => {
                "a short-lived mount namespace is used instead; nothing to do"
            }
            Self::XattrEscape => "nested overlays lose their overlay xattrs; kernel 6.7",
            Self::XattrWhiteout => "device whiteouts are used instead; kernel 6.7 for the others",
            Self::OverlayUpper => {
                "containers cannot write here; keep the root on ext4, xfs or btrfs, not on overlayfs or NFS"
            }
            Self::Loop => {
                "load it (modprobe loop), give access to /dev/loop-control, or free a device"
            }
            Self::LoopDirectIo => "loop devices cache content twice; nothing fails",
            Self::IdMapped => "mapped owners are not available; kernel 5.19",
            Self::UserNamespace => {
                "set user.max_user_namespaces above 0, or use a kernel with CONFIG_USER_NS"
            }
            Self::Fuse => "load it (modprobe fuse); only lazy pulling needs it",
            Self::Verity | Self::DmVerity | Self::Immutable => self.protection_advice(),
            Self::DirTypes => "overlayfs needs them; make xfs with ftype=1, ext4 with filetype",
            Self::TrustedXattrs => "images are checked at each mount; opaque directories are lost",
            Self::TmpFile => "temporary files have names and are removed at the next start",
            Self::Reflink => {
                "shared content is copied or hard-linked; xfs and btrfs can share blocks"
            }
            Self::CopyFileRange => "content is copied through the process; slower, nothing fails",
            Self::ProjectQuota => {
                "writable layers with a limit are images; for quotas, xfs mounted with pquota, or ext4 with \
                 tune2fs -O project,quota mounted with prjquota"
            }
            Self::SizedImage => "writable layers are limited by quota only; install e2fsprogs",
        }
    }

    /// [`Feature::advice`] for what keeps images from being changed.
    fn protection_advice(self) -> &'static str {
        match self {
            Self::Verity => {
                "images are protected by digests only; for more, a kernel with CONFIG_FS_VERITY and \
                 tune2fs -O verity (ext4), or btrfs"
            }
            Self::DmVerity => {
                "layers with hash trees are mounted without; load it (modprobe dm-verity) or use a kernel with \
                 CONFIG_DM_VERITY"
            }
            _ => "images are protected by permissions only; ext4, xfs and btrfs have the flag",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_feature_is_listed_once_with_its_own_name() {
        let names: BTreeSet<_> = ALL.iter().map(|f| f.name()).collect();
        let features: BTreeSet<_> = ALL.iter().collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(features.len(), ALL.len());
    }
}
