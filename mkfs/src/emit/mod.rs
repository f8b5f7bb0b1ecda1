//! Pass 2: writes exactly what was planned, from the front of the metadata zone to its end, and then the
//! superblock.

use zerocopy::IntoBytes;

use crate::Error;
use crate::data::{Chunks, Content, DataArea, Tail, TailRead};
use crate::format::{
    CHUNK_FORMAT_INDEXES, ChunkIndex, CompactInode, DeviceSlot, ExtendedInode, HOLE_BLOCK,
    HOLE_BLOCK_48, SLOT_SIZE, SUPER_MAGIC, SUPER_OFFSET, Superblock, checksum,
};
use crate::io::Sink;
use crate::plan::{InodeShape, Plan, serialise, sorted};
use crate::tree::{Node, NodeId, NodeKind, SealedTree};

/// What the superblock says besides the plan.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) uuid: [u8; 16],
    pub(crate) label: [u8; 16],
    /// Tag of the extra device, if there is one.
    pub(crate) device_tag: [u8; 64],
}

/// Bytes gathered before they are written.
const GATHER: usize = 512 << 10;

/// Writes forward only; what is skipped reads as zeros.
struct Out<'a, S> {
    data: &'a DataArea<S>,
    buf: Vec<u8>,
    /// Byte of the image where `buf` begins.
    at: u64,
    /// Tails that belong into `buf`.
    tails: Vec<TailRead>,
}

impl<S: Sink> Out<'_, S> {
    fn pos(&self) -> u64 {
        self.at + self.buf.len() as u64
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.data.read_tails(&mut self.tails, &mut self.buf)?;
        self.tails.clear();
        let next = self.pos();
        let full = std::mem::take(&mut self.buf);
        self.buf = self.data.sink().write_behind(full, self.at).map_err(Error::Output)?;
        self.at = next;
        Ok(())
    }

    /// Leaves room for a tail, which is read together with others.
    fn push_tail(&mut self, tail: Tail, len: usize) {
        let at = self.buf.len();
        self.tails.push(TailRead { tail, len, at });
        self.buf.resize(at + len, 0);
    }

    /// Fills with zeros up to byte `pos` of the image.
    fn pad_to(&mut self, pos: u64) -> Result<(), Error> {
        debug_assert!(pos >= self.pos(), "the plan goes forward only");
        if self.buf.len() >= GATHER {
            self.flush()?;
        }
        let missing = pos.saturating_sub(self.pos());
        self.buf.resize(self.buf.len() + usize::try_from(missing).unwrap_or(0), 0);
        Ok(())
    }
}

/// Writes the metadata zone and the superblock of a planned image.
pub(crate) fn emit<S: Sink>(
    sealed: &SealedTree,
    plan: &Plan,
    data: &DataArea<S>,
    identity: &Identity,
) -> Result<(), Error> {
    let block = 1u64 << plan.options.block_bits;
    let zone = plan.options.zone_block * block;
    let mut out = Out { data, buf: Vec::with_capacity(2 * GATHER), at: zone, tails: Vec::new() };
    for (serial, &id) in (1u32..).zip(&plan.order) {
        out.pad_to(zone + plan.slot(id) * SLOT_SIZE)?;
        write_inode(&mut out, sealed, plan, id, serial)?;
    }
    out.pad_to(plan.bodies_block() * block)?;
    for id in plan.bodies() {
        out.pad_to(plan.body_block(id) * block)?;
        let shape = plan.shape(sealed, sealed.tree().node(id));
        let bytes = zone_bytes(sealed, plan, id);
        let keep = bytes.len() - usize::try_from(shape.tail).unwrap_or(0);
        out.buf.extend_from_slice(bytes.get(..keep).unwrap_or(&bytes));
    }
    out.pad_to(plan.shared_block() * block)?;
    out.buf.extend_from_slice(&plan.xattrs.area);
    out.pad_to(plan.total_blocks() * block)?;
    out.flush()?;
    data.sink().settle().map_err(Error::Output)?;
    let head = superblock_area(plan, identity);
    data.sink().write_at(&head, 0).map_err(Error::Output)?;
    data.sink().set_len(plan.total_blocks() * block).map_err(Error::Output)
}

