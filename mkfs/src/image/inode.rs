//! One inode, decoded from either of its two forms.

use zerocopy::FromBytes;

use super::corruption::{Corruption, CorruptionKind, Error};
use super::superblock::{NID_METABOX, Super};
use crate::format::{
    CHUNK_BITS_MASK, CHUNK_FORMAT_48BIT, CHUNK_FORMAT_INDEXES, CompactInode, ExtendedInode,
    FORMAT_BIT4, FileType, HOLE_BLOCK_48, Layout, decode_rdev, ibody_size,
};
use crate::marks::WHITEOUT_RDEV;
use crate::meta::{Meta, Time};

/// A place in one of the two metadata streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// The image itself.
    Primary,
    /// The data of the metabox inode.
    Metabox,
}

/// Where file data starts, for the layouts that say so in the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Consecutive blocks from this one; the tail may be inline.
    Flat {
        /// First block.
        block: u64,
    },
    /// Nothing is stored; the file reads as zeros.
    Hole,
    /// An array of chunk addresses.
    Chunks {
        /// log2 of the chunk size.
        bits: u8,
        /// Entries are 8 bytes and carry a device; else 4 bytes.
        indexes: bool,
        /// Addresses are 48 bits wide.
        wide: bool,
    },
    /// A compression map.
    Compressed,
    /// A character or block device.
    Device {
        /// As stored: see [`crate::format::encode_rdev`].
        rdev: u32,
    },
    /// A FIFO or a socket.
    None,
}

/// An inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Its number, which is also what `st_ino` shows.
    pub nid: u64,
    /// Byte offset of the inode in its metadata stream.
    pub offset: u64,
    /// 64 bytes rather than 32.
    pub extended: bool,
    /// How the data is found.
    pub layout: Layout,
    /// What the layout says.
    pub data: Data,
    /// Type and permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Link count.
    pub nlink: u32,
    /// `i_xattr_icount`: see [`ibody_size`].
    pub xattr_icount: u16,
    /// The directory has no `.` entry.
    pub dot_omitted: bool,
    /// Blocks that compressed data takes, as the inode claims.
    pub compressed_blocks: u64,
}

/// The fields both forms have, before they are understood.
struct Fields {
    format: u16,
    mode: u16,
    u: u32,
    /// Bits 32..48 of an address.
    high: u16,
    /// Addresses have 48 bits.
    wide: bool,
}

impl Inode {
    /// Bytes of the inode at the start of `head`, which holds at least `i_format`; `None` for too few.
    pub(crate) fn header_size(head: &[u8]) -> Option<usize> {
        let &[low, _, ..] = head else { return None };
        Some(if low & 1 == 0 { size_of::<CompactInode>() } else { size_of::<ExtendedInode>() })
    }

    /// Decodes the inode `nid` found at byte `offset` from `bytes`, which start there.
    pub(crate) fn decode(sb: &Super, nid: u64, offset: u64, bytes: &[u8]) -> Result<Self, Error> {
        let bad = |fault: CorruptionKind| Corruption::new(fault).nid(nid).at(offset);
        let extended = Self::header_size(bytes) == Some(size_of::<ExtendedInode>());
        let (mut inode, fields) = if extended {
            let (raw, _) = ExtendedInode::read_from_prefix(bytes)
                .map_err(|_| bad(CorruptionKind::InodeOutside))?;
            Self::from_extended(&raw)
        } else {
            let (raw, _) = CompactInode::read_from_prefix(bytes)
                .map_err(|_| bad(CorruptionKind::InodeOutside))?;
            Self::from_compact(sb, &raw).ok_or_else(|| bad(CorruptionKind::InodeTime))?
        };
        inode.nid = nid;
        inode.offset = offset;
        if fields.format & !0x1F != 0 {
            return Err(bad(CorruptionKind::InodeFormat)
                .detail(format_args!("{:#x}", fields.format))
                .into());
        }
        if inode.mtime.nsec >= 1_000_000_000 {
            return Err(bad(CorruptionKind::InodeTime).detail(inode.mtime.nsec).into());
        }
        // The kernel keeps sizes in a signed type and refuses what does not fit.
        if i64::try_from(inode.size).is_err() {
            return Err(bad(CorruptionKind::InodeSize).detail(inode.size).into());
        }
        inode.layout = Layout::from_format(fields.format)
            .map_err(|layout| bad(CorruptionKind::InodeLayout).detail(layout))?;
        let kind = FileType::from_mode(fields.mode).ok_or_else(|| {
            bad(CorruptionKind::InodeType).detail(format_args!("{:#o}", fields.mode))
        })?;
        inode.dot_omitted = kind == FileType::Directory && fields.format & FORMAT_BIT4 != 0;
        inode.data = Self::decode_data(sb, kind, inode.layout, &fields).map_err(|format| {
            bad(CorruptionKind::ChunkFormat).detail(format_args!("{format:#x}"))
        })?;
        inode.compressed_blocks = u64::from(fields.u) | (u64::from(fields.high) << 32);
        Ok(inode)
    }

    fn from_extended(raw: &ExtendedInode) -> (Self, Fields) {
        let fields = Fields {
            format: raw.format.get(),
            mode: raw.mode.get(),
            u: raw.u.get(),
            high: raw.nb.get(),
            wide: true,
        };
        let mtime = Time { sec: raw.mtime.get().cast_signed(), nsec: raw.mtime_nsec.get() };
        let inode = Self {
            extended: true,
            uid: raw.uid.get(),
            gid: raw.gid.get(),
            size: raw.size.get(),
            mtime,
            nlink: raw.nlink.get(),
            ..Self::blank(raw.mode.get(), raw.xattr_icount.get())
        };
        (inode, fields)
    }

