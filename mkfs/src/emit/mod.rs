//! Pass 2: writes exactly what was planned, from the front of the metadata zone to its end, and then the
//! superblock.

use std::borrow::Cow;

use zerocopy::IntoBytes;

use crate::Error;
use crate::data::{Chunks, Content, DataArea, Tail, TailRead};
use crate::exact::{exact, high16, low32};
use crate::format::{
    CHUNK_FORMAT_INDEXES, ChunkIndex, CompactInode, DEVICE_SLOT_SIZE, DeviceSlot, ExtendedInode,
    HOLE_BLOCK, HOLE_BLOCK_48, SLOT_SIZE, SUPER_MAGIC, SUPER_OFFSET, Superblock, checksum, icount,
};
use crate::io::Sink;
use crate::marks::WHITEOUT_RDEV;
use crate::plan::{ExtraDevice, InodeShape, Plan, serialise, sorted};
use crate::tree::{Node, NodeId, NodeKind, SealedTree};

/// What the superblock says besides the plan.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) uuid: [u8; 16],
    pub(crate) label: [u8; 16],
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
        if self.buf.len() >= GATHER {
            self.flush()?;
        }
        // The plan goes forward only.
        let missing = pos.checked_sub(self.pos()).ok_or(Error::Internal("the next position"))?;
        let missing: usize = exact(missing, "a gap")?;
        self.buf.resize(self.buf.len() + missing, 0);
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
        out.pad_to(zone + plan.slot(id)? * SLOT_SIZE)?;
        write_inode(&mut out, sealed, plan, id, serial)?;
    }
    out.pad_to(plan.bodies_block() * block)?;
    for id in plan.bodies() {
        out.pad_to(plan.body_block(id)? * block)?;
        let shape = plan.shape(sealed, sealed.tree().node(id))?;
        let bytes = zone_bytes(sealed, plan, id)?;
        let (body, _) = split_tail(&bytes, &shape)?;
        out.buf.extend_from_slice(body);
    }
    out.pad_to(plan.shared_block() * block)?;
    out.buf.extend_from_slice(&plan.xattrs.area);
    out.pad_to(plan.total_blocks() * block)?;
    out.flush()?;
    data.sink().settle().map_err(Error::Output)?;
    let head = superblock_area(plan, identity)?;
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
    let shape = plan.shape(sealed, node)?;
    write_core(&mut out.buf, sealed, plan, id, &shape, serial)?;
    out.buf.extend_from_slice(&plan.xattrs.body(sealed.tree().xattrs(node.xattrs))?);
    match &node.kind {
        NodeKind::File { content: Content::Chunks(chunks), size } => {
            let entries = chunks.count(*size);
            write_chunks(out, plan, chunks, entries)?;
        }
        NodeKind::File { content: Content::Flat { tail: Some(tail), .. }, .. } => {
            out.push_tail(*tail, exact(shape.tail, "the size of a tail")?);
        }
        NodeKind::Dir(_) | NodeKind::Symlink(_) if shape.tail > 0 => {
            let bytes = zone_bytes(sealed, plan, id)?;
            let (_, tail) = split_tail(&bytes, &shape)?;
            out.buf.extend_from_slice(tail);
        }
        _ => {}
    }
    Ok(())
}

/// What of a directory or symbolic link lies in whole blocks, and what behind its inode.
fn split_tail<'a>(bytes: &'a [u8], shape: &InodeShape) -> Result<(&'a [u8], &'a [u8]), Error> {
    let tail: usize = exact(shape.tail, "the size of a tail")?;
    let body = bytes.len().checked_sub(tail);
    body.and_then(|body| bytes.split_at_checked(body)).ok_or(Error::Internal("the size of a tail"))
}

