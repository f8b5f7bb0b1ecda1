//! Pass 1: decides the form, the layout and the place of everything that pass 2 writes.
//!
//! All metadata is one zone behind the data: inodes with their xattrs, chunk indexes and inline tails; then
//! whole blocks of directories and long symbolic links; then shared xattrs. Inodes are laid out directory
//! by directory, so that listing one touches few blocks.

mod dirs;
mod gaps;
mod xattrs;

use std::collections::BTreeMap;

use crate::Error;
use crate::data::{Chunks, Content};
use crate::exact::low32;
use crate::format::{
    CHUNK_FORMAT_48BIT, CHUNK_FORMAT_INDEXES, CompactInode, ExtendedInode, Layout, SLOT_SIZE,
    compat, incompat,
};
use crate::meta::{Meta, Time};
use crate::tree::{FileTree, Node, NodeId, NodeKind, SealedTree, XattrSetId};

pub(crate) use dirs::{serialise, sorted};
pub(crate) use xattrs::XattrPlan;

/// An extra device of an image.
#[derive(Debug, Clone)]
pub(crate) struct ExtraDevice {
    /// Free text, padded with NUL.
    pub(crate) tag: [u8; 64],
    pub(crate) blocks: u64,
}

/// What the caller decides about the metadata.
#[derive(Debug, Clone)]
pub(crate) struct PlanOptions {
    pub(crate) block_bits: u8,
    /// The block behind all data.
    pub(crate) zone_block: u64,
    /// Tails of directories, links and files may lie behind the inode.
    pub(crate) share_xattrs_above: Option<u64>,
    pub(crate) force_extended: bool,
    pub(crate) max_bytes: u64,
    /// In the order of their numbers, from 1.
    pub(crate) devices: Vec<ExtraDevice>,
}

/// The form of one inode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InodeShape {
    pub(crate) extended: bool,
    pub(crate) layout: Layout,
    pub(crate) size: u64,
    /// Bytes of xattrs behind the core.
    pub(crate) xattrs: u64,
    /// Bytes of chunk entries, and of the padding before them.
    pub(crate) index: u64,
    /// Bytes of the inline tail.
    pub(crate) tail: u64,
    /// Whole blocks in the zone: directories and symbolic links.
    pub(crate) body_blocks: u64,
}

impl InodeShape {
    pub(crate) fn core(&self) -> u64 {
        if self.extended {
            size_of::<ExtendedInode>() as u64
        } else {
            size_of::<CompactInode>() as u64
        }
    }

    /// Bytes before the tail.
    fn head(&self) -> u64 {
        self.core() + self.xattrs + self.index
    }
}

/// Everything that pass 2 needs to know.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) options: PlanOptions,
    /// Slot in the zone, by node; `u64::MAX` for nodes that are in no directory any more.
    slots: Vec<u64>,
    /// Nodes in the order of their slots.
    pub(crate) order: Vec<NodeId>,
    /// First body block, counted from the end of the inodes, of nodes that have some.
    bodies: BTreeMap<NodeId, u64>,
    inode_blocks: u64,
    body_blocks: u64,
    pub(crate) xattrs: XattrPlan,
    pub(crate) epoch: Time,
    pub(crate) features: Features,
}

/// Feature bits of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) compat: u32,
    pub(crate) incompat: u32,
}

/// Inodes packed together.
const WINDOW: usize = 1024;

const NO_SLOT: u64 = u64::MAX;