    /// `None` when the time does not fit 64 bits.
    fn from_compact(sb: &Super, raw: &CompactInode) -> Option<(Self, Fields)> {
        let format = raw.format.get();
        let directory = FileType::from_mode(raw.mode.get()) == Some(FileType::Directory);
        // With the bit set, the place of the link count holds address bits instead.
        let nlink_1 = !directory && format & FORMAT_BIT4 != 0;
        let fields = Fields {
            format,
            mode: raw.mode.get(),
            u: raw.u.get(),
            high: if nlink_1 { raw.nb.get() } else { 0 },
            wide: nlink_1,
        };
        let sec = sb.raw.epoch.get().checked_add(i64::from(raw.mtime.get()))?;
        let inode = Self {
            uid: u32::from(raw.uid.get()),
            gid: u32::from(raw.gid.get()),
            size: u64::from(raw.size.get()),
            mtime: Time { sec, nsec: sb.raw.fixed_nsec.get() },
            nlink: if nlink_1 { 1 } else { u32::from(raw.nb.get()) },
            ..Self::blank(raw.mode.get(), raw.xattr_icount.get())
        };
        Some((inode, fields))
    }

    fn blank(mode: u16, xattr_icount: u16) -> Self {
        Self {
            nid: 0,
            offset: 0,
            extended: false,
            layout: Layout::FlatPlain,
            data: Data::None,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Time::default(),
            nlink: 0,
            xattr_icount,
            dot_omitted: false,
            compressed_blocks: 0,
        }
    }

    /// `Err` carries a chunk format with undefined bits.
    fn decode_data(sb: &Super, kind: FileType, layout: Layout, f: &Fields) -> Result<Data, u16> {
        match kind {
            FileType::Char | FileType::Block => return Ok(Data::Device { rdev: f.u }),
            FileType::Fifo | FileType::Socket => return Ok(Data::None),
            FileType::Regular | FileType::Directory | FileType::Symlink => {}
        }
        Ok(match layout {
            Layout::FlatPlain | Layout::FlatInline => {
                let block = u64::from(f.u) | (u64::from(f.high) << 32);
                let none = if f.wide { HOLE_BLOCK_48 } else { u64::from(u32::MAX) };
                if layout == Layout::FlatPlain && block == none {
                    Data::Hole
                } else {
                    Data::Flat { block }
                }
            }
            Layout::CompressedFull | Layout::CompressedCompact => Data::Compressed,
            Layout::ChunkBased => {
                let [b0, b1, ..] = f.u.to_le_bytes();
                let format = u16::from_le_bytes([b0, b1]);
                if format & !(CHUNK_BITS_MASK | CHUNK_FORMAT_INDEXES | CHUNK_FORMAT_48BIT) != 0 {
                    return Err(format);
                }
                Data::Chunks {
                    // At most 31 + 16.
                    bits: sb.block_bits.saturating_add(b0 & 0x1F),
                    indexes: format & CHUNK_FORMAT_INDEXES != 0,
                    wide: format & CHUNK_FORMAT_48BIT != 0,
                }
            }
        })
    }

    /// The type of file.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        // Decoding refuses modes without a type.
        FileType::from_mode(self.mode).unwrap_or(FileType::Regular)
    }

    /// True for a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// True for a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.file_type() == FileType::Regular
    }

    /// True for a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.file_type() == FileType::Symlink
    }

    /// True for a character device 0:0, which overlayfs takes as a deleted name.
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.file_type() == FileType::Char && self.data == Data::Device { rdev: WHITEOUT_RDEV }
    }

    /// Owner, permissions and time.
    #[must_use]
    pub fn meta(&self) -> Meta {
        Meta { mode: self.mode & 0o7777, uid: self.uid, gid: self.gid, mtime: self.mtime }
    }

    /// Major and minor number of a device.
    #[must_use]
    pub fn rdev(&self) -> Option<(u32, u32)> {
        match self.data {
            Data::Device { rdev } => Some(decode_rdev(rdev)),
            _ => None,
        }
    }

    /// The metadata stream the inode is in.
    #[must_use]
    pub fn space(&self) -> Space {
        if self.nid & NID_METABOX == 0 { Space::Primary } else { Space::Metabox }
    }

    /// Bytes of the inode itself.
    #[must_use]
    pub fn header_len(&self) -> u64 {
        if self.extended { 64 } else { 32 }
    }

    /// Offset of the xattr area, in the inode's metadata stream.
    #[must_use]
    pub fn xattr_offset(&self) -> u64 {
        self.offset.saturating_add(self.header_len())
    }

    /// Bytes of the xattr area; 0 for none.
    #[must_use]
    pub fn xattr_len(&self) -> u64 {
        ibody_size(self.xattr_icount)
    }

    /// Offset behind the xattrs: the inline tail, or where index tables are aligned from.
    #[must_use]
    pub fn body_end(&self) -> u64 {
        self.xattr_offset().saturating_add(self.xattr_len())
    }

    /// Bytes of an inline tail, and the file offset where it starts. `(0, size)` without one.
    #[must_use]
    pub fn inline_tail(&self, block_bits: u8) -> (u64, u64) {
        if self.layout != Layout::FlatInline || self.size == 0 || self.data == Data::None {
            return (0, self.size);
        }
        // The kernel takes the last block, even a full one, from behind the inode.
        let start = (self.size.saturating_sub(1) >> block_bits) << block_bits;
        (self.size.saturating_sub(start), start)
    }
}