/// The bytes of a directory or symbolic link.
fn zone_bytes<'a>(sealed: &'a SealedTree, plan: &Plan, id: NodeId) -> Result<Cow<'a, [u8]>, Error> {
    let tree = sealed.tree();
    match &tree.node(id).kind {
        NodeKind::Dir(dir) => {
            let entry = |id| Ok::<_, Error>((plan.nid(id)?, tree.node(id).kind.file_type()));
            let children = dir.children.iter().map(|(n, &c)| Ok((n.as_ref(), entry(c)?)));
            let children = children.collect::<Result<Vec<_>, Error>>()?;
            let entries = sorted(entry(id)?, entry(dir.parent)?, children.into_iter());
            Ok(serialise(entries, 1 << plan.options.block_bits)?.into())
        }
        NodeKind::Symlink(target) => Ok(Cow::Borrowed(target)),
        _ => Ok(Cow::Borrowed(&[])),
    }
}

/// The start block of flat data, or what else the layout keeps in `i_u`, with its high bits.
fn address(plan: &Plan, id: NodeId, node: &Node, shape: &InodeShape) -> Result<(u32, u16), Error> {
    let split = |block: u64| Ok((low32(block), high16(block, "the address of a block")?));
    match &node.kind {
        NodeKind::Char(rdev) | NodeKind::Block(rdev) => Ok((*rdev, 0)),
        NodeKind::Whiteout => Ok((WHITEOUT_RDEV, 0)),
        NodeKind::File { content: Content::Chunks(chunks), .. } => {
            Ok((u32::from(plan.chunk_format(chunks)), 0))
        }
        NodeKind::File { content: Content::Flat { start, .. }, size } if shape.tail < *size => {
            split(*start)
        }
        NodeKind::Dir(_) | NodeKind::Symlink(_) if shape.body_blocks > 0 => {
            split(plan.body_block(id)?)
        }
        _ => Ok((0, 0)),
    }
}

fn write_core(
    out: &mut Vec<u8>,
    sealed: &SealedTree,
    plan: &Plan,
    id: NodeId,
    shape: &InodeShape,
    serial: u32,
) -> Result<(), Error> {
    let node = sealed.tree().node(id);
    let (u, high) = address(plan, id, node, shape)?;
    let icount = icount(exact(shape.xattrs, "the size of xattrs")?);
    let icount = icount.ok_or(Error::Internal("the size of xattrs"))?;
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
        return Ok(());
    }
    // The shape is compact only when all of these fit.
    let short = |value: u32| exact::<u16, _>(value, "a field of a compact inode");
    let inode = CompactInode {
        format: shape.layout.format_bits().into(),
        xattr_icount: icount.into(),
        mode: mode.into(),
        nb: short(nlink)?.into(),
        size: exact::<u32, _>(shape.size, "the size in a compact inode")?.into(),
        mtime: 0.into(),
        u: u.into(),
        ino: serial.into(),
        uid: short(node.meta.uid)?.into(),
        gid: short(node.meta.gid)?.into(),
        reserved: 0.into(),
    };
    out.extend_from_slice(inode.as_bytes());
    Ok(())
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
                startblk_hi: high16(block, "the address of a chunk")?.into(),
                device_id: start.map_or(0, |_| chunks.device).into(),
                startblk_lo: low32(block).into(),
            };
            out.buf.extend_from_slice(index.as_bytes());
        } else {
            let start = start.map(|start| exact(start, "the address of a chunk")).transpose()?;
            let block = start.unwrap_or(HOLE_BLOCK);
            out.buf.extend_from_slice(&block.to_le_bytes());
        }
        if out.buf.len() >= GATHER {
            out.flush()?;
        }
    }
    Ok(())
}

/// Number of the first device slot: behind the superblock.
const FIRST_SLOT: u16 = 9;
const _: () =
    assert!(FIRST_SLOT as u64 * DEVICE_SLOT_SIZE == SUPER_OFFSET + size_of::<Superblock>() as u64);

