//! The superblock, understood: what the kernel refuses is refused, and derived values are computed once.

use std::io;

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use super::corruption::{Corruption, CorruptionKind, Error};
use crate::codec::Codec;
use crate::format::compression::{
    DEFLATE_WINDOW, DeflateConfig, LZMA_DICT_MAX, LZMA_DICT_MIN, Lz4Config, LzmaConfig,
    PCLUSTER_MAX, ZSTD_WINDOW_BASE, ZSTD_WINDOW_MAX, ZstdConfig,
};
use crate::format::{
    Algorithm, DEVICE_SLOT_SIZE, DeviceSlot, EXTENSION_SLOT_SIZE, MAX_BLOCK_BITS, MIN_BLOCK_BITS,
    SLOT_SIZE, SUPER_MAGIC, SUPER_OFFSET, SuperExtension, Superblock, checksum, compat, incompat,
};
use crate::io::ReadAt;

/// Bit 63 of a nid: the inode is in the metabox.
pub(crate) const NID_METABOX: u64 = 1 << 63;
/// The superblock and its extension must end inside the first 4 KiB.
const SUPER_MAX: u64 = 4096 - SUPER_OFFSET;

/// What the compression configuration records say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compression {
    /// Bitmap of the algorithms announced.
    pub algorithms: u16,
    /// Largest LZ4 pcluster, in blocks.
    pub lz4_max_blocks: u16,
    /// LZMA dictionary, in bytes.
    pub lzma_dict: u32,
    /// Zstandard window, log2 minus 10.
    pub zstd_window: u8,
}

impl Compression {
    /// True when `algorithm` is announced.
    #[must_use]
    pub fn has(&self, algorithm: Algorithm) -> bool {
        self.algorithms & (1 << algorithm as u16) != 0
    }
}

/// One slot of the device table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Free text or a digest, padded with NUL.
    pub tag: [u8; 64],
    /// Size in blocks.
    pub blocks: u64,
    /// Block where it appears in the unified address space; 0 for not mapped.
    pub uniaddr: u64,
}

/// A superblock whose fields were checked, and what follows from them.
#[derive(Debug, Clone)]
pub struct Super {
    /// The fields as they are on disk.
    pub raw: Superblock,
    /// log2 of the block size.
    pub block_bits: u8,
    /// Blocks the image claims; 0 when it does not say.
    pub blocks: u64,
    /// The root directory.
    pub root: u64,
    /// Byte where nid 0 is.
    pub meta_start: u64,
    /// Byte that shared xattr ids are relative to.
    pub xattr_start: u64,
    /// The inode that holds fragments.
    pub packed: Option<u64>,
    /// The inode that holds other inodes.
    pub metabox: Option<u64>,
    /// The device table, in slot order.
    pub devices: Vec<Device>,
    /// Compression parameters.
    pub compression: Compression,
}

impl Super {
    /// Reads and checks the superblock, its extension, the device table and the compression records.
    ///
    /// # Errors
    /// The first [`CorruptionKind`] found, in the order in which the kernel would refuse; what the storage reports.
    pub fn read(image: &dyn ReadAt) -> Result<Self, Error> {
        let raw: Superblock = read_struct(image, SUPER_OFFSET)?;
        check_fields(&raw)?;
        check_sum(image, &raw)?;
        let block_bits = raw.blkszbits;
        let incompat = raw.feature_incompat.get();
        let wide = incompat & incompat::LAYOUT_48BIT != 0 && raw.rootnid_8b.get() != 0;
        let low_blocks = u64::from(raw.blocks_lo.get());
        let (root, blocks) = if wide {
            (raw.rootnid_8b.get(), low_blocks | (u64::from(raw.rootnid_2b.get()) << 32))
        } else {
            (u64::from(raw.rootnid_2b.get()), low_blocks)
        };
        let packed = (incompat & incompat::FRAGMENTS != 0 && raw.packed_nid.get() != 0)
            .then(|| raw.packed_nid.get());
        let mut this = Self {
            raw,
            block_bits,
            blocks,
            root,
            meta_start: u64::from(raw.meta_blkaddr.get()) << block_bits,
            xattr_start: u64::from(raw.xattr_blkaddr.get()) << block_bits,
            packed,
            metabox: None,
            devices: Vec::new(),
            compression: Compression::default(),
        };
        this.metabox = this.read_metabox_nid(image)?;
        if [this.packed, this.metabox].iter().flatten().any(|nid| nid & NID_METABOX != 0) {
            return Err(Corruption::new(CorruptionKind::SuperSpecialNid).at(SUPER_OFFSET).into());
        }
        this.devices = this.read_devices(image)?;
        this.compression = this.read_compression(image)?;
        Ok(this)
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        1 << self.block_bits
    }

    /// True when all bits of `bits` are set in `feature_incompat`.
    #[must_use]
    pub fn has_incompat(&self, bits: u32) -> bool {
        self.raw.feature_incompat.get() & bits == bits
    }