impl Plan {
    pub(crate) fn new(sealed: &SealedTree, options: PlanOptions) -> Result<Self, Error> {
        let tree = sealed.tree();
        let live = walk_order(tree);
        let wide = needs_48bit(tree, &live, &options);
        let shared_reachable = options.zone_block < u64::from(u32::MAX) >> 1;
        let share = options.share_xattrs_above.filter(|_| shared_reachable);
        let mut plan = Self {
            options,
            slots: vec![NO_SLOT; tree.len()],
            order: Vec::new(),
            bodies: BTreeMap::new(),
            inode_blocks: 0,
            body_blocks: 0,
            xattrs: plan_xattrs(tree, &live, share)?,
            epoch: common_time(tree, &live),
            features: Features::default(),
        };
        plan.features.incompat = if wide { incompat::LAYOUT_48BIT } else { 0 };
        plan.place(sealed, live)?;
        plan.set_features(tree);
        let limit = plan.options.max_bytes;
        let end = plan.total_blocks().checked_mul(1 << plan.options.block_bits);
        if end.is_none_or(|end| end > limit) {
            return Err(Error::TooLarge { limit });
        }
        Ok(plan)
    }

    fn place(&mut self, sealed: &SealedTree, live: Vec<NodeId>) -> Result<(), Error> {
        let mut zone = gaps::Zone::new(self.options.block_bits);
        let mut shapes = Vec::new();
        for window in windows(&live) {
            shapes.clear();
            for &id in window {
                shapes.push((id, self.shape(sealed, sealed.tree().node(id))?));
            }
            for (id, shape) in shapes.iter().filter(|(_, shape)| shape.body_blocks > 0) {
                self.bodies.insert(*id, self.body_blocks);
                self.body_blocks += shape.body_blocks;
            }
            // The small ones fill what the large ones leave.
            shapes.sort_by_key(|(_, shape)| std::cmp::Reverse(shape.head() + shape.tail));
            for (id, shape) in &shapes {
                let to = self.slots.get_mut(id.index()).ok_or(Error::Internal("a node"))?;
                let slot = zone.place(shape.head(), shape.tail);
                *to = slot.ok_or(Error::Internal("the place of an inode"))?;
            }
        }
        self.inode_blocks = zone.blocks();
        self.order = live;
        let slots = &self.slots;
        self.order.sort_unstable_by_key(|id| slots.get(id.index()).copied());
        Ok(())
    }

    fn set_features(&mut self, tree: &FileTree) {
        let features = &mut self.features;
        features.compat = compat::SB_CHKSUM | compat::MTIME;
        for &id in &self.order {
            let node = tree.node(id);
            if node.xattrs != XattrSetId::EMPTY {
                features.compat |= compat::XATTR_FILTER;
            }
            if let NodeKind::File { content: Content::Chunks(_), .. } = node.kind {
                features.incompat |= incompat::CHUNKED_FILE;
            }
        }
        if !self.options.devices.is_empty() {
            features.incompat |= incompat::DEVICE_TABLE;
        }
    }

    /// The block that nid 0 is in: the zone, or as near to it as 32 bits reach.
    pub(crate) fn meta_block(&self) -> u32 {
        low32(self.options.zone_block.min(u32::MAX.into()))
    }

    /// The nid of a node.
    ///
    /// # Errors
    /// As [`Plan::slot`].
    pub(crate) fn nid(&self, id: NodeId) -> Result<u64, Error> {
        let slots_per_block = (1u64 << self.options.block_bits) / SLOT_SIZE;
        let skipped = self.options.zone_block - u64::from(self.meta_block());
        Ok(self.slot(id)? + skipped * slots_per_block)
    }

    /// The slot of a node in the zone.
    ///
    /// # Errors
    /// [`Error::Internal`] for a node that is in no directory.
    pub(crate) fn slot(&self, id: NodeId) -> Result<u64, Error> {
        let slot = self.slots.get(id.index()).filter(|&&slot| slot != NO_SLOT);
        slot.copied().ok_or(Error::Internal("the slot of a node"))
    }

    /// The first whole block of a directory or symbolic link.
    ///
    /// # Errors
    /// [`Error::Internal`] for a node that has none.
    pub(crate) fn body_block(&self, id: NodeId) -> Result<u64, Error> {
        let at = self.bodies.get(&id).ok_or(Error::Internal("the blocks of a directory"))?;
        Ok(self.bodies_block() + at)
    }

