//! The smallest images that show whether a kernel has a feature: a superblock and a few inodes in the 2 KiB
//! from which every block size starts.
//!
//! They are put together here and not by the writer, since they must hold exactly the bits in question and
//! nothing the writer may choose to add.

use erolith_mkfs::format::{
    CompactInode, DeviceSlot, Dirent, FileType, Layout, SUPER_MAGIC, SUPER_OFFSET, Superblock,
    XattrEntry, XattrHeader, icount, mode, prefix_of,
};
use zerocopy::{FromZeros, IntoBytes};

/// The place of the superblock, as an index.
const SUPER: usize = 1024;
const _: () = assert!(SUPER as u64 == SUPER_OFFSET);
/// The device table, in the first place behind the superblock.
const DEVICE_TABLE: usize = SUPER + size_of::<Superblock>();
/// Inodes start here, each with its xattrs and directory in [`NODE_SIZE`] bytes.
const NODES: usize = 1536;
const NODE_SIZE: usize = 128;
/// Four nodes fill the 512 bytes, so none crosses a block of any size.
const MAX_NODES: usize = 4;
const IMAGE_SIZE: usize = NODES + MAX_NODES * NODE_SIZE;

/// What an image shall be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec<'a> {
    /// log2 of the block size.
    pub(super) block_bits: u8,
    /// Bits of `feature_incompat`.
    pub(super) incompat: u32,
    /// Bitmap of compression algorithms.
    pub(super) algorithms: u16,
    /// The configuration record of the algorithm, which follows the superblock after its length.
    pub(super) config: &'a [u8],
    /// One extra device, of one block, follows in the same file.
    pub(super) flattened: bool,
    /// The root nid is in the field of 48-bit images.
    pub(super) wide: bool,
    /// The root first.
    pub(super) nodes: &'a [Node<'a>],
}

/// A directory or an empty file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    /// Type and permissions.
    pub(super) mode: u16,
    /// One xattr: its name and its value.
    pub(super) xattr: Option<(&'a [u8], &'a [u8])>,
    /// Names, in order, with the node each means. Only for directories.
    pub(super) entries: &'a [(&'a str, usize)],
}

/// A directory with nothing in it.
pub(super) const EMPTY: Node<'static> =
    Node { mode: mode::IFDIR | 0o755, xattr: None, entries: &[] };

/// An empty root, 4 KiB blocks and no feature that any kernel might lack.
pub(super) const PLAIN: Spec<'static> = Spec {
    block_bits: 12,
    incompat: 0,
    algorithms: 0,
    config: &[],
    flattened: false,
    wide: false,
    nodes: &[EMPTY],
};

/// The bytes of an image.
pub(super) fn build(spec: &Spec<'_>) -> Vec<u8> {
    let size = IMAGE_SIZE.max(1 << spec.block_bits);
    let mut image = vec![0; size];
    put(&mut image, SUPER, superblock(spec, size).as_bytes());
    if let Ok(length @ 1..) = u16::try_from(spec.config.len()) {
        let record = [&length.to_le_bytes(), spec.config].concat();
        put(&mut image, SUPER + size_of::<Superblock>(), &record);
    }
    if spec.flattened {
        let mut slot = DeviceSlot::new_zeroed();
        slot.blocks_lo.set(1);
        slot.uniaddr_lo.set(u32::try_from(size >> spec.block_bits).unwrap_or(u32::MAX));
        put(&mut image, DEVICE_TABLE, slot.as_bytes());
        image.resize(size + (1 << spec.block_bits), 0);
    }
    for (index, node) in spec.nodes.iter().take(MAX_NODES).enumerate() {
        put(&mut image, NODES + index * NODE_SIZE, &node_bytes(node, index));
    }
    image
}

