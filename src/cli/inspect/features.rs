//! What an image asks of the kernel that mounts it.

use erolith_mkfs::format::{compat, incompat};
use erolith_mkfs::image::{Algorithm, Super};

/// A feature of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) name: &'static str,
    /// A kernel that does not know it refuses the image.
    pub(super) needed: bool,
    /// The first kernel that knows it, as major and minor.
    pub(super) kernel: (u8, u8),
    pub(super) meaning: &'static str,
}

/// The kernel with which EROFS left staging.
const FIRST_KERNEL: (u8, u8) = (5, 4);

const fn needed(name: &'static str, kernel: (u8, u8), meaning: &'static str) -> Feature {
    Feature { name, needed: true, kernel, meaning }
}

const fn optional(name: &'static str, kernel: (u8, u8), meaning: &'static str) -> Feature {
    Feature { name, needed: false, kernel, meaning }
}

/// Bits of `feature_incompat`.
const INCOMPAT: [(u32, Feature); 9] = [
    (incompat::ZERO_PADDING, needed("0padding", (5, 4), "compressed data ends at block borders")),
    (
        incompat::COMPR_CFGS,
        needed("compr_cfgs", (5, 13), "parameters of compression, big clusters"),
    ),
    (
        incompat::CHUNKED_FILE,
        needed("chunked_file", (5, 15), "files in chunks: holes, deduplication"),
    ),
    (incompat::DEVICE_TABLE, needed("device_table", (5, 16), "data on other devices")),
    (incompat::ZTAILPACKING, needed("ztailpacking", (5, 17), "compressed tails behind inodes")),
    (incompat::FRAGMENTS, needed("fragments", (6, 1), "tails of files packed together")),
    (
        incompat::XATTR_PREFIXES,
        needed("xattr_prefixes", (6, 4), "long names of xattrs stored once"),
    ),
    (incompat::LAYOUT_48BIT, needed("48bit", (6, 15), "addresses of 48 bits")),
    (incompat::METABOX, needed("metabox", (6, 17), "compressed metadata")),
];

/// Bits of `feature_compat`.
const COMPAT: [(u32, Feature); 6] = [
    (compat::SB_CHKSUM, optional("sb_chksum", (5, 5), "checksum of the superblock")),
    (compat::MTIME, optional("mtime", (5, 4), "times are modification times")),
    (
        compat::XATTR_FILTER,
        optional("xattr_filter", (6, 6), "absent xattrs are found absent at once"),
    ),
    (
        compat::SHARED_EA_IN_METABOX,
        optional("shared_ea_in_metabox", (6, 17), "shared xattrs are in the metabox"),
    ),
    (
        compat::PLAIN_XATTR_PFX,
        optional("plain_xattr_pfx", (6, 17), "long prefixes are plain on disk"),
    ),
    (
        compat::ISHARE_XATTRS,
        optional("ishare_xattrs", (7, 0), "fingerprints, to share cached pages between images"),
    ),
];

/// The features of an image, those that are needed first.
pub(super) fn features(sb: &Super) -> Vec<Feature> {
    let mut found = Vec::new();
    let block = match sb.block_bits {
        12 => None,
        0..12 => Some(needed("small blocks", (6, 4), "blocks smaller than 4 KiB")),
        _ => Some(needed("large blocks", (5, 4), "kernels with pages at least as large")),
    };
    found.extend(block);
    let bits = |table: &[(u32, Feature)], has: &dyn Fn(u32) -> bool| -> Vec<Feature> {
        table.iter().filter(|(bit, _)| has(*bit)).map(|(_, feature)| *feature).collect()
    };
    found.extend(bits(&INCOMPAT, &|bit| sb.has_incompat(bit)));
    if sb.has_incompat(incompat::COMPR_CFGS) {
        for (algorithm, kernel) in [
            (Algorithm::Lz4, (5, 4)),
            (Algorithm::Lzma, (5, 16)),
            (Algorithm::Deflate, (6, 6)),
            (Algorithm::Zstd, (6, 10)),
        ] {
            if sb.compression.has(algorithm) {
                found.push(needed(algorithm.name(), kernel, "compression algorithm"));
            }
        }
    }
    found.extend(bits(&COMPAT, &|bit| sb.has_compat(bit)));
    found
}

/// The oldest kernel that mounts an image with these features.
pub(super) fn oldest_kernel(features: &[Feature]) -> (u8, u8) {
    let needed = features.iter().filter(|feature| feature.needed).map(|feature| feature.kernel);
    needed.fold(FIRST_KERNEL, std::cmp::max)
}

/// A version as it is written.
pub(super) fn version((major, minor): (u8, u8)) -> String {
    format!("{major}.{minor}")
}