    /// True when all bits of `bits` are set in `feature_compat`.
    #[must_use]
    pub fn has_compat(&self, bits: u32) -> bool {
        self.raw.feature_compat.get() & bits == bits
    }

    /// What decodes the extents of an algorithm.
    pub(crate) fn codec(&self, algorithm: Algorithm) -> Codec {
        let config = &self.compression;
        match algorithm {
            Algorithm::Lz4 => Codec::Lz4 { is_padded: self.has_incompat(incompat::ZERO_PADDING) },
            Algorithm::Lzma => Codec::Lzma { dict_size: config.lzma_dict },
            Algorithm::Deflate => Codec::Deflate,
            Algorithm::Zstd => {
                let log = ZSTD_WINDOW_BASE.saturating_add(config.zstd_window);
                Codec::Zstd { window_size: 1 << log.min(ZSTD_WINDOW_BASE + ZSTD_WINDOW_MAX) }
            }
        }
    }

    /// First byte behind the superblock and its extension.
    #[must_use]
    pub fn end(&self) -> u64 {
        SUPER_OFFSET.saturating_add(super_size(&self.raw))
    }

    /// Byte range of the device table.
    #[must_use]
    pub fn device_table(&self) -> (u64, u64) {
        let start = u64::from(self.raw.devt_slotoff.get()).saturating_mul(DEVICE_SLOT_SIZE);
        let len = (self.devices.len() as u64).saturating_mul(DEVICE_SLOT_SIZE);
        (start, start.saturating_add(len))
    }

    /// Byte offset of an inode inside plain metadata or, for a nid with bit 63, inside the metabox.
    /// `None` when it does not fit 64 bits.
    #[must_use]
    pub fn inode_offset(&self, nid: u64) -> Option<u64> {
        let base = if nid & NID_METABOX == 0 { self.meta_start } else { 0 };
        (nid & !NID_METABOX).checked_mul(SLOT_SIZE)?.checked_add(base)
    }

    /// Number of slots the kernel masks device ids with: ids at or above it wrap.
    #[must_use]
    pub fn device_mask(&self) -> u16 {
        let ids = self.devices.len().saturating_add(1).next_power_of_two();
        u16::try_from(ids.saturating_sub(1)).unwrap_or(u16::MAX)
    }

    fn read_metabox_nid(&self, image: &dyn ReadAt) -> Result<Option<u64>, Error> {
        if !self.has_incompat(incompat::METABOX) {
            return Ok(None);
        }
        if self.raw.sb_extslots == 0 {
            return Err(Corruption::new(CorruptionKind::SuperExtension).at(SUPER_OFFSET).into());
        }
        let extension: SuperExtension =
            read_struct(image, SUPER_OFFSET.saturating_add(size_of::<Superblock>() as u64))?;
        Ok(Some(extension.metabox_nid.get()))
    }

    fn read_devices(&self, image: &dyn ReadAt) -> Result<Vec<Device>, Error> {
        let count = usize::from(self.raw.extra_devices.get());
        if count == 0 || !self.has_incompat(incompat::DEVICE_TABLE) {
            return Ok(Vec::new());
        }
        let start = u64::from(self.raw.devt_slotoff.get()).saturating_mul(DEVICE_SLOT_SIZE);
        let len = (count as u64).saturating_mul(DEVICE_SLOT_SIZE);
        let outside = || Corruption::new(CorruptionKind::DeviceTable).at(start);
        if start.saturating_add(len) > image.size() {
            return Err(outside().into());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| outside())?];
        read_super(image, &mut bytes, start)?;
        let slots = <[DeviceSlot]>::ref_from_bytes(&bytes).map_err(|_| outside())?;
        let high = |hi: u16| u64::from(hi) << 32;
        Ok(slots
            .iter()
            .map(|slot| Device {
                tag: slot.tag,
                blocks: u64::from(slot.blocks_lo.get()) | high(slot.blocks_hi.get()),
                uniaddr: u64::from(slot.uniaddr_lo.get()) | high(slot.uniaddr_hi.get()),
            })
            .collect())
    }

    /// The configuration records, or what stands for them in images without.
    fn read_compression(&self, image: &dyn ReadAt) -> Result<Compression, Error> {
        if !self.has_incompat(incompat::COMPR_CFGS) {
            let lz4 = 1 << Algorithm::Lz4 as u16;
            return Ok(Compression {
                algorithms: lz4,
                lz4_max_blocks: 1,
                ..Compression::default()
            });
        }
        let mut config = Compression { algorithms: self.raw.u1.get(), ..Compression::default() };
        if config.algorithms >> Algorithm::ALL.len() != 0 {
            return Err(Corruption::new(CorruptionKind::ComprConfig)
                .at(SUPER_OFFSET)
                .detail(format_args!("algorithm bitmap {:#x}", config.algorithms))
                .into());
        }
        let (announced, mut offset) = (config, self.end());
        for algorithm in Algorithm::ALL.into_iter().filter(|a| announced.has(*a)) {
            let mut len = U16::ZERO;
            read_super(image, len.as_mut_bytes(), offset)?;
            let record = offset.saturating_add(size_of::<U16>() as u64);
            if !self.read_record(image, &mut config, algorithm, (record, len.get()))? {
                return Err(Corruption::new(CorruptionKind::ComprConfig)
                    .at(offset)
                    .detail(algorithm.name())
                    .into());
            }
            offset = record.saturating_add(u64::from(len.get())).next_multiple_of(4);
        }
        Ok(config)
    }

    /// Takes the record at a byte and of a length over; false when the kernel would refuse it.
    fn read_record(
        &self,
        image: &dyn ReadAt,
        config: &mut Compression,
        algorithm: Algorithm,
        (at, len): (u64, u16),
    ) -> Result<bool, Error> {
        let (used, is_good) = match algorithm {
            Algorithm::Lz4 => {
                let record: Lz4Config = read_struct(image, at)?;
                config.lz4_max_blocks = record.max_pcluster_blocks.get().max(1);
                let largest = u64::from(config.lz4_max_blocks) << self.block_bits;
                (size_of_val(&record), largest <= PCLUSTER_MAX)
            }
            Algorithm::Lzma => {
                let record: LzmaConfig = read_struct(image, at)?;
                config.lzma_dict = record.dict_size.get();
                let is_known = (LZMA_DICT_MIN..=LZMA_DICT_MAX).contains(&config.lzma_dict);
                (size_of_val(&record), is_known && record.format == 0)
            }
            Algorithm::Deflate => {
                let record: DeflateConfig = read_struct(image, at)?;
                (size_of_val(&record), DEFLATE_WINDOW.contains(&record.window_bits))
            }
            Algorithm::Zstd => {
                let record: ZstdConfig = read_struct(image, at)?;
                config.zstd_window = record.window_log;
                let is_known = record.format == 0 && record.window_log <= ZSTD_WINDOW_MAX;
                (size_of_val(&record), is_known)
            }
        };
        Ok(usize::from(len) >= used && is_good)
    }
}