fn superblock(spec: &Spec<'_>, size: usize) -> Superblock {
    let mut sb = Superblock::new_zeroed();
    let root = nid(0);
    sb.magic.set(SUPER_MAGIC);
    sb.blkszbits = spec.block_bits;
    sb.inos.set(spec.nodes.len() as u64);
    sb.blocks_lo.set(u32::try_from(size >> spec.block_bits).unwrap_or(u32::MAX));
    sb.feature_incompat.set(spec.incompat);
    sb.u1.set(spec.algorithms);
    if spec.flattened {
        sb.extra_devices.set(1);
        sb.devt_slotoff.set(u16::try_from(DEVICE_TABLE / size_of::<DeviceSlot>()).unwrap_or(0));
    }
    if spec.wide {
        sb.rootnid_8b.set(root);
    } else {
        sb.rootnid_2b.set(u16::try_from(root).unwrap_or(u16::MAX));
    }
    sb
}

fn node_bytes(node: &Node<'_>, index: usize) -> Vec<u8> {
    let xattrs = node.xattr.map_or_else(Vec::new, |(name, value)| xattr_area(name, value));
    let is_dir = node.mode & mode::IFMT == mode::IFDIR;
    let directory = if is_dir { directory(node, index) } else { Vec::new() };
    let layout = if is_dir { Layout::FlatInline } else { Layout::FlatPlain };
    let mut inode = CompactInode::new_zeroed();
    inode.format.set(layout.format_bits());
    inode.xattr_icount.set(icount(xattrs.len()).unwrap_or(0));
    inode.mode.set(node.mode);
    inode.nb.set(if is_dir { 2 } else { 1 });
    inode.size.set(u32::try_from(directory.len()).unwrap_or(0));
    inode.ino.set(u32::try_from(index + 1).unwrap_or(0));
    [inode.as_bytes(), &xattrs, &directory].concat()
}

fn xattr_area(name: &[u8], value: &[u8]) -> Vec<u8> {
    let (index, name) = prefix_of(name).unwrap_or((0, name));
    let mut entry = XattrEntry::new_zeroed();
    entry.name_len = u8::try_from(name.len()).unwrap_or(0);
    entry.name_index = index;
    entry.value_size.set(u16::try_from(value.len()).unwrap_or(0));
    let header = XattrHeader::new_zeroed();
    let mut area = [header.as_bytes(), entry.as_bytes(), name, value].concat();
    area.resize(area.len().next_multiple_of(4), 0);
    area
}

/// `.` and `..` (always the root here), then the entries: every name used sorts after them.
fn directory(node: &Node<'_>, index: usize) -> Vec<u8> {
    let dots = [(".", index, true), ("..", 0, true)];
    let entries = node.entries.iter().map(|&(name, child)| (name, child, name.starts_with('d')));
    let all: Vec<_> = dots.into_iter().chain(entries).collect();
    let mut name_offset = all.len() * size_of::<Dirent>();
    let (mut heads, mut names) = (Vec::new(), Vec::new());
    for (name, child, is_dir) in all {
        let mut head = Dirent::new_zeroed();
        head.nid.set(nid(child));
        head.nameoff.set(u16::try_from(name_offset).unwrap_or(0));
        head.file_type = if is_dir { FileType::Directory } else { FileType::Regular } as u8;
        heads.extend_from_slice(head.as_bytes());
        names.extend_from_slice(name.as_bytes());
        name_offset += name.len();
    }
    [heads, names].concat()
}

fn nid(index: usize) -> u64 {
    ((NODES + index * NODE_SIZE) / size_of::<CompactInode>()) as u64
}

fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = image.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use erolith_mkfs::marks;

    use super::*;

    #[test]
    fn every_block_size_gives_whole_blocks() {
        for block_bits in 9..=16 {
            let image = build(&Spec { block_bits, ..PLAIN });
            assert_eq!(image.len() % (1 << block_bits), 0);
            assert_eq!(image[1024..1028], SUPER_MAGIC.to_le_bytes());
        }
    }

    #[test]
    fn nodes_stay_within_their_room() {
        let entries = [("d", 1), ("f", 2)];
        let node =
            Node { xattr: Some((marks::ESCAPED_OPAQUE, marks::YES)), entries: &entries, ..EMPTY };
        assert!(node_bytes(&node, 3).len() <= NODE_SIZE);
    }
}
