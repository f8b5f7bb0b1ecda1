//! Extended attributes: a header and entries behind the inode, and an area of shared entries.

use xxhash_rust::xxh32::xxh32;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of one shared xattr id in an inode.
pub const SHARED_ID_SIZE: usize = 4;

/// Seed of the name filter, `EROFS_XATTR_FILTER_SEED`.
const FILTER_SEED: u32 = 0x25BB_E08F;

/// `struct erofs_xattr_ibody_header`, followed by `shared_count` ids and then by entries.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct XattrHeader {
    /// A set bit says that no name hashing to it is present; 0 turns the filter off. See [`filter_bit`].
    pub name_filter: U32,
    /// Number of shared ids.
    pub shared_count: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

const _: () = assert!(size_of::<XattrHeader>() == 12);

/// `struct erofs_xattr_entry`, followed by the name without its prefix and the value, padded to 4 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct XattrEntry {
    /// Bytes of name behind the prefix.
    pub name_len: u8,
    /// The prefix: see [`prefix_text`]; `0x80 | i` is entry i of the long prefix table.
    pub name_index: u8,
    /// Bytes of value.
    pub value_size: U16,
}

const _: () = assert!(size_of::<XattrEntry>() == 4);

/// Prefixes by index, in the order in which a name is matched.
const PREFIXES: [(u8, &[u8]); 6] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (5, b"lustre."),
    (6, b"security."),
];

/// Splits a full name into its prefix index and the rest. `None` when EROFS cannot represent the name:
/// an unknown namespace, or nothing behind a prefix that wants a name.
#[must_use]
pub fn prefix_of(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|&(index, prefix)| {
        let rest = name.strip_prefix(prefix)?;
        let whole_name = matches!(index, 2 | 3);
        (rest.is_empty() == whole_name).then_some((index, rest))
    })
}

/// The text of a short prefix; `None` for an unknown index.
#[must_use]
pub fn prefix_text(index: u8) -> Option<&'static [u8]> {
    PREFIXES.iter().find(|&&(i, _)| i == index).map(|&(_, text)| text)
}

/// The bit of the name filter for a name: `rest` is what follows the short prefix `index`.
#[must_use]
pub fn filter_bit(index: u8, rest: &[u8]) -> u32 {
    1 << (xxh32(rest, FILTER_SEED.wrapping_add(u32::from(index))) & 31)
}

/// Bytes of xattrs behind an inode whose `i_xattr_icount` is `icount`.
#[must_use]
pub fn ibody_size(icount: u16) -> u64 {
    match icount {
        0 => 0,
        n => 12 + 4 * (u64::from(n) - 1),
    }
}

/// The `i_xattr_icount` of an area of `bytes` bytes, header included; `None` when it does not fit 16 bits.
#[must_use]
pub fn icount(bytes: usize) -> Option<u16> {
    if bytes == 0 {
        return Some(0);
    }
    u16::try_from(bytes.checked_sub(12)?.div_ceil(4) + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_bits_match_the_kernel() {
        let table: [(&[u8], u8, u32); 8] = [
            (b"overlay.origin", 4, 18),
            (b"overlay.opaque", 4, 20),
            (b"overlay.redirect", 4, 17),
            (b"overlay.metacopy", 4, 31),
            (b"k", 1, 14),
            (b"selinux", 6, 11),
            (b"capability", 6, 29),
            (b"", 2, 30),
        ];
        for (rest, index, bit) in table {
            assert_eq!(filter_bit(index, rest), 1 << bit, "{rest:?}");
        }
    }

    #[test]
    fn prefixes_split_and_join() {
        assert_eq!(prefix_of(b"security.capability"), Some((6, &b"capability"[..])));
        assert_eq!(prefix_of(b"system.posix_acl_access"), Some((2, &b""[..])));
        assert_eq!(prefix_of(b"user."), None);
        assert_eq!(prefix_of(b"com.apple.x"), None);
        assert_eq!(prefix_text(4), Some(&b"trusted."[..]));
    }

    #[test]
    fn icount_is_the_inverse_of_ibody_size() {
        for icount_value in [0u16, 2, 3, 65_535] {
            let bytes = usize::try_from(ibody_size(icount_value)).unwrap();
            assert_eq!(icount(bytes), Some(icount_value));
        }
        assert_eq!(icount(262_149), None);
    }
}