    /// Nodes with whole blocks in the zone, in the order of those blocks.
    pub(crate) fn bodies(&self) -> Vec<NodeId> {
        let mut ids: Vec<_> = self.bodies.iter().map(|(&id, &at)| (at, id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// The block behind the inodes.
    pub(crate) fn bodies_block(&self) -> u64 {
        self.options.zone_block + self.inode_blocks
    }

    /// The block of the shared xattrs.
    pub(crate) fn shared_block(&self) -> u64 {
        self.bodies_block() + self.body_blocks
    }

    /// Blocks of the image.
    pub(crate) fn total_blocks(&self) -> u64 {
        let area = self.xattrs.area.len() as u64;
        self.shared_block() + area.div_ceil(1 << self.options.block_bits)
    }

    /// Whether 48-bit addresses are in use.
    pub(crate) fn is_wide(&self) -> bool {
        self.features.incompat & incompat::LAYOUT_48BIT != 0
    }

    /// The format field of chunk-based inodes.
    pub(crate) fn chunk_format(&self, chunks: &Chunks) -> u16 {
        let mut format = u16::from(chunks.bits - self.options.block_bits);
        if chunks.device != 0 || self.is_wide() {
            format |= CHUNK_FORMAT_INDEXES;
        }
        if self.is_wide() {
            format |= CHUNK_FORMAT_48BIT;
        }
        format
    }

    /// The form of an inode: a function of the node and of what the whole image shares.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub(crate) fn shape(&self, sealed: &SealedTree, node: &Node) -> Result<InodeShape, Error> {
        let block = 1u64 << self.options.block_bits;
        let mut shape = InodeShape {
            extended: false,
            layout: Layout::FlatPlain,
            size: 0,
            xattrs: self.xattrs.size(node.xattrs.0)?,
            index: 0,
            tail: 0,
            body_blocks: 0,
        };
        let mut start = 0;
        match &node.kind {
            NodeKind::Dir(dir) => {
                let names = sorted((), (), dir.children.keys().map(|n| (n.as_ref(), ())));
                flat_in_zone(&mut shape, dirs::size(names.map(|(n, ())| n), block), block);
            }
            NodeKind::Symlink(target) => flat_in_zone(&mut shape, target.len() as u64, block),
            NodeKind::File { size, content } => {
                shape.size = *size;
                match content {
                    Content::Empty => {}
                    Content::Flat { start: at, tail } => {
                        start = *at;
                        if tail.is_some() {
                            shape.layout = Layout::FlatInline;
                            shape.tail = size & (block - 1);
                        }
                    }
                    Content::Chunks(_) => shape.layout = Layout::ChunkBased,
                }
            }
            _ => {}
        }
        let wide_start = start.max(if shape.body_blocks > 0 { self.options.zone_block } else { 0 });
        shape.extended = self.options.force_extended
            || self.needs_extended(&node.meta, shape.size, sealed.nlink(node))
            || wide_start >= u64::from(u32::MAX) >> 1;
        if let NodeKind::File { size, content: Content::Chunks(chunks) } = &node.kind {
            let indexed = self.chunk_format(chunks) & CHUNK_FORMAT_INDEXES != 0;
            let unit = if indexed { 8 } else { 4 };
            let head = shape.core() + shape.xattrs;
            shape.index = head.next_multiple_of(unit) - head + chunks.count(*size) * unit;
        }
        Ok(shape)
    }

    fn needs_extended(&self, meta: &Meta, size: u64, nlink: u32) -> bool {
        size > u64::from(u32::MAX)
            || meta.uid > u32::from(u16::MAX)
            || meta.gid > u32::from(u16::MAX)
            || nlink > u32::from(u16::MAX)
            || meta.mtime != self.epoch
    }
}

/// Lays out data that belongs to the zone: whole blocks in its body area, the rest behind the inode unless
/// it would leave no room for the inode there.
fn flat_in_zone(shape: &mut InodeShape, size: u64, block: u64) {
    shape.size = size;
    let tail = size % block;
    if tail > 0 && tail <= block - 64 {
        shape.layout = Layout::FlatInline;
        shape.tail = tail;
        shape.body_blocks = size / block;
    } else {
        shape.body_blocks = size.div_ceil(block);
    }
}

/// Nodes that are placed together: the root alone, because its nid must be small, and then enough for good
/// packing and few enough for a directory's inodes to stay together.
fn windows(order: &[NodeId]) -> impl Iterator<Item = &[NodeId]> {
    let (root, rest) = order.split_at(order.len().min(1));
    std::iter::once(root).chain(rest.chunks(WINDOW))
}

/// Nodes in the order in which they are placed: the root, then directory by directory all children of one,
/// depth first. A node with several names comes with the first.
fn walk_order(tree: &FileTree) -> Vec<NodeId> {
    let mut seen = vec![false; tree.len()];
    let mut order = vec![NodeId::ROOT];
    let mut todo = vec![NodeId::ROOT];
    while let Some(id) = todo.pop() {
        let Some(dir) = tree.dir(id) else { continue };
        let first = order.len();
        for &child in dir.children.values() {
            if let Some(seen) = seen.get_mut(child.index())
                && !std::mem::replace(seen, true)
            {
                order.push(child);
            }
        }
        let children = order.get(first..).unwrap_or_default();
        todo.extend(children.iter().rev().filter(|&&c| tree.dir(c).is_some()));
    }
    order
}

/// The modification time of most inodes: those need no extended form. Kernels before 6.15 show the epoch as
/// the time of every compact inode.
fn common_time(tree: &FileTree, live: &[NodeId]) -> Time {
    let mut times: Vec<Time> = live.iter().map(|&id| tree.node(id).meta.mtime).collect();
    times.retain(|t| t.sec >= 0);
    times.sort_unstable();
    let most = times.chunk_by(|a, b| a == b).rev().max_by_key(|run| run.len());
    most.and_then(|run| run.first()).copied().unwrap_or_default()
}

fn plan_xattrs(
    tree: &FileTree,
    live: &[NodeId],
    share_above: Option<u64>,
) -> Result<XattrPlan, Error> {
    let mut uses: Vec<u64> = Vec::new();
    for &id in live {
        let set = tree.node(id).xattrs.0 as usize;
        if uses.len() <= set {
            uses.resize(set + 1, 0);
        }
        if let Some(count) = uses.get_mut(set) {
            *count += 1;
        }
    }
    let ids = (0u32..).zip(&uses);
    let sets: Vec<_> = ids.map(|(id, &n)| (tree.xattrs(XattrSetId(id)), n)).collect();
    XattrPlan::new(&sets, share_above)
}

/// Whether some block lies beyond 32 bits. The zone itself has room for 2^31 blocks behind the data.
fn needs_48bit(tree: &FileTree, live: &[NodeId], options: &PlanOptions) -> bool {
    let far = u64::from(u32::MAX) >> 1;
    let far_start = |id: &NodeId| match &tree.node(*id).kind {
        NodeKind::File { content: Content::Chunks(chunks), .. } => chunks.runs.iter().any(|r| {
            // Only where a chunk starts is written down; the last may be larger than what is left of the device.
            let blocks = (r.count - 1) << (chunks.bits - options.block_bits);
            r.start.saturating_add(blocks) >= u64::from(u32::MAX)
        }),
        _ => false,
    };
    let blocks = options.devices.iter().map(|device| device.blocks);
    let device_end = blocks.fold(options.zone_block, u64::saturating_add);
    options.zone_block >= far || device_end >= u64::from(u32::MAX) || live.iter().any(far_start)
}