fn super_size(raw: &Superblock) -> u64 {
    (size_of::<Superblock>() as u64)
        .saturating_add(EXTENSION_SLOT_SIZE.saturating_mul(u64::from(raw.sb_extslots)))
}

fn check_fields(raw: &Superblock) -> Result<(), Error> {
    let bad =
        |fault, detail: String| Err(Corruption::new(fault).at(SUPER_OFFSET).detail(detail).into());
    if raw.magic.get() != SUPER_MAGIC {
        return bad(CorruptionKind::SuperMagic, format!("{:#010x}", raw.magic.get()));
    }
    if !(MIN_BLOCK_BITS..=MAX_BLOCK_BITS).contains(&raw.blkszbits) {
        return bad(CorruptionKind::SuperBlockSize, format!("2^{}", raw.blkszbits));
    }
    let unknown = raw.feature_incompat.get() & !incompat::ALL;
    if unknown != 0 {
        return bad(CorruptionKind::SuperIncompat, format!("{unknown:#x}"));
    }
    if raw.dirblkbits != 0 {
        return bad(CorruptionKind::SuperDirBlock, format!("dirblkbits {}", raw.dirblkbits));
    }
    if super_size(raw) > SUPER_MAX {
        return bad(CorruptionKind::SuperExtension, format!("{} slots", raw.sb_extslots));
    }
    if raw.fixed_nsec.get() >= 1_000_000_000 {
        return bad(CorruptionKind::SuperNanoseconds, raw.fixed_nsec.get().to_string());
    }
    Ok(())
}

/// Compares the checksum where the image has one: it covers the rest of the first block, or one whole
/// block where blocks are not larger than 1 KiB.
fn check_sum(image: &dyn ReadAt, raw: &Superblock) -> Result<(), Error> {
    if raw.feature_compat.get() & compat::SB_CHKSUM == 0 {
        return Ok(());
    }
    let block = 1usize << raw.blkszbits;
    let covered = if block > 1024 { block.saturating_sub(1024) } else { block };
    let mut bytes = vec![0; covered];
    read_super(image, &mut bytes, SUPER_OFFSET)?;
    let computed = checksum(&bytes).ok_or(CorruptionKind::SuperShort)?;
    if computed != raw.checksum.get() {
        let detail = format!("stored {:#010x}, computed {computed:#010x}", raw.checksum.get());
        return Err(Corruption::new(CorruptionKind::SuperChecksum)
            .at(SUPER_OFFSET)
            .detail(detail)
            .into());
    }
    Ok(())
}

fn read_struct<T: FromBytes + IntoBytes>(image: &dyn ReadAt, offset: u64) -> Result<T, Error> {
    let mut value = T::new_zeroed();
    read_super(image, value.as_mut_bytes(), offset)?;
    Ok(value)
}

fn read_super(image: &dyn ReadAt, buf: &mut [u8], offset: u64) -> Result<(), Error> {
    let len = buf.len();
    image.read_exact_at(buf, offset).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => {
            Corruption::new(CorruptionKind::SuperShort).at(offset).into()
        }
        _ => Error::Io { device: 0, offset, len, source },
    })
}