fn write_inode<S: Sink>(
    out: &mut Out<'_, S>,
    sealed: &SealedTree,
    plan: &Plan,
    id: NodeId,
    serial: u32,
) -> Result<(), Error> {
    let node = sealed.tree().node(id);
    let shape = plan.shape(sealed, node);
    write_core(&mut out.buf, sealed, plan, id, &shape, serial);
    out.buf.extend_from_slice(&plan.xattrs.body(sealed.tree().xattrs(node.xattrs)));
    match &node.kind {
        NodeKind::File { content: Content::Chunks(chunks), size } => {
            let entries = chunks.count(*size);
            write_chunks(out, plan, chunks, entries)?;
        }
        NodeKind::File { content: Content::Flat { tail: Some(tail), .. }, .. } => {
            out.push_tail(*tail, usize::try_from(shape.tail).unwrap_or(0));
        }
        NodeKind::Dir(_) | NodeKind::Symlink(_) if shape.tail > 0 => {
            let bytes = zone_bytes(sealed, plan, id);
            let tail = bytes.len() - usize::try_from(shape.tail).unwrap_or(0);
            out.buf.extend_from_slice(bytes.get(tail..).unwrap_or_default());
        }
        _ => {}
    }
    Ok(())
}

/// The bytes of a directory or symbolic link.
fn zone_bytes(sealed: &SealedTree, plan: &Plan, id: NodeId) -> Vec<u8> {
    let tree = sealed.tree();
    match &tree.node(id).kind {
        NodeKind::Dir(dir) => {
            let entry = |id| (plan.nid(id), tree.node(id).kind.file_type());
            let children = dir.children.iter().map(|(n, &c)| (n.as_ref(), entry(c)));
            let entries = sorted(entry(id), entry(dir.parent), children);
            serialise(entries, 1 << plan.options.block_bits)
        }
        NodeKind::Symlink(target) => target.to_vec(),
        _ => Vec::new(),
    }
}

/// The start block of flat data, or what else the layout keeps in `i_u`, with its high bits.
fn address(plan: &Plan, id: NodeId, node: &Node, shape: &InodeShape) -> (u32, u16) {
    let split = |block: u64| (low32(block), u16::try_from((block >> 32) & 0xFFFF).unwrap_or(0));
    match &node.kind {
        NodeKind::Char(rdev) | NodeKind::Block(rdev) => (*rdev, 0),
        NodeKind::File { content: Content::Chunks(chunks), .. } => {
            (u32::from(plan.chunk_format(chunks)), 0)
        }
        NodeKind::File { content: Content::Flat { start, .. }, size } if shape.tail < *size => {
            split(*start)
        }
        NodeKind::Dir(_) | NodeKind::Symlink(_) if shape.body_blocks > 0 => {
            split(plan.body_block(id))
        }
        _ => (0, 0),
    }
}

fn low32(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}

fn write_core(
    out: &mut Vec<u8>,
    sealed: &SealedTree,
    plan: &Plan,
    id: NodeId,
    shape: &InodeShape,
    serial: u32,
) {
    let node = sealed.tree().node(id);
    let (u, high) = address(plan, id, node, shape);
    let icount = crate::format::icount(usize::try_from(shape.xattrs).unwrap_or(0)).unwrap_or(0);
    let mode = node.kind.file_type().mode_bits() | (node.meta.mode & 0o7777);
    let nlink = sealed.nlink(node);
    if shape.extended {
        let inode = ExtendedInode {
            format: (shape.layout.format_bits() | 1).into(),
            xattr_icount: icount.into(),
            mode: mode.into(),
            nb: high.into(),
            size: shape.size.into(),
            u: u.into(),
            ino: serial.into(),
            uid: node.meta.uid.into(),
            gid: node.meta.gid.into(),
            mtime: node.meta.mtime.sec.cast_unsigned().into(),
            mtime_nsec: node.meta.mtime.nsec.into(),
            nlink: nlink.into(),
            reserved: [0; 16],
        };
        out.extend_from_slice(inode.as_bytes());
        return;
    }
    // The shape is compact only when all of these fit.
    let short = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    let inode = CompactInode {
        format: shape.layout.format_bits().into(),
        xattr_icount: icount.into(),
        mode: mode.into(),
        nb: short(nlink).into(),
        size: low32(shape.size).into(),
        mtime: 0.into(),
        u: u.into(),
        ino: serial.into(),
        uid: short(node.meta.uid).into(),
        gid: short(node.meta.gid).into(),
        reserved: 0.into(),
    };
    out.extend_from_slice(inode.as_bytes());
}