/// Bytes at the front of an image that the superblock and a table of so many devices need.
pub(crate) fn head_bytes(devices: usize) -> u64 {
    u64::from(FIRST_SLOT) * DEVICE_SLOT_SIZE + devices as u64 * DEVICE_SLOT_SIZE
}

/// Everything before the first data block.
fn superblock_area(plan: &Plan, identity: &Identity) -> Result<Vec<u8>, Error> {
    let block = 1usize << plan.options.block_bits;
    let slots = device_slots(plan)?;
    let needed: usize = exact(head_bytes(slots.len()), "the size of the superblock")?;
    let mut area = vec![0; needed.next_multiple_of(block)];
    put(&mut area, exact(head_bytes(0), "the place of the devices")?, slots.as_bytes())?;
    let mut superblock = superblock(plan, identity)?;
    let start: usize = exact(SUPER_OFFSET, "the place of the superblock")?;
    put(&mut area, start, superblock.as_bytes())?;
    let end = if block > start { block } else { start + block };
    let sum = area.get(start..end).and_then(checksum).ok_or(Error::Internal("the checksum"))?;
    superblock.checksum = sum.into();
    put(&mut area, start, superblock.as_bytes())?;
    Ok(area)
}

fn put(area: &mut [u8], at: usize, bytes: &[u8]) -> Result<(), Error> {
    let to = area.get_mut(at..at + bytes.len()).ok_or(Error::Internal("the superblock"))?;
    to.copy_from_slice(bytes);
    Ok(())
}

/// The device table. In the unified address space one device follows the other, behind the image.
fn device_slots(plan: &Plan) -> Result<Vec<DeviceSlot>, Error> {
    let high = |value: u64| high16(value, "the size of a device");
    let mut address = plan.total_blocks();
    let slot = |device: &ExtraDevice| {
        let slot = DeviceSlot {
            tag: device.tag,
            blocks_lo: low32(device.blocks).into(),
            uniaddr_lo: low32(address).into(),
            blocks_hi: high(device.blocks)?.into(),
            uniaddr_hi: high(address)?.into(),
            reserved: [0; 52],
        };
        let end = address.checked_add(device.blocks);
        address = end.ok_or(Error::Internal("the size of a device"))?;
        Ok(slot)
    };
    plan.options.devices.iter().map(slot).collect()
}

fn superblock(plan: &Plan, identity: &Identity) -> Result<Superblock, Error> {
    let root = plan.nid(NodeId::ROOT)?;
    let blocks = plan.total_blocks();
    let wide = plan.is_wide();
    let shared = !plan.xattrs.area.is_empty();
    let shared_block =
        if shared { exact(plan.shared_block(), "the block of shared xattrs")? } else { 0 };
    // With 48 bits, the field of the root has the high bits of the size.
    let (blocks_lo, rootnid_2b) = if wide {
        (low32(blocks), high16(blocks, "the size of the image")?)
    } else {
        (exact(blocks, "the size of the image")?, exact(root, "the nid of the root")?)
    };
    Ok(Superblock {
        magic: SUPER_MAGIC.into(),
        checksum: 0.into(),
        feature_compat: plan.features.compat.into(),
        blkszbits: plan.options.block_bits,
        sb_extslots: 0,
        rootnid_2b: rootnid_2b.into(),
        inos: (plan.order.len() as u64).into(),
        epoch: plan.epoch.sec.into(),
        fixed_nsec: plan.epoch.nsec.into(),
        blocks_lo: blocks_lo.into(),
        meta_blkaddr: plan.meta_block().into(),
        xattr_blkaddr: shared_block.into(),
        uuid: identity.uuid,
        volume_name: identity.label,
        feature_incompat: plan.features.incompat.into(),
        u1: 0.into(),
        extra_devices: exact::<u16, _>(plan.options.devices.len(), "the number of devices")?.into(),
        devt_slotoff: if plan.options.devices.is_empty() { 0 } else { FIRST_SLOT }.into(),
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
    })
}
