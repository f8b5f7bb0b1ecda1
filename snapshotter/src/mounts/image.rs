//! What has to be known of an image before a kernel sees it: its block size and whether all of it is there.
//!
//! This is no validation of the structure. The kernel mounts a truncated image without a word and answers
//! EIO whenever a missing block is touched, so sizes are compared here.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};

use erolith_mkfs::format::{
    DeviceSlot, MAX_BLOCK_BITS, MIN_BLOCK_BITS, SUPER_MAGIC, SUPER_OFFSET, Superblock, incompat,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{Error, Result};

/// Facts of one image, from its superblock and device table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// log2 of the block size, from 9 to 16.
    pub block_bits: u8,
    /// Bytes of the primary device.
    pub bytes: u64,
    /// Bytes of each extra device, in slot order.
    pub devices: Vec<u64>,
}

/// Reads the superblock and the device table of `image` and compares what they promise with the files there.
/// `name` is what errors call the image.
///
/// Without `devices` an image that has a device table must be flattened: the devices follow in the primary
/// file, where the table says.
///
/// # Errors
/// [`Error::NotErofs`], [`Error::Truncated`], [`Error::Devices`], and [`Error::Read`] when storage fails.
pub fn inspect(name: &str, image: &File, devices: &[File]) -> Result<ImageFacts> {
    let size = size_of_file(name, image)?;
    let superblock = read_superblock(name, image, size)?;
    let block_bits = superblock.blkszbits;
    let bytes = checked_bytes(name, primary_blocks(&superblock), block_bits)?;
    require(name, size, bytes)?;
    let slots = read_slots(name, image, size, &superblock)?;
    if !devices.is_empty() && devices.len() != slots.len() {
        let (slots, given) = (slots.len(), devices.len());
        return Err(Error::Devices { image: name.to_owned(), slots, given });
    }
    let mut facts = ImageFacts { block_bits, bytes, devices: Vec::with_capacity(slots.len()) };
    for (index, slot) in slots.iter().enumerate() {
        let blocks = join48(slot.blocks_lo.get(), slot.blocks_hi.get());
        let start = join48(slot.uniaddr_lo.get(), slot.uniaddr_hi.get());
        let bytes = checked_bytes(name, blocks, block_bits)?;
        facts.devices.push(bytes);
        if let Some(device) = devices.get(index) {
            let name = format!("{name}, device {}", index + 1);
            require(&name, size_of_file(&name, device)?, bytes)?;
        } else if start == 0 {
            let (slots, given) = (slots.len(), 0);
            return Err(Error::Devices { image: name.to_owned(), slots, given });
        } else {
            let end = start.checked_add(blocks).ok_or_else(|| absurd(name))?;
            require(name, size, checked_bytes(name, end, block_bits)?)?;
        }
    }
    Ok(facts)
}

fn read_superblock(name: &str, image: &File, size: u64) -> Result<Superblock> {
    let not = |reason: String| Error::NotErofs { image: name.to_owned(), reason };
    let end = SUPER_OFFSET + size_of::<Superblock>() as u64;
    if size < end {
        return Err(not(format!("{size} bytes hold no superblock")));
    }
    let mut superblock = Superblock::new_zeroed();
    read_at(name, image, superblock.as_mut_bytes(), SUPER_OFFSET)?;
    if superblock.magic.get() != SUPER_MAGIC {
        return Err(not(format!("magic {:#010x} at byte {SUPER_OFFSET}", superblock.magic.get())));
    }
    if !(MIN_BLOCK_BITS..=MAX_BLOCK_BITS).contains(&superblock.blkszbits) {
        return Err(not(format!("block size 2^{}", superblock.blkszbits)));
    }
    Ok(superblock)
}

fn read_slots(
    name: &str,
    image: &File,
    size: u64,
    superblock: &Superblock,
) -> Result<Vec<DeviceSlot>> {
    if superblock.feature_incompat.get() & incompat::DEVICE_TABLE == 0 {
        return Ok(Vec::new());
    }
    let count = usize::from(superblock.extra_devices.get());
    let start = u64::from(superblock.devt_slotoff.get()) * size_of::<DeviceSlot>() as u64;
    let bytes = count * size_of::<DeviceSlot>();
    require(name, size, start + bytes as u64)?;
    let mut table = vec![0; bytes];
    read_at(name, image, &mut table, start)?;
    let slots = table.chunks_exact(size_of::<DeviceSlot>()).map(DeviceSlot::read_from_bytes);
    slots.collect::<Result<_, _>>().map_err(|_| absurd(name))
}

/// The 16 high bits share their field with the root nid, which 48-bit images have elsewhere.
fn primary_blocks(superblock: &Superblock) -> u64 {
    let wide = superblock.feature_incompat.get() & incompat::LAYOUT_48BIT != 0;
    let high =
        if wide && superblock.rootnid_8b.get() != 0 { superblock.rootnid_2b.get() } else { 0 };
    join48(superblock.blocks_lo.get(), high)
}

fn join48(low: u32, high: u16) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn checked_bytes(name: &str, blocks: u64, block_bits: u8) -> Result<u64> {
    blocks
        .checked_mul(1 << block_bits)
        .filter(|&b| b <= i64::MAX as u64)
        .ok_or_else(|| absurd(name))
}

fn absurd(name: &str) -> Error {
    let reason = "sizes that no file can have".to_owned();
    Error::NotErofs { image: name.to_owned(), reason }
}

fn require(name: &str, size: u64, need: u64) -> Result<()> {
    if size < need {
        return Err(Error::Truncated { image: name.to_owned(), size, need });
    }
    Ok(())
}

/// Bytes of a regular file or a block device; anything else is no image.
fn size_of_file(name: &str, file: &File) -> Result<u64> {
    let read = |source| Error::Read { image: name.to_owned(), source };
    let meta = file.metadata().map_err(read)?;
    if meta.is_file() {
        return Ok(meta.len());
    }
    if meta.file_type().is_block_device() {
        return rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).map_err(|e| read(e.into()));
    }
    let reason = "neither a regular file nor a block device".to_owned();
    Err(Error::NotErofs { image: name.to_owned(), reason })
}

fn read_at(name: &str, file: &File, buffer: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(buffer, offset)
        .map_err(|source| Error::Read { image: name.to_owned(), source })
}