/// Chunk entries, aligned to their size.
fn write_chunks<S: Sink>(
    out: &mut Out<'_, S>,
    plan: &Plan,
    chunks: &Chunks,
    entries: u64,
) -> Result<(), Error> {
    let indexed = plan.chunk_format(chunks) & CHUNK_FORMAT_INDEXES != 0;
    let pos = out.pos();
    out.pad_to(pos.next_multiple_of(if indexed { 8 } else { 4 }))?;
    let blocks = 1u64 << (chunks.bits - plan.options.block_bits);
    let mut runs = chunks.runs.iter().peekable();
    for chunk in 0..entries {
        while runs.next_if(|r| chunk >= r.chunk + r.count).is_some() {}
        let start =
            runs.peek().filter(|r| chunk >= r.chunk).map(|r| r.start + (chunk - r.chunk) * blocks);
        if indexed {
            let hole = if plan.is_wide() { HOLE_BLOCK_48 } else { u64::from(HOLE_BLOCK) };
            let block = start.unwrap_or(hole);
            let index = ChunkIndex {
                startblk_hi: u16::try_from(block >> 32).unwrap_or(0).into(),
                device_id: start.map_or(0, |_| chunks.device).into(),
                startblk_lo: low32(block).into(),
            };
            out.buf.extend_from_slice(index.as_bytes());
        } else {
            let block = start.map_or(HOLE_BLOCK, low32);
            out.buf.extend_from_slice(&block.to_le_bytes());
        }
        if out.buf.len() >= GATHER {
            out.flush()?;
        }
    }
    Ok(())
}

/// Byte of the device slot: behind the superblock, on the next multiple of 128.
const DEVICE_SLOT_AT: usize = 1152;

/// Bytes at the front of an image that the superblock and the device table need.
pub(crate) fn head_bytes(with_device: bool) -> u64 {
    if with_device { DEVICE_SLOT_AT as u64 + 128 } else { SUPER_OFFSET + 128 }
}

/// Everything before the first data block.
fn superblock_area(plan: &Plan, identity: &Identity) -> Vec<u8> {
    let block = 1usize << plan.options.block_bits;
    let with_device = plan.options.device_blocks.is_some();
    let needed = usize::try_from(head_bytes(with_device)).unwrap_or(0);
    let mut area = vec![0; needed.next_multiple_of(block)];
    if let Some(blocks) = plan.options.device_blocks {
        let slot = device_slot(plan, identity, blocks);
        put(&mut area, DEVICE_SLOT_AT, slot.as_bytes());
    }
    let mut superblock = superblock(plan, identity);
    let start = usize::try_from(SUPER_OFFSET).unwrap_or(0);
    put(&mut area, start, superblock.as_bytes());
    let end = if block > start { block } else { start + block };
    let sum = area.get(start..end).and_then(checksum).unwrap_or(0);
    superblock.checksum = sum.into();
    put(&mut area, start, superblock.as_bytes());
    area
}

fn put(area: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = area.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

fn device_slot(plan: &Plan, identity: &Identity, blocks: u64) -> DeviceSlot {
    let high = |value: u64| u16::try_from(value >> 32).unwrap_or(u16::MAX);
    let address = plan.total_blocks();
    DeviceSlot {
        tag: identity.device_tag,
        blocks_lo: low32(blocks).into(),
        uniaddr_lo: low32(address).into(),
        blocks_hi: high(blocks).into(),
        uniaddr_hi: high(address).into(),
        reserved: [0; 52],
    }
}

fn superblock(plan: &Plan, identity: &Identity) -> Superblock {
    let root = plan.nid(NodeId::ROOT);
    let blocks = plan.total_blocks();
    let wide = plan.is_wide();
    let shared = !plan.xattrs.area.is_empty();
    Superblock {
        magic: SUPER_MAGIC.into(),
        checksum: 0.into(),
        feature_compat: plan.features.compat.into(),
        blkszbits: plan.options.block_bits,
        sb_extslots: 0,
        rootnid_2b: if wide {
            u16::try_from(blocks >> 32).unwrap_or(u16::MAX)
        } else {
            u16::try_from(root).unwrap_or(u16::MAX)
        }
        .into(),
        inos: (plan.order.len() as u64).into(),
        epoch: plan.epoch.sec.into(),
        fixed_nsec: plan.epoch.nsec.into(),
        blocks_lo: low32(blocks).into(),
        meta_blkaddr: plan.meta_block().into(),
        xattr_blkaddr: if shared { low32(plan.shared_block()) } else { 0 }.into(),
        uuid: identity.uuid,
        volume_name: identity.label,
        feature_incompat: plan.features.incompat.into(),
        u1: 0.into(),
        extra_devices: u16::from(plan.options.device_blocks.is_some()).into(),
        devt_slotoff: if plan.options.device_blocks.is_some() { 9 } else { 0 }.into(),
        dirblkbits: 0,
        xattr_prefix_count: 0,
        xattr_prefix_start: 0.into(),
        packed_nid: 0.into(),
        xattr_filter_reserved: 0,
        ishare_xattr_prefix_id: 0,
        reserved: [0; 2],
        build_time: 0.into(),
        rootnid_8b: if wide { root } else { 0 }.into(),
        reserved2: [0; 8],
    }
}
